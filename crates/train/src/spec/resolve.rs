use std::{collections::HashSet, num::NonZero, thread};

use serde::{Deserialize, Serialize};
use wattle_core::{ModelReference, Name, Schema};
use wattle_store::table::MAX_COLUMNS;

use super::{Algorithm, ClassWeights, Memory, OptimizerName, ScheduleName, TrainingSpec};
use crate::{
    Error, Result, encode,
    optimise::{GdOptions, LbfgsOptions, Method, Schedule, SgdOptions},
};

const MAX_THREADS: usize = 1024;

/// A training job with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ResolvedSpec {
    /// What to train.
    pub algorithm: Algorithm,
    /// The data set.
    pub data: Name,
    /// The column to predict.
    pub target: String,
    /// The columns to predict it from.
    pub features: Features,
    /// The name of the model.
    pub name: Name,
    /// How to minimise the loss.
    pub optimizer: Method,
    /// The weight of the sum of the coefficients' absolute values.
    pub l1: f64,
    /// The weight of half the sum of the coefficients' squares.
    pub l2: f64,
    /// Whether numbers are scaled to mean 0 and standard deviation 1 first.
    pub standardize: bool,
    /// How much a row of each class counts; `None` when all count the same.
    pub class_weights: Option<ClassWeights>,
    /// The part of the rows that is held out, from 0 to 0.5.
    pub validation: f64,
    /// Iterations or epochs without a smaller loss on the held-out rows; `None` for no early stopping.
    pub early_stopping: Option<u64>,
    /// Decides which rows are held out and in which order the others come.
    pub seed: u64,
    /// Whether the model has an intercept.
    pub intercept: bool,
    /// Threads at most.
    pub threads: usize,
    /// Memory for the encoded rows, in bytes; what does not fit goes to the disk.
    pub memory: Memory,
    /// The model version that this one comes after.
    pub parent: Option<ModelReference>,
}

/// The columns to predict from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// All but the target.
    All,
    /// These.
    Named(Vec<String>),
}

impl TrainingSpec {
    /// Decides what was left open.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value out of its range, and for a key that the chosen optimiser or algorithm has no use
    /// for: whoever wrote it meant something else.
    pub fn resolve(&self) -> Result<ResolvedSpec> {
        let data = parse::<Name>("data", &self.data)?;
        let name = match &self.name {
            Some(name) => parse("name", name)?,
            None => default_name(&data, self.algorithm),
        };
        if self.algorithm == Algorithm::LinearRegression && self.class_weights.is_some() {
            return Err(Error::Invalid(
                "linear-regression has no classes: leave out \"class-weights\", or use logistic-regression".into(),
            ));
        }
        let validation = within("validation", self.validation, 0.2, 0.0..=0.5)?;
        if self.early_stopping.is_some() && validation == 0.0 {
            return Err(Error::Invalid(
                "\"early-stopping\" watches the held-out rows, and there are none: set \"validation\" above 0".into(),
            ));
        }
        if let Some(ClassWeights::Each(weights)) = &self.class_weights
            && let Some((class, weight)) = weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight > 0.0))
        {
            return Err(Error::Invalid(format!("the weight of class {class:?} is {weight}: use one above 0")));
        }
        let available = || thread::available_parallelism().map_or(1, NonZero::get);
        Ok(ResolvedSpec {
            algorithm: self.algorithm,
            data,
            target: self.target.clone(),
            features: self.features()?,
            name,
            optimizer: self.optimiser()?,
            l1: within("l1", self.l1, 0.0, 0.0..=f64::MAX)?,
            l2: within("l2", self.l2, default_l2(self.algorithm), 0.0..=f64::MAX)?,
            standardize: self.standardize.unwrap_or(true),
            class_weights: self.class_weights.clone(),
            validation,
            early_stopping: self.early_stopping.map(|patience| at_least_one("early-stopping", patience)).transpose()?,
            seed: self.seed.unwrap_or(0),
            intercept: self.intercept.unwrap_or(true),
            threads: within("threads", self.threads, available(), 1..=MAX_THREADS)?,
            memory: self.memory.unwrap_or_else(Memory::half_of_available),
            parent: self.parent.clone(),
        })
    }

    fn features(&self) -> Result<Features> {
        let Some(names) = &self.features else { return Ok(Features::All) };
        if names.is_empty() {
            return Err(Error::Invalid(
                "\"features\" is empty: name at least one column, or leave it out for all but the target".into(),
            ));
        }
        if names.len() > MAX_COLUMNS {
            return Err(Error::Invalid(format!(
                "\"features\" names {} columns, and a table has at most {MAX_COLUMNS}: name fewer, or leave it out for all but the target",
                names.len()
            )));
        }
        if names.contains(&self.target) {
            return Err(Error::Invalid(format!("{:?} is the target: it cannot be a feature too", self.target)));
        }
        let mut seen = HashSet::with_capacity(names.len());
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Error::Invalid(format!("the feature {twice:?} is named twice: name it once")));
        }
        Ok(Features::Named(names.clone()))
    }

    fn optimiser(&self) -> Result<Method> {
        let method = self.optimizer.unwrap_or(OptimizerName::Lbfgs);
        let uses: &[&str] = match method {
            OptimizerName::Lbfgs => &["iterations"],
            OptimizerName::Gd => &["learning-rate", "iterations"],
            OptimizerName::Sgd => &["learning-rate", "epochs", "batch-size", "momentum", "schedule"],
        };
        let given = [
            ("learning-rate", self.learning_rate.is_some()),
            ("iterations", self.iterations.is_some()),
            ("epochs", self.epochs.is_some()),
            ("batch-size", self.batch_size.is_some()),
            ("momentum", self.momentum.is_some()),
            ("schedule", self.schedule.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !uses.contains(key)) {
            let owners = match *key {
                "learning-rate" => "gd and sgd",
                "iterations" => "lbfgs and gd",
                _ => "sgd",
            };
            return Err(Error::Invalid(format!(
                "{key:?} belongs to {owners}, not to {method}: leave it out, or choose another \"optimizer\" (with {method}: {})",
                uses.join(", ")
            )));
        }
        let tolerance = |default| within("tolerance", self.tolerance, default, 0.0..=1.0);
        let iterations = |default| at_least_one("iterations", self.iterations.unwrap_or(default));
        Ok(match method {
            OptimizerName::Lbfgs => {
                let default = LbfgsOptions::default();
                Method::Lbfgs(LbfgsOptions {
                    iterations: iterations(default.iterations)?,
                    tolerance: tolerance(default.tolerance)?,
                    ..default
                })
            }
            OptimizerName::Gd => {
                let default = GdOptions::default();
                Method::Gd(GdOptions {
                    learning_rate: self.learning_rate(default.learning_rate)?,
                    iterations: iterations(default.iterations)?,
                    tolerance: tolerance(default.tolerance)?,
                })
            }
            OptimizerName::Sgd => {
                let default = SgdOptions::default();
                let epochs = at_least_one("epochs", self.epochs.unwrap_or(default.epochs))?;
                Method::Sgd(SgdOptions {
                    learning_rate: self.learning_rate(default.learning_rate)?,
                    epochs,
                    batch_size: within("batch-size", self.batch_size, default.batch_size, 1..=1 << 20)?,
                    // At 1 the steps would never fade.
                    momentum: within("momentum", self.momentum, default.momentum, 0.0..=0.999_999)?,
                    schedule: schedule(self.schedule.unwrap_or(ScheduleName::Constant), epochs),
                    tolerance: tolerance(default.tolerance)?,
                })
            }
        })
    }

    fn learning_rate(&self, default: f64) -> Result<f64> {
        let rate = self.learning_rate.unwrap_or(default);
        if rate > 0.0 && rate.is_finite() {
            return Ok(rate);
        }
        Err(Error::Invalid(format!("\"learning-rate\" is {rate}: it must be a number above 0")))
    }
}

/// The schedules with the settings that a job does not name.
fn schedule(name: ScheduleName, epochs: u64) -> Schedule {
    match name {
        ScheduleName::Constant => Schedule::Constant,
        ScheduleName::InverseScaling => Schedule::InverseScaling { power: 0.5 },
        ScheduleName::Cosine => Schedule::Cosine,
        // Three falls, to less than a hundredth.
        ScheduleName::Step => Schedule::Step { every: epochs.div_ceil(4), factor: 0.2 },
    }
}

impl ResolvedSpec {
    /// Checks what the data set's columns alone can tell: whether those that the job names are there, and of the right
    /// kind.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the column, and the nearest for an unknown one.
    pub fn check_columns(&self, schema: &Schema) -> Result<()> {
        encode::check_columns(schema, self)
    }
}

/// Without a penalty, classes that a plane separates would drive the coefficients of logistic regression without end.
fn default_l2(algorithm: Algorithm) -> f64 {
    match algorithm {
        Algorithm::LinearRegression => 0.0,
        Algorithm::LogisticRegression => 1e-3,
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(key: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| Error::Invalid(format!("invalid {key:?}: {error}")))
}

fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: Option<T>,
    default: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    let bound =
        if value > *range.end() { format!("at most {}", range.end()) } else { format!("at least {}", range.start()) };
    Err(Error::Invalid(format!("{key:?} is {value}: it must be a number of {bound}")))
}

fn at_least_one(key: &str, value: u64) -> Result<u64> {
    within(key, Some(value), 1, 1..=u64::from(u32::MAX))
}

/// `<data>-<algorithm>`, where the data set's name gives way if the whole would be too long.
fn default_name(data: &Name, algorithm: Algorithm) -> Name {
    let room = Name::MAX_LENGTH - algorithm.as_str().len() - 1;
    let kept = data.as_str().len().min(room);
    let name = format!("{}-{algorithm}", &data.as_str()[..kept]);
    name.parse().unwrap_or_else(|_| data.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use serde_json::{Value, json};

    use super::*;

    fn resolve(keys: &Value) -> Result<ResolvedSpec> {
        let mut spec = json!({"algorithm": "linear-regression", "data": "line", "target": "y"});
        for (key, value) in keys.as_object().unwrap() {
            spec[key] = value.clone();
        }
        TrainingSpec::from_value(spec)?.resolve()
    }

    fn refusal(keys: &Value) -> String {
        resolve(keys).unwrap_err().to_string()
    }

    #[test]
    fn what_was_left_open_is_decided() {
        let spec = resolve(&json!({})).unwrap();
        assert_eq!(spec.name.as_str(), "line-linear-regression");
        assert_eq!(spec.optimizer, Method::Lbfgs(LbfgsOptions::default()));
        assert_eq!((spec.validation, spec.seed, spec.intercept, spec.standardize), (0.2, 0, true, true));
        assert!(spec.threads >= 1 && spec.memory.0 > 0);
        let long = resolve(&json!({"data": "d".repeat(64)})).unwrap().name;
        assert!(long.as_str().len() == 64 && long.as_str().ends_with("-linear-regression"));
    }

    #[test]
    fn the_founding_example_runs() {
        let spec = resolve(&json!({"optimizer": "gd", "learning-rate": 0.01, "iterations": 1000})).unwrap();
        let Method::Gd(options) = spec.optimizer else { panic!("not gradient descent") };
        assert_eq!((options.learning_rate, options.iterations), (0.01, 1000));
    }

    #[test]
    fn a_key_of_another_optimiser_is_refused() {
        let message = refusal(&json!({"epochs": 3}));
        assert!(message.contains("\"epochs\" belongs to sgd, not to lbfgs"), "{message}");
        assert!(refusal(&json!({"learning-rate": 0.1})).contains("belongs to gd and sgd"));
        assert!(refusal(&json!({"optimizer": "sgd", "iterations": 3})).contains("belongs to lbfgs and gd"));
        assert!(refusal(&json!({"optimizer": "gd", "momentum": 0.5})).contains("with gd: learning-rate, iterations"));
        assert!(refusal(&json!({"class-weights": "balanced"})).contains("logistic-regression"));
        assert!(refusal(&json!({"validation": 0, "early-stopping": 3})).contains("above 0"));
    }

    #[test]
    fn ten_thousand_features_are_checked_at_once() {
        let names: Vec<String> =
            (0..MAX_COLUMNS).map(|index| format!("a-feature-with-a-long-name-{index:05}")).collect();
        let started = Instant::now();
        let spec = resolve(&json!({ "features": names })).unwrap();
        assert_eq!(spec.features, Features::Named(names));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }

    #[test]
    fn values_out_of_their_range_are_refused() {
        for (keys, words) in [
            (json!({"validation": 0.6}), "\"validation\" is 0.6: it must be a number of at most 0.5"),
            (json!({"l2": -1}), "at least 0"),
            (json!({"optimizer": "gd", "learning-rate": 0}), "above 0"),
            (json!({"optimizer": "sgd", "momentum": 1}), "at most 0.999999"),
            (json!({"iterations": 0}), "at least 1"),
            (json!({"threads": 0}), "at least 1"),
            (json!({"data": "a/b"}), "invalid \"data\""),
            (json!({"name": "../x"}), "invalid \"name\""),
            (json!({"features": []}), "empty"),
            (json!({"features": ["a", "b", "a"]}), "twice"),
            (json!({"features": ["y"]}), "is the target"),
            (json!({"features": vec!["a"; MAX_COLUMNS + 1]}), "names 10001 columns"),
            (json!({"algorithm": "logistic-regression", "class-weights": {"a": 0}}), "use one above 0"),
        ] {
            let message = refusal(&keys);
            assert!(message.contains(words), "{keys}: {message}");
        }
    }
}
