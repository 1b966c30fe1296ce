//! What a person asks of a training job, and what is meant by it.
//!
//! [`TrainingSpec`] holds the keys of the command line, of `job.toml` and of the API's body, which are the same;
//! [`TrainingSpec::resolve`] decides everything that was left open.

mod memory;
mod resolve;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wattle_core::{ModelReference, nearest};

pub use memory::Memory;
pub use resolve::{Features, ResolvedSpec};
pub use values::{Algorithm, ClassWeights, OptimizerName, ScheduleName};

use crate::{Error, Result};

/// The keys of a training job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainingSpec {
    /// What to train.
    pub algorithm: Algorithm,
    /// The name of the data set.
    pub data: String,
    /// The column to predict.
    pub target: String,
    /// The columns to predict it from; all others if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// The name of the model; made of the data set and the algorithm if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How to minimise the loss; L-BFGS if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerName>,
    /// The length of a step (gd, sgd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Steps at most (lbfgs, gd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Passes over the rows at most (sgd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Rows of a step (sgd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// The part of a step that the next one keeps (sgd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// How the learning rate falls (sgd).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleName>,
    /// The weight of the sum of the coefficients' absolute values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l1: Option<f64>,
    /// The weight of half the sum of the coefficients' squares; 0 for linear, 0.001 for logistic regression if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub l2: Option<f64>,
    /// Whether numbers are scaled to mean 0 and standard deviation 1 first; they are if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardize: Option<bool>,
    /// How much a row of each class counts; all the same if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// The part of the rows that is held out for metrics and early stopping; 0.2 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Stop after so many iterations or epochs without a smaller loss on the held-out rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<u64>,
    /// Stop when the loss or its gradient falls below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Decides which rows are held out and in which order the others come; 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether the model has an intercept; it has if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intercept: Option<bool>,
    /// Threads at most; all of the machine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Memory for the encoded rows; half of what is free to this process if absent. What does not fit goes to the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The model version that this one comes after, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ModelReference>,
}

impl TrainingSpec {
    /// The keys, in the order of the fields.
    pub const KEYS: [&str; 24] = [
        "algorithm",
        "data",
        "target",
        "features",
        "name",
        "optimizer",
        "learning-rate",
        "iterations",
        "epochs",
        "batch-size",
        "momentum",
        "schedule",
        "l1",
        "l2",
        "standardize",
        "class-weights",
        "validation",
        "early-stopping",
        "tolerance",
        "seed",
        "intercept",
        "threads",
        "memory",
        "parent",
    ];

    /// Reads the keys from a JSON object.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the key at fault, and for an unknown key the nearest known one.
    pub fn from_value(value: Value) -> Result<TrainingSpec> {
        let Value::Object(keys) = value else {
            return Err(Error::Invalid(
                "a training job is an object with keys such as algorithm, data and target".into(),
            ));
        };
        TrainingSpec::from_keys(&keys)
    }

    /// Reads the keys from the text of a `job.toml`.
    ///
    /// # Errors
    /// As [`TrainingSpec::from_value`]; text that is not TOML is told with its line.
    pub fn from_toml(text: &str) -> Result<TrainingSpec> {
        let keys: Map<String, Value> =
            toml::from_str(text).map_err(|error| Error::Invalid(format!("not a job file: {error}")))?;
        TrainingSpec::from_keys(&keys)
    }

    fn from_keys(keys: &Map<String, Value>) -> Result<TrainingSpec> {
        if let Some(unknown) = keys.keys().find(|key| !TrainingSpec::KEYS.contains(&key.as_str())) {
            return Err(Error::Invalid(match nearest(unknown, TrainingSpec::KEYS) {
                Some(known) => format!("unknown key {unknown:?}: did you mean {known:?}?"),
                None => format!("unknown key {unknown:?}: use one of {}", TrainingSpec::KEYS.join(", ")),
            }));
        }
        // Whoever writes nan or inf in TOML or in a script sends null in JSON, and does not mean the default.
        if let Some((key, _)) = keys.iter().find(|(_, value)| value.is_null()) {
            return Err(Error::Invalid(format!(
                "invalid {key:?}: write a value (a number must be finite), or leave the key out for its default"
            )));
        }
        if let Some(absent) = ["algorithm", "data", "target"].into_iter().find(|key| !keys.contains_key(*key)) {
            return Err(Error::Invalid(format!("{absent:?} is absent: every training job needs it")));
        }
        let parsed = serde_json::from_value(Value::Object(keys.clone()));
        parsed.map_err(|error| {
            // The parser does not say which key it stumbled over.
            match keys.iter().find_map(|(key, value)| error_of(key, value).map(|error| (key, error))) {
                Some((key, error)) => Error::Invalid(format!("invalid {key:?}: {error}")),
                None => Error::Invalid(format!("invalid training job: {error}")),
            }
        })
    }
}

/// What is wrong with one key's value, in an otherwise right object.
fn error_of(key: &str, value: &Value) -> Option<serde_json::Error> {
    let mut keys: BTreeMap<&str, Value> =
        BTreeMap::from([("algorithm", "linear-regression".into()), ("data", "d".into()), ("target", "t".into())]);
    keys.insert(key, value.clone());
    let object = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    serde_json::from_value::<TrainingSpec>(Value::Object(object)).err()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn with(key: &str, value: Value) -> Value {
        let mut spec = json!({"algorithm": "linear-regression", "data": "line", "target": "y"});
        spec[key] = value;
        spec
    }

    fn refusal(value: Value) -> String {
        TrainingSpec::from_value(value).and_then(|spec| spec.resolve()).unwrap_err().to_string()
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let text = r#"
            algorithm = "logistic-regression"
            data = "penguins"
            target = "species"
            features = ["mass", "island"]
            optimizer = "sgd"
            learning-rate = 0.05
            epochs = 3
            memory = "2GiB"
            parent = "penguins@champion"
            [class-weights]
            Gentoo = 2
        "#;
        let json = json!({
            "algorithm": "logistic-regression", "data": "penguins", "target": "species",
            "features": ["mass", "island"], "optimizer": "sgd", "learning-rate": 0.05, "epochs": 3,
            "memory": 2_147_483_648_u64, "parent": "penguins@champion", "class-weights": {"Gentoo": 2}
        });
        let spec = TrainingSpec::from_toml(text).unwrap();
        assert_eq!(spec, TrainingSpec::from_value(json).unwrap());
        assert_eq!(spec, TrainingSpec::from_value(serde_json::to_value(&spec).unwrap()).unwrap());
        let resolved = spec.resolve().unwrap();
        let read_back = serde_json::from_value(serde_json::to_value(&resolved).unwrap()).unwrap();
        assert_eq!(resolved, read_back);
    }

    #[test]
    fn every_field_has_its_key() {
        let mut spec = TrainingSpec::from_value(with("seed", 1.into())).unwrap();
        spec.features = Some(vec!["x".into()]);
        spec.name = Some("n".into());
        spec.optimizer = Some(OptimizerName::Sgd);
        spec.learning_rate = Some(0.1);
        spec.iterations = Some(1);
        spec.epochs = Some(1);
        spec.batch_size = Some(1);
        spec.momentum = Some(0.0);
        spec.schedule = Some(ScheduleName::Cosine);
        spec.l1 = Some(0.0);
        spec.l2 = Some(0.0);
        spec.standardize = Some(true);
        spec.class_weights = Some(ClassWeights::Balanced);
        spec.validation = Some(0.1);
        spec.early_stopping = Some(3);
        spec.tolerance = Some(0.0);
        spec.intercept = Some(true);
        spec.threads = Some(1);
        spec.memory = Some(Memory(1));
        spec.parent = Some("m:1".parse().unwrap());
        let Value::Object(keys) = serde_json::to_value(&spec).unwrap() else { panic!("not an object") };
        assert_eq!(keys.keys().collect::<Vec<_>>(), TrainingSpec::KEYS.iter().collect::<Vec<_>>());
    }

    #[test]
    fn an_error_names_the_key() {
        assert!(refusal(json!([])).contains("object"));
        assert!(refusal(json!({"algorithm": "linear-regression", "data": "d"})).contains("\"target\" is absent"));
        assert!(refusal(with("learning_rate", 0.1.into())).contains("did you mean \"learning-rate\"?"));
        assert!(refusal(with("zzzz", 0.1.into())).contains("use one of algorithm, data"));
        assert!(refusal(with("l2", "much".into())).starts_with("invalid \"l2\": "));
        assert!(refusal(with("iterations", (-1).into())).starts_with("invalid \"iterations\": "));
        assert!(refusal(with("algorithm", "forest".into())).contains("`logistic-regression`"));
        assert!(refusal(with("memory", "2 potatoes".into())).contains("2GiB"));
        assert!(TrainingSpec::from_toml("a = ").unwrap_err().to_string().contains("line 1"));
        assert!(refusal(with("l2", Value::Null)).starts_with("invalid \"l2\": "));
        assert!(refusal(with("class-weights", json!({"a": null}))).starts_with("invalid \"class-weights\": "));
        assert!(TrainingSpec::from_toml("l2 = nan").unwrap_err().to_string().contains("finite"));
    }
}
