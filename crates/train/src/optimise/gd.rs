//! Full-batch gradient descent with a fixed learning rate, proximal for the l1 penalty.

use super::run::{Iteration, Run, greatest};
use super::{Fitted, GdOptions, Stop, penalty};
use crate::Result;

pub(super) fn descend(run: &mut Run<'_>, start: &[f64], settings: &GdOptions) -> Result<Fitted> {
    let mut parameters = start.to_vec();
    let mut gradient = vec![0.0; start.len()];
    let mut pseudo = vec![0.0; start.len()];
    let mut first = None;
    let mut iteration = 0;
    loop {
        let smooth = run.evaluate(&parameters, &mut gradient)?;
        penalty::pseudo_gradient(run.problem, &parameters, &gradient, &mut pseudo);
        let norm = greatest(&pseudo);
        let first = *first.get_or_insert(norm);
        let stop_early = run.report(&Iteration {
            iteration,
            of: settings.iterations,
            loss: smooth + penalty::l1(run.problem, &parameters),
            gradient_norm: Some(norm),
            parameters: &parameters,
        })?;
        let stop = if stop_early {
            Some(Stop::EarlyStopping)
        } else if norm <= settings.tolerance * first {
            Some(Stop::Converged)
        } else if iteration >= settings.iterations {
            Some(Stop::Iterations)
        } else {
            None
        };
        if let Some(stop) = stop {
            return run.finish(parameters, iteration, stop);
        }
        for (parameter, slope) in parameters.iter_mut().zip(&gradient) {
            *parameter -= settings.learning_rate * slope;
        }
        penalty::soft_threshold(run.problem, &mut parameters, settings.learning_rate * run.problem.l1);
        iteration += 1;
    }
}
