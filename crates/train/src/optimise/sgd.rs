//! Mini-batch stochastic gradient descent with momentum, proximal for the l1 penalty.
//!
//! Rows are shuffled within their shards once; every epoch visits the batches in a new random order.

use super::run::{Iteration, Run};
use super::{Fitted, SgdOptions, Stop, penalty};
use crate::seed::{self, Purpose};
use crate::{Error, Result};

/// Batches that the disk is told of ahead.
const AHEAD: usize = 16;

pub(super) fn descend(run: &mut Run<'_>, start: &[f64], settings: &SgdOptions, seed: u64) -> Result<Fitted> {
    let rows = run.train.rows();
    let size = settings.batch_size.min(rows);
    let batches = rows.div_ceil(size);
    let slices_of = |batch: usize, slices: &mut Vec<_>| {
        run.train.slices_into(batch * size..((batch + 1) * size).min(rows), slices);
    };
    let on_disk = run.train.spilled_count() > 0;
    let mut order: Vec<usize> = (0..batches).collect();
    let (mut slices, mut ahead) = (Vec::new(), Vec::new());
    let mut parameters = start.to_vec();
    let mut gradient = vec![0.0; start.len()];
    let mut velocity = vec![0.0; start.len()];
    let mut before = Vec::new();
    let mut last_loss = f64::INFINITY;
    for epoch in 0..settings.epochs {
        seed::shuffle(&mut order, &mut seed::generator(seed, Purpose::Batches, epoch));
        let (mut loss, mut weight) = (0.0, 0.0);
        for (position, &batch) in order.iter().enumerate() {
            if on_disk && let Some(&batch) = order.get(position + AHEAD) {
                slices_of(batch, &mut ahead);
                ahead.iter().for_each(|&slice| run.train.prefetch(slice));
            }
            slices_of(batch, &mut slices);
            let (batch_loss, batch_weight) = run.batch(&slices, &parameters, &mut gradient)?;
            if !batch_loss.is_finite() {
                return Err(Error::Diverged { iterations: epoch });
            }
            loss += batch_loss;
            weight += batch_weight;
            let done = epoch as f64 + position as f64 / batches as f64;
            let rate = settings.learning_rate * settings.schedule.share(done, settings.epochs);
            for ((parameter, velocity), slope) in parameters.iter_mut().zip(&mut velocity).zip(&gradient) {
                *velocity = settings.momentum * *velocity - rate * slope;
                *parameter += *velocity;
            }
            if run.problem.l1 > 0.0 {
                // The velocity is the whole step, the penalty's part included; without that, momentum would go on against
                // the penalty and weaken it.
                before.clone_from(&parameters);
                penalty::soft_threshold(run.problem, &mut parameters, rate * run.problem.l1);
                for ((velocity, after), before) in velocity.iter_mut().zip(&parameters).zip(&before) {
                    *velocity += after - before;
                }
            }
        }
        let mean = loss / weight;
        let stop_early = run.report(&Iteration {
            iteration: epoch + 1,
            of: settings.epochs,
            loss: mean + penalty::l2(run.problem, &parameters) + penalty::l1(run.problem, &parameters),
            gradient_norm: None,
            parameters: &parameters,
        })?;
        if stop_early {
            return run.finish(parameters, epoch + 1, Stop::EarlyStopping);
        }
        if (last_loss - mean).abs() < settings.tolerance * mean.abs() {
            return run.finish(parameters, epoch + 1, Stop::Converged);
        }
        last_loss = mean;
    }
    run.finish(parameters, settings.epochs, Stop::Iterations)
}
