//! Products of a tile with a vector, both ways, and the squared error.

use super::{GRADIENT, split};
use crate::shards::{TILE, Tile};

/// Sums run in this many lanes, whatever the machine's registers hold.
pub(super) const LANES: usize = 8;

type Lanes = [f64; LANES];

/// For every row: intercept + Σ weight × feature.
#[inline(always)]
pub(super) fn forward(tile: &Tile<'_>, weights: &[f64], intercept: f64, margins: &mut [f64]) {
    margins.fill(intercept);
    let rows = margins.len();
    let mut feature = 0;
    // Eight features at once: as many streams out of memory, and the margins are loaded and stored an eighth as often.
    while feature + 8 <= weights.len() {
        let (a, b) = (&tile.column(feature)[..rows], &tile.column(feature + 1)[..rows]);
        let (c, d) = (&tile.column(feature + 2)[..rows], &tile.column(feature + 3)[..rows]);
        let (e, f) = (&tile.column(feature + 4)[..rows], &tile.column(feature + 5)[..rows]);
        let (g, h) = (&tile.column(feature + 6)[..rows], &tile.column(feature + 7)[..rows]);
        let w = &weights[feature..feature + 8];
        let (wa, wb, wc, wd, we, wf, wg, wh) = (w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
        for row in 0..rows {
            let front = (wa * a[row] + wb * b[row]) + (wc * c[row] + wd * d[row]);
            let back = (we * e[row] + wf * f[row]) + (wg * g[row] + wh * h[row]);
            margins[row] += front + back;
        }
        feature += 8;
    }
    while feature + 4 <= weights.len() {
        let (a, b) = (&tile.column(feature)[..rows], &tile.column(feature + 1)[..rows]);
        let (c, d) = (&tile.column(feature + 2)[..rows], &tile.column(feature + 3)[..rows]);
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
    let (blocks, rest) = weights.as_chunks_mut::<4>();
    let mut feature = 0;
    for weights in blocks {
        let (a, b) = (tile.column(feature), tile.column(feature + 1));
        let (c, d) = (tile.column(feature + 2), tile.column(feature + 3));
        let sums = dot_four(a, b, c, d, errors);
        for block in 0..4 {
            weights[block] += sums[block];
        }
        feature += 4;
    }
    for weight in rest {
        *weight += dot(tile.column(feature), errors);
        feature += 1;
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
    // Four sets of lanes, so that no addition waits for the last.
    let mut sets = [[0.0; LANES]; 4];
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (blocks, chunks) = chunks.as_chunks::<4>();
    for block in blocks {
        for (set, chunk) in sets.iter_mut().zip(block) {
            for lane in 0..LANES {
                set[lane] += chunk[lane];
            }
        }
    }
    for (set, chunk) in sets.iter_mut().zip(chunks) {
        for lane in 0..LANES {
            set[lane] += chunk[lane];
        }
    }
    let [mut lanes, b, c, d] = sets;
    for lane in 0..LANES {
        lanes[lane] = (lanes[lane] + b[lane]) + (c[lane] + d[lane]);
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value;
    }
    fold(lanes)
}

/// Σ a × e, in lanes.
#[inline(always)]
fn dot(a: &[f64], e: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (e, e_rest)) = (a.as_chunks::<LANES>(), e.as_chunks::<LANES>());
    for (a, e) in a.iter().zip(e) {
        lanes = add_product(lanes, a, e);
    }
    fold(add_rest(lanes, a_rest, e_rest))
}

/// Σ a × e, Σ b × e, Σ c × e and Σ d × e, bit for bit as [`dot`] has them: four chains of additions hide each other's
/// latency, and `e` is loaded once.
#[inline(always)]
fn dot_four(a: &[f64], b: &[f64], c: &[f64], d: &[f64], e: &[f64]) -> [f64; 4] {
    let (mut a_lanes, mut b_lanes, mut c_lanes, mut d_lanes) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let ((c, c_rest), (d, d_rest)) = (c.as_chunks::<LANES>(), d.as_chunks::<LANES>());
    let (e, e_rest) = e.as_chunks::<LANES>();
    for ((((a, b), c), d), e) in a.iter().zip(b).zip(c).zip(d).zip(e) {
        a_lanes = add_product(a_lanes, a, e);
        b_lanes = add_product(b_lanes, b, e);
        c_lanes = add_product(c_lanes, c, e);
        d_lanes = add_product(d_lanes, d, e);
    }
    [
        fold(add_rest(a_lanes, a_rest, e_rest)),
        fold(add_rest(b_lanes, b_rest, e_rest)),
        fold(add_rest(c_lanes, c_rest, e_rest)),
        fold(add_rest(d_lanes, d_rest, e_rest)),
    ]
}

#[inline(always)]
fn add_product(mut lanes: Lanes, a: &Lanes, b: &Lanes) -> Lanes {
    for lane in 0..LANES {
        lanes[lane] += a[lane] * b[lane];
    }
    lanes
}

#[inline(always)]
fn add_rest(mut lanes: Lanes, a: &[f64], b: &[f64]) -> Lanes {
    for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
        *lane += a * b;
    }
    lanes
}

/// The lanes' sum, as a balanced tree.
#[inline(always)]
fn fold(lanes: Lanes) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
