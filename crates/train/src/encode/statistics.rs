use std::collections::HashMap;

use arrow_array::Array;
use wattle_core::ColumnKind;
use wattle_store::table::{Table, Values};

use super::{
    CategoryFeature, Encoder, Feature, MAX_CATEGORIES, MAX_ENCODED_FEATURES, NumberFeature, Pass, Placed, column_kind,
    read, target::Survey,
};
use crate::{
    Error, Result,
    spec::{Features, ResolvedSpec},
};

/// What the training rows tell of the features.
#[derive(Debug)]
pub(super) struct Statistics {
    columns: Vec<(String, Statistic)>,
}

#[derive(Debug)]
enum Statistic {
    Number(Moments),
    Category(Counts),
}

/// Reads the features' columns.
pub(super) fn gather(table: &Table, names: &[&str], survey: &Survey, pass: &mut Pass<'_>) -> Result<Statistics> {
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        columns.push((
            (*name).to_owned(),
            match column_kind(table.schema(), name)? {
                ColumnKind::Number => Statistic::Number(Moments::default()),
                ColumnKind::Category => Statistic::Category(Counts::default()),
            },
        ));
    }
    read(table, survey, names, pass, |values, placed| {
        for ((name, statistic), values) in columns.iter_mut().zip(values) {
            match (statistic, values) {
                (Statistic::Number(moments), Values::Numbers(values)) => moments.add(values, placed),
                (Statistic::Category(counts), Values::Categories(values)) => counts.add(name, values, placed)?,
                _ => return Err(Error::Internal(format!("the column {name:?} changed its kind"))),
            }
        }
        Ok(())
    })?;
    Ok(Statistics { columns })
}

impl Statistics {
    /// The encoder, and the columns without a value that nobody named.
    pub(super) fn encoder(self, spec: &ResolvedSpec) -> Result<(Encoder, Vec<String>)> {
        let mut features = Vec::with_capacity(self.columns.len());
        let mut dropped = Vec::new();
        for (name, statistic) in self.columns {
            let empty = match &statistic {
                Statistic::Number(moments) => moments.count == 0,
                Statistic::Category(counts) => counts.rows.is_empty(),
            };
            match (empty, &spec.features) {
                (true, Features::All) => dropped.push(name),
                (true, Features::Named(_)) => {
                    return Err(Error::Invalid(format!(
                        "the feature {name:?} has no value in the training rows: leave it out"
                    )));
                }
                (false, _) => features.push(statistic.feature(name, spec)?),
            }
        }
        let encoder = Encoder { features };
        if encoder.features.is_empty() {
            return Err(Error::Invalid("no column but the target has a value: add a column to predict it from".into()));
        }
        if encoder.width() > MAX_ENCODED_FEATURES {
            return Err(Error::Invalid(format!(
                "the features become {} columns of numbers, and {MAX_ENCODED_FEATURES} is the most: leave some out with \"features\"",
                encoder.width()
            )));
        }
        Ok((encoder, dropped))
    }
}

impl Statistic {
    fn feature(self, name: String, spec: &ResolvedSpec) -> Result<Feature> {
        Ok(match self {
            Statistic::Number(moments) => {
                let deviation = moments.deviation();
                if !(moments.mean.is_finite() && deviation.is_finite()) {
                    return Err(Error::Invalid(format!(
                        "the numbers of the column {name:?} are too large to be squared: rescale it, or leave it out with \"features\""
                    )));
                }
                // A constant column becomes zero in every row, so that its coefficient stays zero. Without an intercept
                // nothing could take up what centring takes away, so numbers are only scaled.
                let (shift, scale) = match (spec.standardize, spec.intercept, deviation) {
                    (false, ..) | (true, false, 0.0) => (0.0, 1.0),
                    (true, false, deviation) => (0.0, deviation),
                    (true, true, 0.0) => (moments.mean, 1.0),
                    (true, true, deviation) => (moments.mean, deviation),
                };
                Feature::Number(NumberFeature { name, mean: moments.mean, shift, scale, missing: moments.gaps })
            }
            Statistic::Category(counts) => {
                let mut categories: Vec<String> = counts.rows.into_keys().collect();
                if counts.missing > 0 {
                    categories.push(String::new());
                }
                categories.sort_unstable();
                Feature::Category(CategoryFeature { name, categories, missing: counts.gaps })
            }
        })
    }
}

/// Count, mean and squared deviations, merged batch by batch in the order of the rows.
///
/// Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
#[derive(Debug, Default)]
struct Moments {
    /// Training rows with a value.
    count: u64,
    /// Training rows without.
    missing: u64,
    /// Whether any row, also a held-out one, has no value.
    gaps: bool,
    mean: f64,
    /// The sum of the squared deviations from the mean.
    squares: f64,
}

impl Moments {
    fn add(&mut self, values: &[f64], placed: &[Option<Placed>]) {
        self.gaps |= values.iter().zip(placed).any(|(value, placed)| placed.is_some() && value.is_nan());
        let training = |placed: &Option<Placed>| placed.is_some_and(|placed| !placed.held_out);
        let chosen = || values.iter().zip(placed).filter(|(_, placed)| training(placed)).map(|(value, _)| *value);
        let present = || chosen().filter(|value| !value.is_nan());
        let Some(first) = present().next() else {
            self.missing += chosen().count() as u64;
            return;
        };
        // Deviations from the first value: a constant column has the mean that it is made of, to the last bit.
        let (mut count, mut sum) = (0_u64, 0.0);
        for value in present() {
            count += 1;
            sum += value - first;
        }
        self.missing += chosen().count() as u64 - count;
        let mean = first + sum / count as f64;
        let squares: f64 = present().map(|value| (value - mean) * (value - mean)).sum();
        let total = self.count + count;
        let delta = mean - self.mean;
        if self.count == 0 {
            (self.mean, self.squares) = (mean, squares);
        } else {
            let share = count as f64 / total as f64;
            self.mean += delta * share;
            self.squares += squares + delta * delta * (self.count as f64 * share);
        }
        self.count = total;
    }

    /// The standard deviation over all training rows, those without a value counting as the mean, which they will get.
    fn deviation(&self) -> f64 {
        (self.squares / (self.count + self.missing) as f64).sqrt()
    }
}

/// Training rows by category.
#[derive(Debug, Default)]
struct Counts {
    rows: HashMap<String, u64>,
    missing: u64,
    /// Whether any row, also a held-out one, has no value.
    gaps: bool,
}

impl Counts {
    fn add(&mut self, name: &str, values: &arrow_array::StringArray, placed: &[Option<Placed>]) -> Result<()> {
        for (row, placed) in placed.iter().enumerate() {
            let Some(placed) = placed else { continue };
            let missing = values.is_null(row) || values.value(row).is_empty();
            self.gaps |= missing;
            if placed.held_out {
                continue;
            }
            if missing {
                self.missing += 1;
            } else if let Some(count) = self.rows.get_mut(values.value(row)) {
                *count += 1;
            } else if self.rows.len() < MAX_CATEGORIES {
                self.rows.insert(values.value(row).to_owned(), 1);
            } else {
                return Err(Error::Invalid(format!(
                    "the column {name:?} has more than {MAX_CATEGORIES} categories: leave it out with \"features\", or group them in the file"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(rows: usize) -> Vec<Option<Placed>> {
        vec![Some(Placed { target: 0.0, held_out: false }); rows]
    }

    #[test]
    fn moments_do_not_depend_on_where_the_batches_are_cut_but_for_rounding() {
        let values: Vec<f64> = (0..1000).map(|row| 1e6 + f64::from(row * 7919 % 1000)).collect();
        let mut whole = Moments::default();
        whole.add(&values, &placed(1000));
        let mut parts = Moments::default();
        for part in values.chunks(33) {
            parts.add(part, &placed(part.len()));
        }
        // The values are a permutation of 1e6 + 0..1000.
        assert!((whole.mean - 1_000_499.5).abs() < 1e-6 && (parts.mean - whole.mean).abs() < 1e-6);
        let deviation = ((1000.0 * 1000.0 - 1.0) / 12.0_f64).sqrt();
        assert!((whole.deviation() - deviation).abs() < 1e-9 && (parts.deviation() - deviation).abs() < 1e-9);
    }

    #[test]
    fn a_constant_column_has_no_deviation_at_all() {
        let mut moments = Moments::default();
        for rows in [1, 77, 65_536, 3] {
            moments.add(&vec![0.1; rows], &placed(rows));
        }
        assert_eq!((moments.mean, moments.deviation()), (0.1, 0.0));
    }

    #[test]
    fn gaps_count_as_the_mean_and_held_out_rows_not_at_all() {
        let mut moments = Moments::default();
        let mut rows = placed(5);
        rows[3] = None;
        rows[4] = Some(Placed { target: 0.0, held_out: true });
        moments.add(&[1.0, 3.0, f64::NAN, 100.0, 100.0], &rows);
        assert_eq!((moments.mean, moments.count, moments.missing, moments.gaps), (2.0, 2, 1, true));
        assert!((moments.deviation() - (2.0_f64 / 3.0).sqrt()).abs() < 1e-15);
    }
}
