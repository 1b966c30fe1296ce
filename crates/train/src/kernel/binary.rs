//! The binary logistic loss.

use super::exp::{exp, log1p};
use super::{linear, split};
use crate::shards::{TILE, Tile};

/// Adds loss, weight and, where wanted, gradient of ln(1 + e^z) − y z.
#[inline(always)]
pub(super) fn logistic(tile: &Tile<'_>, parameters: &[f64], gradient: bool, partial: &mut [f64]) {
    let (weights, intercepts) = split(parameters, tile.features());
    let rows = tile.rows();
    let mut errors = [0.0; TILE];
    let mut losses = [0.0; TILE];
    let (errors, losses) = (&mut errors[..rows], &mut losses[..rows]);
    linear::forward(tile, weights, intercepts[0], errors);
    let (targets, row_weights) = (&tile.targets()[..rows], &tile.weights()[..rows]);
    for row in 0..rows {
        let (z, y, weight) = (errors[row], targets[row], row_weights[row]);
        // ln(1 + e^z) = max(z, 0) + ln(1 + e^−|z|), which never overflows; one exponential serves loss and gradient.
        let small = exp(-z.abs());
        let positive = if z < 0.0 { 0.0 } else { z };
        let numerator = if z < 0.0 { small } else { 1.0 };
        let probability = numerator / (1.0 + small);
        losses[row] = weight * ((positive - y * z) + log1p(small));
        errors[row] = weight * (probability - y);
    }
    linear::finish(tile, losses, errors, gradient, partial);
}
