//! The multinomial logistic loss, by softmax.

use super::exp::{exp, ln};
use super::{GRADIENT, linear, split};
use crate::shards::{TILE, Tile};

/// Adds loss, weight and, where wanted, gradient of −ln softmax(z)_y. `scratch` grows to a margin a class and row.
#[inline(always)]
pub(super) fn softmax(
    tile: &Tile<'_>,
    parameters: &[f64],
    classes: usize,
    gradient: bool,
    scratch: &mut Vec<f64>,
    partial: &mut [f64],
) {
    let rows = tile.rows();
    let mut totals = [0.0; TILE];
    let mut losses = [0.0; TILE];
    let (totals, losses) = (&mut totals[..rows], &mut losses[..rows]);
    scratch.resize(classes * rows, 0.0);
    let margins = &mut scratch[..classes * rows];
    exponentials(tile, parameters, margins, totals, losses);
    let (targets, row_weights) = (&tile.targets()[..rows], &tile.weights()[..rows]);
    for row in 0..rows {
        // `losses` holds the greatest margin minus the true class's one.
        losses[row] = row_weights[row] * (losses[row] + ln(totals[row]));
    }
    partial[0] += linear::sum(losses);
    partial[1] += linear::sum(row_weights);
    if !gradient {
        return;
    }
    for row in 0..rows {
        totals[row] = row_weights[row] / totals[row];
    }
    let features = tile.features();
    let (weights, intercepts) = partial[GRADIENT..].split_at_mut(classes * features);
    for (class, errors) in margins.chunks_exact_mut(rows).enumerate() {
        let number = class as f64;
        for row in 0..rows {
            let hit = if targets[row] == number { row_weights[row] } else { 0.0 };
            errors[row] = errors[row] * totals[row] - hit;
        }
        let weights = &mut weights[class * features..(class + 1) * features];
        linear::backward(tile, errors, weights, &mut intercepts[class]);
    }
}

/// Class by class e^(z − greatest z) into `margins`, their sum into `totals`, greatest z − true class's z into `losses`.
#[inline(always)]
pub(super) fn exponentials(
    tile: &Tile<'_>,
    parameters: &[f64],
    margins: &mut [f64],
    totals: &mut [f64],
    losses: &mut [f64],
) {
    let features = tile.features();
    let (weights, intercepts) = split(parameters, features);
    let rows = totals.len();
    let mut greatest = [f64::NEG_INFINITY; TILE];
    let greatest = &mut greatest[..rows];
    let targets = &tile.targets()[..rows];
    for (class, margins) in margins.chunks_exact_mut(rows).enumerate() {
        linear::forward(tile, &weights[class * features..(class + 1) * features], intercepts[class], margins);
        let number = class as f64;
        for row in 0..rows {
            let margin = margins[row];
            greatest[row] = if margin > greatest[row] { margin } else { greatest[row] };
            losses[row] = if targets[row] == number { margin } else { losses[row] };
        }
    }
    totals.fill(0.0);
    for margins in margins.chunks_exact_mut(rows) {
        for row in 0..rows {
            margins[row] = exp(margins[row] - greatest[row]);
            totals[row] += margins[row];
        }
    }
    for row in 0..rows {
        losses[row] = greatest[row] - losses[row];
    }
}
