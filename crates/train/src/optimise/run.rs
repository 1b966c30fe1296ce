//! What all optimisers share: evaluating the objective, reporting, and stopping early.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{EarlyStopping, Fitted, Optimiser, Problem, Progress, Stop, penalty};
use crate::kernel::{GRADIENT, Kernel};
use crate::runner::MapReduce;
use crate::shards::{Shards, Slice};
use crate::{Error, Result};

/// A loss this many times the first one is on its way to infinity.
const DIVERGED: f64 = 1e10;

/// One fit under way.
pub(super) struct Run<'a> {
    pub(super) problem: &'a Problem,
    pub(super) train: &'a Shards,
    validation: Option<&'a Shards>,
    early_stopping: Option<&'a EarlyStopping>,
    runner: &'a dyn MapReduce,
    observe: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    all: Vec<Slice>,
    partial: Vec<f64>,
    rows_read: u64,
    started: Instant,
    first_loss: Option<f64>,
    best: Option<Best>,
}

/// The best parameters for the validation rows so far.
struct Best {
    parameters: Vec<f64>,
    loss: f64,
    waited: u64,
}

/// What an iteration found; [`Run::report`] makes [`Progress`] of it.
pub(super) struct Iteration<'a> {
    pub(super) iteration: u64,
    pub(super) of: u64,
    pub(super) loss: f64,
    pub(super) gradient_norm: Option<f64>,
    pub(super) parameters: &'a [f64],
}

impl<'a> Run<'a> {
    pub(super) fn new(
        problem: &'a Problem,
        train: &'a Shards,
        validation: Option<&'a Shards>,
        options: &'a Optimiser,
        runner: &'a dyn MapReduce,
        observe: &'a mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Self {
        Self {
            problem,
            train,
            validation: validation.filter(|validation| validation.weight_sum() > 0.0),
            early_stopping: options.early_stopping.as_ref(),
            runner,
            observe,
            all: train.slices(),
            partial: vec![0.0; Kernel::Gradient(problem.loss).partial(problem.features)],
            rows_read: 0,
            started: Instant::now(),
            first_loss: None,
            best: None,
        }
    }

    /// The smooth part of the objective (mean loss and l2 penalty) over all training rows, and its gradient.
    pub(super) fn evaluate(&mut self, parameters: &[f64], gradient: &mut [f64]) -> Result<f64> {
        let kernel = Kernel::Gradient(self.problem.loss);
        self.runner.map_reduce(kernel, self.train, &self.all, parameters, &mut self.partial)?;
        self.rows_read += self.train.rows() as u64;
        let mean = self.mean_gradient(parameters, gradient);
        Ok(mean + penalty::l2(self.problem, parameters))
    }

    /// The summed loss and weight of the rows of `slices`; their mean gradient, l2 penalty included, into `gradient`.
    pub(super) fn batch(&mut self, slices: &[Slice], parameters: &[f64], gradient: &mut [f64]) -> Result<(f64, f64)> {
        let kernel = Kernel::Gradient(self.problem.loss);
        self.runner.map_reduce(kernel, self.train, slices, parameters, &mut self.partial)?;
        self.rows_read += slices.iter().map(|slice| slice.rows as u64).sum::<u64>();
        let mean = self.mean_gradient(parameters, gradient);
        self.first_loss.get_or_insert(mean);
        Ok((self.partial[0], self.partial[1]))
    }

    /// The mean loss of `shards`, without penalties.
    pub(super) fn loss(&self, shards: &Shards, parameters: &[f64]) -> Result<f64> {
        let mut partial = [0.0; GRADIENT];
        let kernel = Kernel::Value(self.problem.loss);
        self.runner.map_reduce(kernel, shards, &shards.slices(), parameters, &mut partial)?;
        Ok(partial[0] / partial[1])
    }

    /// Tells the observer, and says whether the validation rows have gained nothing for too long.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where the observer breaks, [`Error::Diverged`] where a loss is not finite, or about to be.
    pub(super) fn report(&mut self, iteration: &Iteration<'_>) -> Result<bool> {
        let validation_loss = match self.validation {
            Some(validation) => Some(self.loss(validation, iteration.parameters)?),
            None => None,
        };
        let first_loss = *self.first_loss.get_or_insert(iteration.loss);
        let grown = first_loss > 0.0 && iteration.loss > 1.0 + DIVERGED * first_loss;
        if grown || !(iteration.loss.is_finite() && validation_loss.is_none_or(f64::is_finite)) {
            return Err(Error::Diverged { iterations: iteration.iteration });
        }
        let progress = Progress {
            iteration: iteration.iteration,
            of: iteration.of,
            loss: iteration.loss,
            validation_loss,
            rows_per_second: self.rows_read as f64 / self.started.elapsed().as_secs_f64().max(1e-9),
            gradient_norm: iteration.gradient_norm,
        };
        if (self.observe)(&progress).is_break() {
            return Err(Error::Cancelled);
        }
        let (Some(loss), Some(stopping)) = (validation_loss, self.early_stopping) else { return Ok(false) };
        match &mut self.best {
            Some(best) if loss >= best.loss - stopping.min_delta => {
                best.waited += 1;
                Ok(best.waited >= stopping.patience)
            }
            best => {
                *best = Some(Best { parameters: iteration.parameters.to_vec(), loss, waited: 0 });
                Ok(false)
            }
        }
    }

    /// The result: `parameters`, or the best ones where early stopping kept them.
    pub(super) fn finish(&mut self, parameters: Vec<f64>, iterations: u64, stop: Stop) -> Result<Fitted> {
        let parameters = self.best.take().map_or(parameters, |best| best.parameters);
        let loss = self.loss(self.train, &parameters)?;
        if !loss.is_finite() {
            return Err(Error::Diverged { iterations });
        }
        let validation_loss = match self.validation {
            Some(validation) => Some(self.loss(validation, &parameters)?),
            None => None,
        };
        let objective = loss + penalty::l2(self.problem, &parameters) + penalty::l1(self.problem, &parameters);
        Ok(Fitted { parameters, iterations, loss, objective, validation_loss, stop })
    }

    /// Mean loss; the mean gradient with the l2 penalty's goes to `gradient`, zero for intercepts that are not used.
    fn mean_gradient(&self, parameters: &[f64], gradient: &mut [f64]) -> f64 {
        let weight = self.partial[1];
        // Rows that all weigh nothing pull nowhere.
        let scale = if weight == 0.0 { 0.0 } else { 1.0 / weight };
        for (gradient, sum) in gradient.iter_mut().zip(&self.partial[GRADIENT..]) {
            *gradient = sum * scale;
        }
        let (weights, intercepts) = gradient.split_at_mut(self.problem.weights());
        for (gradient, parameter) in weights.iter_mut().zip(parameters) {
            *gradient += self.problem.l2 * parameter;
        }
        if !self.problem.intercept {
            intercepts.fill(0.0);
        }
        self.partial[0] * scale
    }
}

/// The greatest absolute component.
pub(super) fn greatest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |greatest, value| if value.abs() > greatest { value.abs() } else { greatest })
}
