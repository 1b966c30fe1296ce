use std::collections::BTreeMap;

use arrow_array::Array;
use serde::{Deserialize, Serialize};
use wattle_core::{ColumnKind, Schema, nearest};
use wattle_store::table::{Table, Values};

use super::{MAX_CATEGORIES, Pass, Placed, Split, column_kind};
use crate::{
    Error, Result,
    kernel::Loss,
    spec::{Algorithm, ClassWeights, ResolvedSpec},
};

/// So many classes may be in a table of any size.
const FEW_CLASSES: usize = 10;

/// What is predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// A number.
    Number,
    /// One of these classes.
    Classes(Classes),
}

impl Target {
    /// The loss that a model of it is fitted to.
    pub fn loss(&self) -> Loss {
        match self {
            Target::Number => Loss::SquaredError,
            Target::Classes(classes) if classes.len() == 2 => Loss::Logistic,
            Target::Classes(classes) => Loss::Multinomial { classes: classes.len() },
        }
    }
}

/// The classes of a target, ascending; their places are their numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Classes {
    /// The numbers of a column of numbers.
    Numbers(Vec<f64>),
    /// The texts of a column of categories.
    Texts(Vec<String>),
}

impl Classes {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Classes::Numbers(classes) => classes.len(),
            Classes::Texts(classes) => classes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The classes as texts.
    pub fn names(&self) -> Vec<String> {
        match self {
            Classes::Numbers(classes) => classes.iter().map(f64::to_string).collect(),
            Classes::Texts(classes) => classes.clone(),
        }
    }
}

/// What one reading of the target's column told.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) column: String,
    pub(super) target: Target,
    pub(super) train_rows: u64,
    pub(super) held_out_rows: u64,
    pub(super) skipped_rows: u64,
    /// How much a row of each class counts; `None` when all count the same.
    pub(super) class_weights: Option<Vec<f64>>,
    split: Split,
    /// The classes that only held-out rows would have; their rows stay in training.
    kept: Vec<bool>,
}

impl Survey {
    /// Where each row of a batch goes, the first of which is row `first` of the data set.
    pub(super) fn place(&self, first: u64, target: &Values, placed: &mut Vec<Option<Placed>>) -> Result<()> {
        placed.clear();
        placed.reserve(target.len());
        let place = |(row, target): (usize, f64), class: Option<usize>| {
            let kept = class.is_some_and(|class| self.kept[class]);
            Some(Placed { target, held_out: !kept && self.split.holds_out(first + row as u64) })
        };
        match (target, &self.target) {
            (Values::Numbers(values), Target::Number) => placed.extend(values.iter().enumerate().map(
                |(row, value)| {
                    if value.is_nan() { None } else { place((row, *value), None) }
                },
            )),
            (Values::Numbers(values), Target::Classes(Classes::Numbers(classes))) => {
                placed.extend(values.iter().enumerate().map(|(row, value)| {
                    let class = classes.binary_search_by(|class| class.total_cmp(&normal(*value))).ok()?;
                    place((row, class as f64), Some(class))
                }));
            }
            (Values::Categories(values), Target::Classes(Classes::Texts(classes))) => {
                placed.extend(values.iter().enumerate().map(|(row, value)| {
                    let value = value?;
                    let class = classes.binary_search_by(|class| class.as_str().cmp(value)).ok()?;
                    place((row, class as f64), Some(class))
                }));
            }
            _ => return Err(Error::Internal("the target changed its kind between two readings".into())),
        }
        Ok(())
    }

    /// How much a row counts.
    pub(super) fn weight(&self, placed: &Placed) -> f64 {
        self.class_weights.as_ref().map_or(1.0, |weights| weights[placed.target as usize])
    }
}

/// The kind of the target's column, if the algorithm can predict it.
pub(super) fn check_kind(schema: &Schema, spec: &ResolvedSpec) -> Result<ColumnKind> {
    let kind = column_kind(schema, &spec.target)?;
    if spec.algorithm == Algorithm::LinearRegression && kind == ColumnKind::Category {
        return Err(Error::Invalid(format!(
            "the target {:?} is a column of categories, and linear-regression predicts a number: use logistic-regression",
            spec.target
        )));
    }
    Ok(kind)
}

/// Reads the target's column.
pub(super) fn survey(table: &Table, spec: &ResolvedSpec, pass: &mut Pass<'_>) -> Result<Survey> {
    let kind = check_kind(table.schema(), spec)?;
    let classes = spec.algorithm == Algorithm::LogisticRegression;
    let mut split = Split::new(spec.seed, spec.validation);
    let mut seen = look(table, &spec.target, split, classes, pass)?;
    if seen.usable() == 0 {
        return Err(Error::Invalid(match table.rows() {
            0 => "the data set has no rows: add some".into(),
            _ => format!("the target {:?} has no value in any row: choose another", spec.target),
        }));
    }
    // Small tables may end with no row on one side: the row of the least, or greatest, hash then changes over.
    if spec.validation > 0.0 && seen.usable() >= 2 && (seen.train_rows == 0 || seen.held_out_rows == 0) {
        split = if seen.train_rows == 0 { split.below(seen.hashes.1) } else { split.up_to(seen.hashes.0) };
        pass.done = 0;
        seen = look(table, &spec.target, split, classes, pass)?;
    }
    let target = match (classes, kind) {
        (false, _) => {
            check_range(&spec.target, &seen)?;
            Target::Number
        }
        (true, ColumnKind::Number) => {
            Target::Classes(Classes::Numbers(seen.numbers.keys().map(|order| from_order(*order)).collect()))
        }
        (true, ColumnKind::Category) => Target::Classes(Classes::Texts(seen.texts.keys().cloned().collect())),
    };
    let mut kept = Vec::new();
    let mut class_weights = None;
    if let Target::Classes(classes) = &target {
        if classes.len() < 2 {
            return Err(Error::Invalid(format!(
                "the target {:?} is {:?} in every row: choose one with at least two classes",
                spec.target,
                classes.names().first().map_or("", String::as_str)
            )));
        }
        // Classes of one or two rows each are no classes: nothing could be learnt, or held out to judge it.
        if classes.len() > FEW_CLASSES && classes.len() as u64 > seen.usable() / 2 {
            return Err(Error::Invalid(format!(
                "the target {:?} has {} different values in {} rows, too many to be classes: {}",
                spec.target,
                classes.len(),
                seen.usable(),
                match kind {
                    ColumnKind::Number => "use linear-regression, which predicts a number",
                    ColumnKind::Category => "choose another column, or group its values",
                }
            )));
        }
        // One of the maps is empty: a column has one kind.
        let mut rows = Vec::with_capacity(classes.len());
        for counts in seen.numbers.values().chain(seen.texts.values()) {
            let whole = counts.train == 0;
            let moved = if whole { counts.held_out } else { 0 };
            seen.train_rows += moved;
            seen.held_out_rows -= moved;
            kept.push(whole);
            rows.push(counts.train + moved);
        }
        class_weights = spec.class_weights.as_ref().map(|weights| weigh(weights, classes, &rows)).transpose()?;
    }
    Ok(Survey {
        column: spec.target.clone(),
        target,
        train_rows: seen.train_rows,
        held_out_rows: seen.held_out_rows,
        skipped_rows: seen.skipped_rows,
        class_weights,
        split,
        kept,
    })
}

#[derive(Debug, Default)]
struct Counts {
    train: u64,
    held_out: u64,
}

impl Counts {
    fn add(&mut self, held_out: bool) {
        *(if held_out { &mut self.held_out } else { &mut self.train }) += 1;
    }
}

#[derive(Debug)]
struct Seen {
    train_rows: u64,
    held_out_rows: u64,
    skipped_rows: u64,
    /// The least and the greatest hash of a row with a target.
    hashes: (u64, u64),
    /// The least and the greatest number.
    range: (f64, f64),
    /// The classes of a column of numbers, in an order that integers have.
    numbers: BTreeMap<i64, Counts>,
    /// The classes of a column of categories.
    texts: BTreeMap<String, Counts>,
}

impl Seen {
    fn usable(&self) -> u64 {
        self.train_rows + self.held_out_rows
    }
}

fn look(table: &Table, column: &str, split: Split, classes: bool, pass: &mut Pass<'_>) -> Result<Seen> {
    let mut seen = Seen {
        train_rows: 0,
        held_out_rows: 0,
        skipped_rows: 0,
        hashes: (u64::MAX, 0),
        range: (f64::INFINITY, f64::NEG_INFINITY),
        numbers: BTreeMap::new(),
        texts: BTreeMap::new(),
    };
    let mut row = 0;
    for batch in table.read(&[column])? {
        let batch = batch?;
        let values = batch.first().ok_or_else(|| Error::Internal("a batch without its target".into()))?;
        for index in 0..values.len() {
            let held_out = split.holds_out(row);
            let hash = split.hash(row);
            row += 1;
            let present = match values {
                Values::Numbers(values) => !values[index].is_nan(),
                Values::Categories(values) => !values.is_null(index),
            };
            if !present {
                seen.skipped_rows += 1;
                continue;
            }
            seen.hashes = (seen.hashes.0.min(hash), seen.hashes.1.max(hash));
            *(if held_out { &mut seen.held_out_rows } else { &mut seen.train_rows }) += 1;
            let counts = match values {
                Values::Numbers(values) => {
                    let value = normal(values[index]);
                    seen.range = (seen.range.0.min(value), seen.range.1.max(value));
                    if !classes {
                        continue;
                    }
                    seen.numbers.entry(to_order(value)).or_default()
                }
                Values::Categories(values) => {
                    let text = values.value(index);
                    match seen.texts.get_mut(text) {
                        Some(counts) => {
                            counts.add(held_out);
                            continue;
                        }
                        // Only the first row of a category takes memory.
                        None => seen.texts.entry(text.to_owned()).or_default(),
                    }
                }
            };
            counts.add(held_out);
            if seen.numbers.len().max(seen.texts.len()) > MAX_CATEGORIES {
                return Err(too_many_classes(column, values));
            }
        }
        pass.advance(values.len())?;
    }
    Ok(seen)
}

fn too_many_classes(column: &str, values: &Values) -> Error {
    let instead = match values {
        Values::Numbers(_) => "use linear-regression, or a target with fewer values",
        Values::Categories(_) => "choose a target with fewer",
    };
    Error::Invalid(format!("the target {column:?} has more than {MAX_CATEGORIES} classes: {instead}"))
}

fn check_range(column: &str, seen: &Seen) -> Result<()> {
    let (least, greatest) = seen.range;
    if least == greatest {
        return Err(Error::Invalid(format!("the target {column:?} is {least} in every row: choose one that varies")));
    }
    // Squared errors must stay finite.
    const LARGEST: f64 = 1e150;
    if least < -LARGEST || greatest > LARGEST {
        return Err(Error::Invalid(format!("the target {column:?} holds numbers beyond 1e150: rescale it")));
    }
    Ok(())
}

/// The weight of each class: given, or such that the training rows of every class together weigh the same, and all rows
/// as much as without weights: rows / (classes × rows of the class).
fn weigh(weights: &ClassWeights, classes: &Classes, rows: &[u64]) -> Result<Vec<f64>> {
    let ClassWeights::Each(weights) = weights else {
        let total: u64 = rows.iter().sum();
        return Ok(rows.iter().map(|rows_of| total as f64 / (rows.len() as f64 * *rows_of as f64)).collect());
    };
    let mut by_class = vec![1.0; classes.len()];
    let names = classes.names();
    for (name, weight) in weights {
        let place = match classes {
            Classes::Texts(classes) => classes.iter().position(|class| class == name),
            Classes::Numbers(classes) => {
                name.trim().parse::<f64>().ok().and_then(|number| classes.iter().position(|class| *class == number))
            }
        };
        let Some(place) = place else {
            return Err(Error::Invalid(match nearest(name, names.iter().map(String::as_str)) {
                Some(nearest) => {
                    format!("\"class-weights\" names the unknown class {name:?}: did you mean {nearest:?}?")
                }
                None => format!(
                    "\"class-weights\" names the unknown class {name:?}: the classes are {}",
                    names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ")
                ),
            }));
        };
        by_class[place] = *weight;
    }
    Ok(by_class)
}

/// Zero has one sign among the classes.
fn normal(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value }
}

/// Integers that sort as the numbers do; the transformation is that of `f64::total_cmp`, and its own inverse.
fn to_order(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ (((bits >> 63).cast_unsigned()) >> 1).cast_signed()
}

fn from_order(order: i64) -> f64 {
    f64::from_bits((order ^ (((order >> 63).cast_unsigned()) >> 1).cast_signed()).cast_unsigned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_sort_as_their_orders() {
        let numbers = [f64::MIN, -1.5, -1.0, -1e-300, 0.0, 1e-300, 1.0, f64::MAX];
        assert!(numbers.is_sorted_by(|a, b| to_order(*a) < to_order(*b)));
        assert_eq!(numbers.map(|number| from_order(to_order(number))), numbers);
    }

    #[test]
    fn balanced_classes_weigh_the_same_together() {
        let classes = Classes::Texts(vec!["a".into(), "b".into()]);
        let weights = weigh(&ClassWeights::Balanced, &classes, &[30, 10]).unwrap();
        assert_eq!((weights[0] * 30.0, weights[1] * 10.0), (20.0, 20.0));
    }

    #[test]
    fn weights_are_found_by_text_and_by_number() {
        let numbers = Classes::Numbers(vec![0.0, 1.0]);
        let each = |name: &str| ClassWeights::Each(BTreeMap::from([(name.to_owned(), 3.0)]));
        assert_eq!(weigh(&each("1.0"), &numbers, &[1, 1]).unwrap(), [1.0, 3.0]);
        assert!(weigh(&each("2"), &numbers, &[1, 1]).unwrap_err().to_string().contains("the classes are 0, 1"));
        let texts = Classes::Texts(vec!["Adelie".into(), "Gentoo".into()]);
        assert!(weigh(&each("gento"), &texts, &[1, 1]).unwrap_err().to_string().contains("\"Gentoo\""));
    }
}
