//! Limited-memory BFGS, and its orthant-wise variant (OWL-QN) where there is an l1 penalty.
//!
//! Sources: Nocedal and Wright, Numerical optimization, 2006, algorithm 7.4 (the two loops) and equation 7.20 (the scale);
//! Andrew and Gao, Scalable training of l1-regularized log-linear models, 2007 (OWL-QN).

use std::collections::VecDeque;

use super::line_search::{self, Point, dot};
use super::run::{Iteration, Run, greatest};
use super::{Fitted, LbfgsOptions, Stop, penalty};
use crate::{Error, Result};

/// Steps without any gain before the numbers' precision counts as exhausted.
const STALLED: u32 = 8;

pub(super) fn descend(run: &mut Run<'_>, start: &[f64], settings: &LbfgsOptions) -> Result<Fitted> {
    let mut point = Point::evaluate(run, start.to_vec())?;
    if !point.objective.is_finite() {
        return Err(Error::Diverged { iterations: 0 });
    }
    let mut history = History::new(settings.history);
    let mut pseudo = vec![0.0; start.len()];
    penalty::pseudo_gradient(run.problem, &point.parameters, &point.gradient, &mut pseudo);
    let first = greatest(&pseudo);
    let (mut least_norm, mut stalled) = (first, 0);
    let mut iteration = 0;
    loop {
        let norm = greatest(&pseudo);
        let stop_early = run.report(&Iteration {
            iteration,
            of: settings.iterations,
            loss: point.objective,
            gradient_norm: Some(norm),
            parameters: &point.parameters,
        })?;
        let stop = if stop_early {
            Some(Stop::EarlyStopping)
        } else if norm <= settings.tolerance * first {
            Some(Stop::Converged)
        } else if iteration >= settings.iterations {
            Some(Stop::Iterations)
        } else if stalled >= STALLED {
            Some(Stop::NoProgress)
        } else {
            None
        };
        if let Some(stop) = stop {
            return run.finish(point.parameters, iteration, stop);
        }
        let Some(next) = step(run, &point, &pseudo, &mut history)? else {
            return run.finish(point.parameters, iteration, Stop::NoProgress);
        };
        history.push(&point, &next);
        iteration += 1;
        penalty::pseudo_gradient(run.problem, &next.parameters, &next.gradient, &mut pseudo);
        let norm = greatest(&pseudo);
        let fell = next.objective < point.objective * (1.0 - point.objective.signum() * 2.0 * f64::EPSILON);
        if fell || norm < 0.9 * least_norm {
            stalled = 0;
        } else {
            stalled += 1;
        }
        least_norm = least_norm.min(norm);
        point = next;
    }
}

/// The next point; where the estimated curvature leads nowhere, once more along the plain gradient.
fn step(run: &mut Run<'_>, point: &Point, pseudo: &[f64], history: &mut History) -> Result<Option<Point>> {
    loop {
        let mut direction = history.direction(pseudo);
        if run.problem.l1 > 0.0 {
            // The direction must not point uphill in any coordinate, or the orthant would be the wrong one.
            for (direction, slope) in direction[..run.problem.weights()].iter_mut().zip(pseudo) {
                if *direction * slope >= 0.0 {
                    *direction = 0.0;
                }
            }
        }
        if dot(&direction, pseudo) < 0.0 {
            let next = if run.problem.l1 > 0.0 {
                // Backtracking never lengthens a step: the first one, of unknown scale, starts short enough.
                let first = if history.is_empty() { 1.0 / greatest(pseudo).max(1.0) } else { 1.0 };
                line_search::orthant(run, point, pseudo, &direction, first)?
            } else {
                line_search::wolfe(run, point, &direction, 1.0)?
            };
            if next.is_some() {
                return Ok(next);
            }
        }
        if history.is_empty() {
            return Ok(None);
        }
        history.clear();
    }
}

/// The last steps and what they changed in the gradient.
struct History {
    length: usize,
    pairs: VecDeque<Pair>,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    product: f64,
}

impl History {
    fn new(length: usize) -> Self {
        Self { length, pairs: VecDeque::with_capacity(length) }
    }

    fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn clear(&mut self) {
        self.pairs.clear();
    }

    fn push(&mut self, from: &Point, to: &Point) {
        let subtract = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
        let step = subtract(&to.parameters, &from.parameters);
        let change = subtract(&to.gradient, &from.gradient);
        let product = dot(&step, &change);
        // A step along which the curvature is not positive would make the estimate indefinite.
        if product <= f64::EPSILON * dot(&change, &change).sqrt() * dot(&step, &step).sqrt() {
            return;
        }
        if self.pairs.len() == self.length {
            self.pairs.pop_front();
        }
        self.pairs.push_back(Pair { step, change, product });
    }

    /// −H · gradient, where H estimates the inverse of the Hessian.
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
        let mut shares = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let share = dot(&pair.step, &direction) / pair.product;
            add(&mut direction, &pair.change, -share);
            shares.push(share);
        }
        if let Some(last) = self.pairs.back() {
            let scale = last.product / dot(&last.change, &last.change);
            direction.iter_mut().for_each(|value| *value *= scale);
        }
        for (pair, share) in self.pairs.iter().zip(shares.into_iter().rev()) {
            let correction = share - dot(&pair.change, &direction) / pair.product;
            add(&mut direction, &pair.step, correction);
        }
        direction
    }
}

fn add(to: &mut [f64], values: &[f64], times: f64) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += times * value;
    }
}
