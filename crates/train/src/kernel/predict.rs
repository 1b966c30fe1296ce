//! What a model says about rows: a value, or a probability a class.

use pulp::{Arch, NullaryFnOnce};

use super::exp::{exp, sigmoid};
use super::{Loss, linear, split};
use crate::Result;
use crate::shards::{Shards, TILE, Tile};

/// Hands each row's target and outputs to `visit`, in the rows' order. A regression has one output, a classifier a
/// probability for each class (both of two).
pub fn predict(loss: Loss, shards: &Shards, parameters: &[f64], mut visit: impl FnMut(f64, &[f64])) -> Result<()> {
    let rows = loss.rows();
    let features = shards.features();
    let (weights, intercepts) = split(parameters, features);
    let mut buffer = Vec::new();
    let mut margins = vec![0.0; rows * TILE];
    let mut row_margins = vec![0.0; rows];
    let mut outputs = Vec::new();
    let arch = Arch::new();
    for slice in shards.slices() {
        shards.visit(slice, &mut buffer, |tile| {
            for (row, margins) in margins.chunks_exact_mut(TILE).enumerate() {
                let weights = &weights[row * features..(row + 1) * features];
                let margins = &mut margins[..tile.rows()];
                arch.dispatch(Forward { tile, weights, intercept: intercepts[row], margins });
            }
            for (position, &target) in tile.targets().iter().enumerate() {
                for (row, margin) in row_margins.iter_mut().enumerate() {
                    *margin = margins[row * TILE + position];
                }
                outputs_of(loss, &row_margins, &mut outputs);
                visit(target, &outputs);
            }
        })?;
    }
    Ok(())
}

/// The outputs that belong to the linear predictors of one row.
pub fn outputs_of(loss: Loss, margins: &[f64], outputs: &mut Vec<f64>) {
    outputs.clear();
    match loss {
        Loss::SquaredError => outputs.push(margins[0]),
        // Both from the margin itself: 1 − p would lose the small one.
        Loss::Logistic => outputs.extend([sigmoid(-margins[0]), sigmoid(margins[0])]),
        Loss::Multinomial { .. } => {
            let greatest = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            outputs.extend(margins.iter().map(|margin| exp(margin - greatest)));
            let total: f64 = outputs.iter().sum();
            for output in outputs {
                *output /= total;
            }
        }
    }
}

struct Forward<'a> {
    tile: Tile<'a>,
    weights: &'a [f64],
    intercept: f64,
    margins: &'a mut [f64],
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        linear::forward(&self.tile, self.weights, self.intercept, self.margins);
    }
}
