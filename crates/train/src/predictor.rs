//! What a trained model computes, in plain Rust: the trainer's own view, which the exported graph must share.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wattle_store::table::Values;

use crate::{
    Result,
    encode::{Encoder, Target},
    kernel::{Loss, outputs_of},
    metrics::most_probable,
};

/// A linear model over raw columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predictor {
    /// How raw columns become numbers.
    pub encoder: Encoder,
    /// What is predicted.
    pub target: Target,
    /// The weights of the encoded columns: one row, or with three classes and more one for each.
    pub weights: Vec<f64>,
    /// One for each row of weights.
    pub intercepts: Vec<f64>,
}

/// The predictions for some rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction {
    /// A number for each row.
    Numbers(Vec<f64>),
    /// A class for each row.
    Classes {
        /// The number of the most probable class.
        classes: Vec<usize>,
        /// The probability of each class, row after row.
        probabilities: Vec<f64>,
    },
}

impl Predictor {
    /// A predictor with the parameters that an optimiser found: weights row by row, then the intercepts.
    pub fn new(encoder: Encoder, target: Target, mut parameters: Vec<f64>) -> Predictor {
        let intercepts = parameters.split_off(target.loss().rows() * encoder.width());
        Predictor { encoder, target, weights: parameters, intercepts }
    }

    /// The loss that the model was fitted to.
    pub fn loss(&self) -> Loss {
        self.target.loss()
    }

    /// Predicts from raw columns, which are in the order of the encoder's features.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] when the columns are not those of the features.
    pub fn predict(&self, columns: &[Values]) -> Result<Prediction> {
        let rows = columns.first().map_or(0, Values::len);
        let outputs = self.outputs(columns, 0..rows)?;
        let Target::Classes(classes) = &self.target else { return Ok(Prediction::Numbers(outputs)) };
        let classes = outputs.chunks_exact(classes.len()).map(most_probable).collect();
        Ok(Prediction::Classes { classes, probabilities: outputs })
    }

    fn outputs(&self, columns: &[Values], rows: Range<usize>) -> Result<Vec<f64>> {
        let width = self.encoder.width();
        let mut encoded = vec![0.0; rows.len() * width];
        self.encoder.encode(columns, rows, &mut encoded)?;
        let (mut all, mut of_row) = (Vec::new(), Vec::new());
        for row in encoded.chunks_exact(width) {
            let margins: Vec<f64> = self
                .weights
                .chunks_exact(width)
                .zip(&self.intercepts)
                .map(|(weights, intercept)| weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>() + intercept)
                .collect();
            outputs_of(self.loss(), &margins, &mut of_row);
            all.extend_from_slice(&of_row);
        }
        Ok(all)
    }

    /// The coefficients in the units of the raw columns, and the intercepts that belong to them: `{"x": 2.0}` and `1.0`,
    /// or with three classes and more one of either for each class, by its name.
    ///
    /// With (x − shift) / scale for x, w·x is (w / scale)·x − w·shift / scale.
    pub fn in_original_units(&self) -> (Value, Value) {
        let names = self.encoder.encoded_names();
        let rows = self.weights.chunks_exact(names.len()).zip(&self.intercepts);
        let mut rows = rows.map(|(weights, intercept)| {
            let mut coefficients = weights.to_vec();
            let mut intercept = *intercept;
            for (coefficient, feature) in coefficients.iter_mut().zip(self.encoder.numbers()) {
                *coefficient /= feature.scale;
                intercept -= *coefficient * feature.shift;
            }
            let by_name: Map<String, Value> =
                names.iter().cloned().zip(coefficients.into_iter().map(Value::from)).collect();
            (Value::Object(by_name), Value::from(intercept))
        });
        match &self.target {
            Target::Classes(classes) if classes.len() > 2 => {
                let (coefficients, intercepts): (Vec<Value>, Vec<Value>) = rows.unzip();
                let by_class = |values: Vec<Value>| Value::Object(classes.names().into_iter().zip(values).collect());
                (by_class(coefficients), by_class(intercepts))
            }
            _ => rows.next().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_array::StringArray;

    use super::*;
    use crate::encode::{CategoryFeature, Classes, Feature, NumberFeature};

    fn encoder() -> Encoder {
        let x = NumberFeature { name: "x".into(), mean: 3.0, shift: 3.0, scale: 2.0, missing: true };
        let island =
            CategoryFeature { name: "island".into(), categories: vec!["A".into(), "B".into()], missing: false };
        Encoder { features: vec![Feature::Number(x), Feature::Category(island)] }
    }

    fn columns() -> [Values; 2] {
        [Values::Numbers(vec![5.0, f64::NAN]), Values::Categories(StringArray::from(vec!["B", "?"]))]
    }

    #[test]
    fn a_regression_by_hand() {
        let predictor = Predictor::new(encoder(), Target::Number, vec![4.0, 10.0, 20.0, 1.0]);
        // 4·(5−3)/2 + 20 + 1, and the mean in an unknown place: 0 + 0 + 1.
        assert_eq!(predictor.predict(&columns()).unwrap(), Prediction::Numbers(vec![25.0, 1.0]));
        let (coefficients, intercept) = predictor.in_original_units();
        assert_eq!(coefficients, serde_json::json!({"x": 2.0, "island=A": 10.0, "island=B": 20.0}));
        assert_eq!(intercept, -5.0);
    }

    #[test]
    fn classifiers_by_hand() {
        let two = Target::Classes(Classes::Texts(vec!["no".into(), "yes".into()]));
        let predictor = Predictor::new(encoder(), two, vec![0.0, 0.0, 3_f64.ln(), 0.0]);
        let Prediction::Classes { classes, probabilities } = predictor.predict(&columns()).unwrap() else { panic!() };
        assert_eq!(classes, [1, 0]);
        assert!(probabilities.iter().zip([0.25, 0.75, 0.5, 0.5]).all(|(is, wanted)| (is - wanted).abs() < 1e-15));

        let three = Target::Classes(Classes::Numbers(vec![1.0, 2.0, 2.5]));
        let weights = vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2_f64.ln(), 0.0, 0.0, 0.0];
        let predictor = Predictor::new(encoder(), three, weights);
        let Prediction::Classes { classes, probabilities } = predictor.predict(&columns()).unwrap() else { panic!() };
        assert_eq!(classes, [2, 0]);
        assert!(probabilities.iter().zip([0.25, 0.25, 0.5]).all(|(is, wanted)| (is - wanted).abs() < 1e-15));
        assert!(predictor.in_original_units().0["2.5"]["island=B"].as_f64().unwrap() > 0.69);
    }
}
