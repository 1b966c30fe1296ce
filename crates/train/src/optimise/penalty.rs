//! The penalties on the weights; intercepts follow the weights in every vector here, and have none.

use super::Problem;

/// l2/2 · ‖w‖².
pub(super) fn l2(problem: &Problem, parameters: &[f64]) -> f64 {
    let weights = &parameters[..problem.weights()];
    0.5 * problem.l2 * weights.iter().map(|weight| weight * weight).sum::<f64>()
}

/// l1 · ‖w‖₁.
pub(super) fn l1(problem: &Problem, parameters: &[f64]) -> f64 {
    problem.l1 * parameters[..problem.weights()].iter().map(|weight| weight.abs()).sum::<f64>()
}

/// The proximal step of the l1 penalty: every weight moves towards 0 by `threshold`, and no further.
///
/// Source: Parikh and Boyd, Proximal algorithms, 2014, section 6.5.2.
pub(super) fn soft_threshold(problem: &Problem, parameters: &mut [f64], threshold: f64) {
    if threshold == 0.0 {
        return;
    }
    for weight in &mut parameters[..problem.weights()] {
        *weight = if *weight > threshold {
            *weight - threshold
        } else if *weight < -threshold {
            *weight + threshold
        } else if weight.is_nan() {
            *weight
        } else {
            0.0
        };
    }
}

/// The gradient of the whole objective where there is one; at a weight of 0 the one-sided slope that points downhill,
/// else 0. It is 0 everywhere exactly at a minimum.
///
/// Source: Andrew and Gao, Scalable training of l1-regularized log-linear models, 2007, equation 4.
pub(super) fn pseudo_gradient(problem: &Problem, parameters: &[f64], gradient: &[f64], pseudo: &mut [f64]) {
    pseudo.copy_from_slice(gradient);
    if problem.l1 == 0.0 {
        return;
    }
    for (slope, weight) in pseudo.iter_mut().zip(&parameters[..problem.weights()]) {
        let (left, right) = (*slope - problem.l1, *slope + problem.l1);
        *slope = if *weight > 0.0 || (*weight == 0.0 && right < 0.0) {
            right
        } else if *weight < 0.0 || (*weight == 0.0 && left > 0.0) {
            left
        } else {
            0.0
        };
    }
}
