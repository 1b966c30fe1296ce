//! How far to go along a direction.

use super::Problem;
use super::penalty;
use super::run::Run;
use crate::Result;

/// The share of the first slope's promise that a step must keep.
const SUFFICIENT: f64 = 1e-4;

/// How flat the slope must have become, as a share of the first.
const CURVATURE: f64 = 0.9;

/// Evaluations of one search at most.
const EVALUATIONS: usize = 40;

/// A point with its smooth objective and gradient.
#[derive(Clone)]
pub(super) struct Point {
    pub(super) parameters: Vec<f64>,
    pub(super) gradient: Vec<f64>,
    /// The whole objective.
    pub(super) objective: f64,
}

impl Point {
    pub(super) fn evaluate(run: &mut Run<'_>, parameters: Vec<f64>) -> Result<Self> {
        let mut gradient = vec![0.0; parameters.len()];
        let smooth = run.evaluate(&parameters, &mut gradient)?;
        let objective = smooth + penalty::l1(run.problem, &parameters);
        Ok(Self { parameters, gradient, objective })
    }
}

/// A length that was tried, with the value and the slope there.
#[derive(Clone, Copy)]
struct Trial {
    length: f64,
    value: f64,
    slope: f64,
}

/// A step of `first` length, lengthened or shortened until the strong Wolfe conditions hold; where differences of the
/// objective drown in rounding, the approximate ones of Hager and Zhang. None where no length helps.
///
/// Sources: Nocedal and Wright, Numerical optimization, 2006, algorithms 3.5 and 3.6; Hager and Zhang, A new conjugate
/// gradient method with guaranteed descent and an efficient line search, 2005, section 4.
pub(super) fn wolfe(run: &mut Run<'_>, from: &Point, direction: &[f64], first: f64) -> Result<Option<Point>> {
    let start = Trial { length: 0.0, value: from.objective, slope: dot(&from.gradient, direction) };
    let noise = rounding(from.objective);
    let mut low = start;
    let mut high: Option<Trial> = None;
    let mut length = first;
    let mut width = f64::INFINITY;
    let mut best: Option<Point> = None;
    for _ in 0..EVALUATIONS {
        let point = Point::evaluate(run, ahead(&from.parameters, direction, length))?;
        let trial = Trial { length, value: point.objective, slope: dot(&point.gradient, direction) };
        if !(trial.value.is_finite() && trial.slope.is_finite()) {
            // Far beyond all that is sensible: nothing to interpolate with.
            high = Some(Trial { value: f64::INFINITY, slope: f64::NAN, ..trial });
            length = low.length + 0.01 * (length - low.length);
            continue;
        }
        let sufficient = trial.value <= start.value + SUFFICIENT * length * start.slope;
        let nearly = trial.value <= start.value + noise && trial.slope <= (2.0 * SUFFICIENT - 1.0) * start.slope;
        if (sufficient || nearly) && trial.slope.abs() <= CURVATURE * start.slope.abs() {
            return Ok(Some(point));
        }
        if !(sufficient || nearly) || trial.value > low.value + noise {
            high = Some(trial);
        } else {
            if trial.slope * high.map_or(1.0, |high| high.length - low.length) >= 0.0 {
                high = Some(low);
            }
            low = trial;
            best = Some(point);
        }
        length = match high {
            // Still downhill: at least double, at most a thousandfold, where a parabola puts the minimum.
            None => minimum(start, low).unwrap_or(f64::INFINITY).clamp(2.0 * low.length, 1000.0 * low.length),
            Some(high) => {
                let shrunk = (high.length - low.length).abs();
                let slow = shrunk > 0.66 * width;
                width = shrunk;
                if shrunk <= f64::EPSILON * low.length.max(high.length) {
                    break;
                }
                between(low, high, slow)
            }
        };
    }
    // A point that went down, although it kept not all conditions, still serves.
    Ok(best.filter(|best| best.objective < from.objective))
}

/// A step of `first` length, halved until the objective falls enough, that never leaves the orthant of `from`.
///
/// Source: Andrew and Gao 2007, section 3.2.
pub(super) fn orthant(
    run: &mut Run<'_>,
    from: &Point,
    pseudo: &[f64],
    direction: &[f64],
    first: f64,
) -> Result<Option<Point>> {
    let noise = rounding(from.objective);
    let mut length = first;
    for _ in 0..EVALUATIONS {
        let mut parameters = ahead(&from.parameters, direction, length);
        stay(run.problem, &from.parameters, pseudo, &mut parameters);
        let promised: f64 =
            parameters.iter().zip(&from.parameters).zip(pseudo).map(|((to, from), slope)| (to - from) * slope).sum();
        if promised >= 0.0 {
            return Ok(None);
        }
        let point = Point::evaluate(run, parameters)?;
        if point.objective <= from.objective + SUFFICIENT * promised + noise {
            return Ok(Some(point));
        }
        length *= if point.objective.is_finite() { 0.5 } else { 0.01 };
    }
    Ok(None)
}

/// Sets to 0 each weight that changed its sign, or left 0 against the downhill direction.
fn stay(problem: &Problem, from: &[f64], pseudo: &[f64], parameters: &mut [f64]) {
    let weights = problem.weights();
    for ((to, from), slope) in parameters[..weights].iter_mut().zip(from).zip(pseudo) {
        let side = if *from == 0.0 { -slope } else { *from };
        if *to * side <= 0.0 {
            *to = 0.0;
        }
    }
}

/// Where a parabola through two slopes has its minimum; none where it has none.
fn minimum(a: Trial, b: Trial) -> Option<f64> {
    let length = a.length - a.slope * (b.length - a.length) / (b.slope - a.slope);
    (length.is_finite() && length > b.length).then_some(length)
}

/// A length between two: where a cubic through both values and slopes has its minimum, kept off the ends; the middle
/// where that shrinks the interval too slowly.
///
/// Source: Nocedal and Wright 2006, equation 3.59.
fn between(low: Trial, high: Trial, slow: bool) -> f64 {
    let width = high.length - low.length;
    let d1 = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.length - high.length);
    let d2 = width.signum() * (d1 * d1 - low.slope * high.slope).sqrt();
    let cubic = high.length - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2.0 * d2);
    let share = (cubic - low.length) / width;
    if slow || !share.is_finite() { low.length + 0.5 * width } else { low.length + share.clamp(1e-4, 0.9999) * width }
}

/// Differences of the objective below this are noise.
fn rounding(objective: f64) -> f64 {
    4.0 * f64::EPSILON * objective.abs()
}

fn ahead(parameters: &[f64], direction: &[f64], length: f64) -> Vec<f64> {
    parameters.iter().zip(direction).map(|(parameter, direction)| parameter + length * direction).collect()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
