//! Finds the parameters of a linear model: gradient descent, mini-batch SGD, L-BFGS.
//!
//! The objective is the weighted mean of the rows' losses plus l2/2·‖w‖² + l1·‖w‖₁. The intercepts are never penalised.

mod gd;
mod lbfgs;
mod line_search;
mod penalty;
mod run;
mod schedule;
mod sgd;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use run::Run;
pub use schedule::Schedule;

use crate::kernel::Loss;
use crate::runner::MapReduce;
use crate::shards::Shards;
use crate::{Error, Result};

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Problem {
    /// What a row's error costs.
    pub loss: Loss,
    /// Columns of the matrix, without the intercept.
    pub features: usize,
    /// Whether there is an intercept; its parameter stays 0 if not.
    pub intercept: bool,
    /// The weight of the sum of the absolute weights.
    pub l1: f64,
    /// The weight of half the sum of the squared weights.
    pub l2: f64,
}

impl Problem {
    /// How many parameters: weights row by row (one row, or one a class), then the intercepts.
    pub fn parameters(&self) -> usize {
        self.loss.parameters(self.features)
    }

    /// How many of the parameters are weights.
    pub fn weights(&self) -> usize {
        self.loss.rows() * self.features
    }
}

/// How the objective is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Optimiser {
    /// The algorithm with its settings.
    pub method: Method,
    /// Stops where the validation rows gain nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Decides the order of the batches.
    #[serde(default)]
    pub seed: u64,
}

impl From<Method> for Optimiser {
    fn from(method: Method) -> Self {
        Self { method, early_stopping: None, seed: 0 }
    }
}

/// The algorithms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// Full-batch gradient descent.
    Gd(GdOptions),
    /// Mini-batch stochastic gradient descent with momentum.
    Sgd(SgdOptions),
    /// Limited-memory BFGS; its orthant-wise variant where there is an l1 penalty.
    Lbfgs(LbfgsOptions),
}

/// Settings of gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct GdOptions {
    /// The length of a step, as a multiple of the gradient.
    pub learning_rate: f64,
    /// Steps at most.
    pub iterations: u64,
    /// Stops once the gradient is this small relative to where it began; 0 never does.
    pub tolerance: f64,
}

impl Default for GdOptions {
    fn default() -> Self {
        Self { learning_rate: 0.1, iterations: 1000, tolerance: 1e-10 }
    }
}

/// Settings of stochastic gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct SgdOptions {
    /// The length of the first step, as a multiple of the batch's mean gradient.
    pub learning_rate: f64,
    /// Passes over the rows.
    pub epochs: u64,
    /// Rows of a batch.
    pub batch_size: usize,
    /// How much of the last step is added to the next; from 0 up to, not including, 1.
    pub momentum: f64,
    /// How the learning rate falls.
    pub schedule: Schedule,
    /// Stops once an epoch changes the mean loss by less than this, relative to it; 0 never does.
    pub tolerance: f64,
}

impl Default for SgdOptions {
    fn default() -> Self {
        Self {
            learning_rate: 0.01,
            epochs: 20,
            batch_size: 256,
            momentum: 0.9,
            schedule: Schedule::Constant,
            tolerance: 0.0,
        }
    }
}

/// Settings of L-BFGS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct LbfgsOptions {
    /// Steps at most.
    pub iterations: u64,
    /// How many past steps the curvature is estimated from.
    pub history: usize,
    /// Stops once the gradient is this small relative to where it began; 0 goes on until no step helps.
    pub tolerance: f64,
}

impl Default for LbfgsOptions {
    fn default() -> Self {
        Self { iterations: 1000, history: 10, tolerance: 1e-9 }
    }
}

/// When to stop for the validation rows' sake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct EarlyStopping {
    /// Iterations, or epochs, without a gain before it stops.
    pub patience: u64,
    /// A gain is a fall of the validation loss by more than this.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { patience: 5, min_delta: 0.0 }
    }
}

/// Where a fit stands after an iteration, or an epoch of SGD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Iterations done.
    pub iteration: u64,
    /// Iterations at most.
    pub of: u64,
    /// The objective on the training rows, with penalties; of SGD, its mean over the epoch as it went.
    pub loss: f64,
    /// The mean loss of the validation rows, without penalties.
    pub validation_loss: Option<f64>,
    /// Training rows read a second, since the start.
    pub rows_per_second: f64,
    /// The greatest absolute component of the gradient; SGD never knows it.
    pub gradient_norm: Option<f64>,
}

/// Why a fit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// The gradient, or the change of the loss, fell below the tolerance.
    Converged,
    /// No further step lowers the objective: the precision of the numbers is exhausted.
    NoProgress,
    /// All iterations, or epochs, were done.
    Iterations,
    /// The validation rows gained nothing more.
    EarlyStopping,
}

/// What a fit found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Weights row by row, then the intercepts. With early stopping, the best ones for the validation rows.
    pub parameters: Vec<f64>,
    /// Iterations, or epochs, that were done.
    pub iterations: u64,
    /// The mean loss of the training rows at `parameters`, without penalties.
    pub loss: f64,
    /// The loss and the penalties at `parameters`.
    pub objective: f64,
    /// The mean loss of the validation rows at `parameters`, without penalties.
    pub validation_loss: Option<f64>,
    /// Why it ended.
    pub stop: Stop,
}

/// Minimises `problem` on the rows of `train`, from `start` (all zero if the caller knows nothing better).
///
/// `observe` is called after every iteration, or epoch; it ends the fit with [`Error::Cancelled`] by breaking.
///
/// # Errors
/// [`Error::Diverged`] where the loss is no longer finite; [`Error::Invalid`] for settings out of range.
pub fn fit(
    problem: &Problem,
    start: &[f64],
    train: &Shards,
    validation: Option<&Shards>,
    options: &Optimiser,
    runner: &dyn MapReduce,
    observe: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Fitted> {
    check(problem, start, train, validation, options)?;
    let mut run = Run::new(problem, train, validation, options, runner, observe);
    match &options.method {
        Method::Gd(settings) => gd::descend(&mut run, start, settings),
        Method::Sgd(settings) => sgd::descend(&mut run, start, settings, options.seed),
        Method::Lbfgs(settings) => lbfgs::descend(&mut run, start, settings),
    }
}

fn check(
    problem: &Problem,
    start: &[f64],
    train: &Shards,
    validation: Option<&Shards>,
    options: &Optimiser,
) -> Result<()> {
    if problem.features != train.features() || start.len() != problem.parameters() {
        let (features, parameters) = (train.features(), start.len());
        return Err(Error::Internal(format!("{features} features and {parameters} parameters do not fit {problem:?}")));
    }
    if validation.is_some_and(|validation| validation.features() != problem.features) {
        return Err(Error::Internal("the validation rows have other features".to_owned()));
    }
    let positive = |value: f64| value.is_finite() && value > 0.0;
    let not_negative = |value: f64| value.is_finite() && value >= 0.0;
    let requirements = [
        (train.weight_sum() <= 0.0, "there are no rows to train on, or their weights sum to nothing: add rows"),
        (!not_negative(problem.l1), "l1 must be 0 or more"),
        (!not_negative(problem.l2), "l2 must be 0 or more"),
        (
            options.early_stopping.is_some() && validation.is_none_or(|validation| validation.weight_sum() <= 0.0),
            "early stopping needs validation rows: hold some out",
        ),
        (
            options.early_stopping.as_ref().is_some_and(|stopping| !not_negative(stopping.min_delta)),
            "the least gain of early stopping must be 0 or more",
        ),
    ];
    let requirements = requirements.into_iter().chain(match &options.method {
        Method::Gd(settings) => vec![
            (!positive(settings.learning_rate), "the learning rate must be above 0"),
            (!not_negative(settings.tolerance), "the tolerance must be 0 or more"),
        ],
        Method::Sgd(settings) => vec![
            (!positive(settings.learning_rate), "the learning rate must be above 0"),
            (!not_negative(settings.tolerance), "the tolerance must be 0 or more"),
            (!(0.0..1.0).contains(&settings.momentum), "the momentum must be at least 0 and below 1"),
            (settings.batch_size == 0, "a batch needs at least one row"),
        ],
        Method::Lbfgs(settings) => vec![
            (!not_negative(settings.tolerance), "the tolerance must be 0 or more"),
            (settings.history == 0, "the history of l-bfgs needs at least one step"),
        ],
    });
    for (violated, message) in requirements {
        if violated {
            return Err(Error::Invalid(message.to_owned()));
        }
    }
    match &options.method {
        Method::Sgd(settings) => settings.schedule.check(),
        Method::Gd(_) | Method::Lbfgs(_) => Ok(()),
    }
}
