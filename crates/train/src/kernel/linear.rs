//! Products of a tile with a vector, both ways, and the squared error.

use super::{GRADIENT, split};
use crate::shards::{TILE, Tile};

/// Sums run in this many lanes, whatever the machine's registers hold.
pub(super) const LANES: usize = 16;

/// For every row: intercept + Σ weight × feature.
#[inline(always)]
pub(super) fn forward(tile: &Tile<'_>, weights: &[f64], intercept: f64, margins: &mut [f64]) {
    margins.fill(intercept);
    let rows = margins.len();
    let mut feature = 0;
    // Four features at once: the margins are loaded and stored a quarter as often.
    while feature + 4 <= weights.len() {
        let [a, b, c, d] = [0, 1, 2, 3].map(|offset| &tile.column(feature + offset)[..rows]);
        let w = &weights[feature..feature + 4];
        let (wa, wb, wc, wd) = (w[0], w[1], w[2], w[3]);
        for row in 0..rows {
            margins[row] += (wa * a[row] + wb * b[row]) + (wc * c[row] + wd * d[row]);
        }
        feature += 4;
    }
    for (feature, &weight) in weights.iter().enumerate().skip(feature) {
        let column = &tile.column(feature)[..rows];
        for row in 0..rows {
            margins[row] += weight * column[row];
        }
    }
}

/// Adds to each feature's sum its product with `errors`, and to the intercept's the errors.
#[inline(always)]
pub(super) fn backward(tile: &Tile<'_>, errors: &[f64], weights: &mut [f64], intercept: &mut f64) {
    let mut feature = 0;
    while feature + 2 <= weights.len() {
        let (a, b) = dot_two(tile.column(feature), tile.column(feature + 1), errors);
        weights[feature] += a;
        weights[feature + 1] += b;
        feature += 2;
    }
    if feature < weights.len() {
        weights[feature] += dot(tile.column(feature), errors);
    }
    *intercept += sum(errors);
}

/// Adds loss, weight and, where wanted, gradient of ½ (z − y)².
#[inline(always)]
pub(super) fn squared_error(tile: &Tile<'_>, parameters: &[f64], gradient: bool, partial: &mut [f64]) {
    let (weights, intercepts) = split(parameters, tile.features());
    let rows = tile.rows();
    let mut errors = [0.0; TILE];
    let mut losses = [0.0; TILE];
    let (errors, losses) = (&mut errors[..rows], &mut losses[..rows]);
    forward(tile, weights, intercepts[0], errors);
    let (targets, row_weights) = (&tile.targets()[..rows], &tile.weights()[..rows]);
    for row in 0..rows {
        let error = errors[row] - targets[row];
        let weighted = row_weights[row] * error;
        losses[row] = 0.5 * (weighted * error);
        errors[row] = weighted;
    }
    finish(tile, losses, errors, gradient, partial);
}

/// Adds what a tile of one output gives: its losses, its weights and, where wanted, its gradient.
#[inline(always)]
pub(super) fn finish(tile: &Tile<'_>, losses: &[f64], errors: &[f64], gradient: bool, partial: &mut [f64]) {
    partial[0] += sum(losses);
    partial[1] += sum(tile.weights());
    if gradient {
        let (weights, intercepts) = partial[GRADIENT..].split_at_mut(tile.features());
        backward(tile, errors, weights, &mut intercepts[0]);
    }
}

/// Σ value, in lanes.
#[inline(always)]
pub(super) fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    fold(lanes)
}

/// Σ a × b, in lanes.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest) {
        *lane += a * b;
    }
    fold(lanes)
}

/// Σ a × c and Σ b × c, bit for bit as [`dot`] has them, but `c` is loaded once.
#[inline(always)]
fn dot_two(a: &[f64], b: &[f64], c: &[f64]) -> (f64, f64) {
    let (mut a_lanes, mut b_lanes) = ([0.0; LANES], [0.0; LANES]);
    let (a_chunks, b_chunks, c_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    let (a_rest, b_rest, c_rest) = (a_chunks.remainder(), b_chunks.remainder(), c_chunks.remainder());
    for ((a, b), c) in a_chunks.zip(b_chunks).zip(c_chunks) {
        for lane in 0..LANES {
            a_lanes[lane] += a[lane] * c[lane];
            b_lanes[lane] += b[lane] * c[lane];
        }
    }
    for (lane, (a, c)) in a_lanes.iter_mut().zip(a_rest.iter().zip(c_rest)) {
        *lane += a * c;
    }
    for (lane, (b, c)) in b_lanes.iter_mut().zip(b_rest.iter().zip(c_rest)) {
        *lane += b * c;
    }
    (fold(a_lanes), fold(b_lanes))
}

/// The lanes' sum, as a balanced tree.
#[inline(always)]
fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
