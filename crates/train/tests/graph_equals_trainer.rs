//! What ONNX Runtime computes from the exported graph equals what the trainer computes in plain Rust.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use arrow_array::StringArray;
use common::{table, trained};
use proptest::{collection::vec, option, prelude::*};
use serde_json::json;
use tempfile::tempdir;
use wattle_core::Datatype;
use wattle_engine::{Data, Tensor, onnx::OnnxModel};
use wattle_store::table::Values;
use wattle_train::{
    Error,
    encode::{Classes, Feature, Target},
    export::export,
    predictor::{Prediction, Predictor},
};

/// How far the two may be apart, relative to the sizes of what is summed.
const TOLERANCE: f64 = 1e-12;

/// Probabilities below this may have lost their digits, or be zero: they leave the range of normal numbers.
const VANISHING: f64 = 1e-300;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    Number,
    Classes { count: usize, texts: bool },
}

#[derive(Debug, Clone)]
struct Case {
    numbers: Vec<Vec<Option<f64>>>,
    categories: Vec<Vec<Option<String>>>,
    wanted: Wanted,
    noise: Vec<f64>,
    standardize: bool,
    intercept: bool,
    seed: u64,
    asked_numbers: Vec<f64>,
    asked_categories: Vec<Option<String>>,
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![-10.0..10.0, Just(0.0), -1e6..1e6, (-50..50_i32).prop_map(f64::from)]
}

fn category() -> impl Strategy<Value = String> {
    // Commas, quotes and letters beyond ASCII must pass through the file and the graph; the first is no number.
    prop::sample::select(vec!["a", "b", "New Zealand", "Österreich", "x,\"y\"", "企鹅", "c=d"]).prop_map(str::to_owned)
}

fn case() -> impl Strategy<Value = Case> {
    let wanted = prop_oneof![
        Just(Wanted::Number),
        (2..5_usize, any::<bool>()).prop_map(|(count, texts)| Wanted::Classes { count, texts }),
    ];
    (10..60_usize, 0..4_usize, 0..3_usize).prop_flat_map(move |(rows, numbers, categories)| {
        // A table needs a column to predict from.
        let numbers = if numbers + categories == 0 { 1 } else { numbers };
        // Columns without any gap forbid them in the signature; proptest wants a share above 0.
        let gaps = prop_oneof![Just(1e-6), Just(0.2)];
        let gappy = move |share: f64| option::weighted(1.0 - share, number());
        (
            vec(gaps.clone().prop_flat_map(move |share| vec(gappy(share), rows)), numbers),
            vec(gaps.prop_flat_map(move |share| vec(option::weighted(1.0 - share, category()), rows)), categories),
            wanted.clone(),
            vec(-1.0..1.0_f64, rows),
            any::<bool>(),
            any::<bool>(),
            0..1000_u64,
            vec(number(), 24),
            vec(option::weighted(0.8, prop_oneof![category(), Just("unknown".to_owned())]), 24),
        )
            .prop_map(
                |(
                    numbers,
                    categories,
                    wanted,
                    noise,
                    standardize,
                    intercept,
                    seed,
                    asked_numbers,
                    asked_categories,
                )| {
                    Case {
                        numbers,
                        categories,
                        wanted,
                        noise,
                        standardize,
                        intercept,
                        seed,
                        asked_numbers,
                        asked_categories,
                    }
                },
            )
    })
}

impl Case {
    fn csv(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let numbers = (0..self.numbers.len()).map(|column| format!("number {column}"));
        let categories = (0..self.categories.len()).map(|column| format!("categories {column}"));
        let mut csv = numbers.chain(categories).chain(["target".to_owned()]).collect::<Vec<_>>().join(",") + "\n";
        for (row, noise) in self.noise.iter().enumerate() {
            for column in &self.numbers {
                csv += &column[row].map_or(String::new(), |value| value.to_string());
                csv += ",";
            }
            for column in &self.categories {
                csv += &column[row].as_deref().map_or(String::new(), quoted);
                csv += ",";
            }
            let sum: f64 = self.numbers.iter().filter_map(|column| column[row]).sum();
            csv += &match self.wanted {
                Wanted::Number => (sum * 0.5 + noise).to_string(),
                Wanted::Classes { count, texts } => {
                    let class = (row + usize::from(*noise > 0.5)) % count;
                    if texts { format!("class {class}") } else { class.to_string() }
                }
            };
            csv += "\n";
        }
        csv
    }

    /// Columns to ask about, with gaps where the signature allows them, and with categories that were never seen.
    fn question(&self, predictor: &Predictor) -> Vec<Values> {
        let rows = 8;
        predictor
            .encoder
            .features
            .iter()
            .enumerate()
            .map(|(place, feature)| match feature {
                Feature::Number(feature) => {
                    let value = |row: usize| {
                        let value = self.asked_numbers[(place * 7 + row) % self.asked_numbers.len()];
                        if feature.missing && row.is_multiple_of(3) { f64::NAN } else { value }
                    };
                    Values::Numbers((0..rows).map(value).collect())
                }
                Feature::Category(feature) => {
                    let value = |row: usize| {
                        let value = self.asked_categories[(place * 5 + row) % self.asked_categories.len()].as_deref();
                        if feature.missing { value } else { Some(value.unwrap_or("other")) }
                    };
                    Values::Categories((0..rows).map(value).collect::<StringArray>())
                }
            })
            .collect()
    }
}

fn tensors(predictor: &Predictor, columns: &[Values]) -> Vec<Tensor> {
    let tensor = |(feature, values): (&Feature, &Values)| {
        let data = match values {
            Values::Numbers(values) => Data::Fp64(values.clone().into()),
            Values::Categories(values) => {
                Data::Bytes(values.iter().map(|value| value.unwrap_or_default().to_owned()).collect())
            }
        };
        Tensor::new(feature.name(), vec![values.len(), 1], data).unwrap()
    };
    predictor.encoder.features.iter().zip(columns).map(tensor).collect()
}

/// For each row, the sum of the absolute terms of the greatest linear function: rounding is relative to it.
fn sizes(predictor: &Predictor, columns: &[Values]) -> Vec<f64> {
    let width = predictor.encoder.width();
    let rows = columns[0].len();
    let mut encoded = vec![0.0; rows * width];
    predictor.encoder.encode(columns, 0..rows, &mut encoded).unwrap();
    let size = |row: &[f64]| {
        let terms = predictor.weights.chunks(width).zip(&predictor.intercepts).map(|(weights, intercept)| {
            weights.iter().zip(row).map(|(weight, value)| (weight * value).abs()).sum::<f64>() + intercept.abs()
        });
        terms.fold(1e-300, f64::max)
    };
    encoded.chunks(width).map(size).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_graph_equals_the_trainer(case in case()) {
        let folder = tempdir().unwrap();
        let table = table(folder.path(), &case.csv());
        let algorithm = if case.wanted == Wanted::Number { "linear-regression" } else { "logistic-regression" };
        let keys = json!({
            "algorithm": algorithm, "target": "target", "l2": 0.01, "iterations": 15, "threads": 1,
            "standardize": case.standardize, "intercept": case.intercept, "seed": case.seed,
        });
        let trained = match trained(&table, keys, folder.path()) {
            Ok(trained) => trained,
            // A column may have no value at all, and the target may not vary.
            Err(Error::Invalid(_)) => return Err(TestCaseError::reject("not a table to train on")),
            Err(error) => panic!("{error}"),
        };
        let predictor = trained.predictor;
        let exported = export(&predictor, algorithm, "target");
        let path = folder.path().join("model.onnx");
        fs::write(&path, &exported.bytes).unwrap();
        let model = OnnxModel::load(&path, 1).unwrap();

        let columns = case.question(&predictor);
        let tensors = tensors(&predictor, &columns);
        for (tensor, spec) in tensors.iter().zip(&exported.signature.inputs) {
            prop_assert!(tensor.check(spec).is_ok(), "{:?}", tensor.check(spec));
        }
        let outputs = model.run(&tensors).unwrap();
        let sizes = sizes(&predictor, &columns);
        match predictor.predict(&columns).unwrap() {
            Prediction::Numbers(numbers) => {
                let Data::Fp64(computed) = &outputs[0].data else { panic!("{outputs:?}") };
                prop_assert_eq!(&outputs[0].shape, &[numbers.len(), 1]);
                for ((number, computed), size) in numbers.iter().zip(computed.iter()).zip(&sizes) {
                    prop_assert!((number - computed).abs() <= TOLERANCE * size, "{number:e} {computed:e}");
                }
            }
            Prediction::Classes { classes, probabilities } => {
                let Target::Classes(names) = &predictor.target else { panic!("no classes") };
                let Data::Fp64(computed) = &outputs[1].data else { panic!("{outputs:?}") };
                prop_assert_eq!(&outputs[1].shape, &[classes.len(), names.len()]);
                for (place, (probability, computed)) in probabilities.iter().zip(computed.iter()).enumerate() {
                    // A probability's relative error is its score's absolute error.
                    let bound = TOLERANCE * sizes[place / names.len()].max(1.0) * probability + VANISHING;
                    prop_assert!((probability - computed).abs() <= bound, "{probability:e} {computed:e}");
                }
                for (row, class) in classes.iter().enumerate() {
                    let of_row = &probabilities[row * names.len()..(row + 1) * names.len()];
                    let rivals = of_row.iter().filter(|rival| **rival > of_row[*class] * (1.0 - 1e-9)).count();
                    if rivals > 1 {
                        continue;
                    }
                    match (names, &outputs[0].data) {
                        (Classes::Numbers(names), Data::Fp64(computed)) => {
                            prop_assert_eq!(names[*class], computed[row]);
                        }
                        (Classes::Texts(names), Data::Bytes(computed)) => {
                            prop_assert_eq!(&names[*class], &computed[row]);
                        }
                        (names, computed) => panic!("{names:?} {computed:?}"),
                    }
                }
            }
        }
        prop_assert_eq!(exported.signature.outputs.last().unwrap().datatype, Datatype::Fp64);
    }
}
