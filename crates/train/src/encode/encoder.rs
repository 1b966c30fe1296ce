use std::ops::Range;

use arrow_array::Array;
use serde::{Deserialize, Serialize};
use wattle_store::table::Values;

use crate::{Error, Result};

/// How raw columns become rows of numbers. The graph that is exported computes the same.
///
/// The numbers come first, in the order of their features, then a column for every category of every feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encoder {
    /// The raw columns, in the order of the model's inputs.
    pub features: Vec<Feature>,
}

/// One raw column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Feature {
    /// A column of numbers.
    Number(NumberFeature),
    /// A column of categories.
    Category(CategoryFeature),
}

/// A number x becomes (x − shift) / scale, where a missing x is the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberFeature {
    /// The column's name.
    pub name: String,
    /// What stands for a missing value: the mean of the training rows.
    pub mean: f64,
    /// The mean again if features are standardised, else 0.
    pub shift: f64,
    /// The standard deviation if features are standardised and the column varies, else 1.
    pub scale: f64,
    /// Whether values were missing in the data set.
    pub missing: bool,
}

/// A category becomes one column for each category: 1 in its own, 0 in the others, and 0 in all if it is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryFeature {
    /// The column's name.
    pub name: String,
    /// The categories of the training rows, ascending. The empty text stands for a missing one, if there were any.
    pub categories: Vec<String>,
    /// Whether values were missing in the data set.
    pub missing: bool,
}

impl Feature {
    /// The raw column's name.
    pub fn name(&self) -> &str {
        match self {
            Feature::Number(feature) => &feature.name,
            Feature::Category(feature) => &feature.name,
        }
    }
}

impl Encoder {
    /// Columns of an encoded row.
    pub fn width(&self) -> usize {
        self.numbers().count() + self.categories().map(|feature| feature.categories.len()).sum::<usize>()
    }

    /// The features that are numbers, in the order of their encoded columns.
    pub fn numbers(&self) -> impl Iterator<Item = &NumberFeature> {
        self.features.iter().filter_map(|feature| match feature {
            Feature::Number(feature) => Some(feature),
            Feature::Category(_) => None,
        })
    }

    /// The features that are categories, in the order of their encoded columns.
    pub fn categories(&self) -> impl Iterator<Item = &CategoryFeature> {
        self.features.iter().filter_map(|feature| match feature {
            Feature::Number(_) => None,
            Feature::Category(feature) => Some(feature),
        })
    }

    /// The names of the encoded columns: `mass`, `island=Biscoe`.
    pub fn encoded_names(&self) -> Vec<String> {
        let numbers = self.numbers().map(|feature| feature.name.clone());
        let categories = self
            .categories()
            .flat_map(|feature| feature.categories.iter().map(move |category| format!("{}={category}", feature.name)));
        numbers.chain(categories).collect()
    }

    /// Encodes some rows of raw columns, which are in the order of the features, into `encoded`, row after row.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the columns are not those of the features.
    pub fn encode(&self, columns: &[Values], rows: Range<usize>, encoded: &mut [f64]) -> Result<()> {
        let width = self.width();
        let encoded = &mut encoded[..rows.len() * width];
        if columns.len() != self.features.len() {
            let (given, wanted) = (columns.len(), self.features.len());
            return Err(Error::Invalid(format!("{given} columns were given, and the model takes {wanted}")));
        }
        let mut number = 0;
        let mut category = self.numbers().count();
        for (feature, values) in self.features.iter().zip(columns) {
            match (feature, values) {
                (Feature::Number(feature), Values::Numbers(values)) => {
                    let cells = encoded.iter_mut().skip(number).step_by(width);
                    for (cell, value) in cells.zip(&values[rows.clone()]) {
                        let value = if value.is_nan() { feature.mean } else { *value };
                        *cell = (value - feature.shift) / feature.scale;
                    }
                    number += 1;
                }
                (Feature::Category(feature), Values::Categories(values)) => {
                    for (cells, row) in encoded.chunks_exact_mut(width).zip(rows.clone()) {
                        let cells = &mut cells[category..category + feature.categories.len()];
                        cells.fill(0.0);
                        let value = if values.is_null(row) { "" } else { values.value(row) };
                        if let Ok(place) = feature.categories.binary_search_by(|known| known.as_str().cmp(value)) {
                            cells[place] = 1.0;
                        }
                    }
                    category += feature.categories.len();
                }
                _ => {
                    return Err(Error::Invalid(format!("the column {:?} is not of the model's kind", feature.name())));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_array::StringArray;

    use super::*;

    #[test]
    fn numbers_come_first_and_gaps_and_unknown_categories_have_their_places() {
        let island = CategoryFeature {
            name: "island".into(),
            categories: vec![String::new(), "Biscoe".into(), "Dream".into()],
            missing: true,
        };
        let mass = NumberFeature { name: "mass".into(), mean: 4.0, shift: 4.0, scale: 2.0, missing: true };
        let encoder = Encoder { features: vec![Feature::Category(island), Feature::Number(mass)] };
        assert_eq!(encoder.encoded_names(), ["mass", "island=", "island=Biscoe", "island=Dream"]);
        let islands = StringArray::from(vec![Some("left out"), Some("Dream"), None, Some("Atlantis")]);
        let columns = [Values::Categories(islands), Values::Numbers(vec![0.0, 8.0, f64::NAN, 2.0])];
        let mut encoded = vec![f64::NAN; 12];
        encoder.encode(&columns, 1..4, &mut encoded).unwrap();
        assert_eq!(encoded, [2.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0]);
        assert!(encoder.encode(&columns[..1], 1..4, &mut encoded).is_err());
        assert!(encoder.encode(&[columns[1].clone(), columns[0].clone()], 1..4, &mut encoded).is_err());
    }
}
