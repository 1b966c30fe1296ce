//! RMSE, MAE and R².

use serde::{Deserialize, Serialize};

/// How good a regression is, every row counted once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegressionMetrics {
    /// Rows that were counted.
    pub rows: u64,
    /// The root of the mean squared error, in the target's unit.
    pub rmse: f64,
    /// The mean absolute error, in the target's unit.
    pub mae: f64,
    /// 1 − squared error / squared deviation from the mean target; none where the target is constant.
    pub r2: Option<f64>,
}

/// Sums what [`RegressionMetrics`] needs.
#[derive(Debug, Clone, Default)]
pub struct RegressionAccumulator {
    rows: u64,
    squared: f64,
    absolute: f64,
    mean: f64,
    deviation: f64,
}

impl RegressionAccumulator {
    /// Counts a row.
    pub fn push(&mut self, target: f64, prediction: f64) {
        let error = prediction - target;
        self.rows += 1;
        self.squared += error * error;
        self.absolute += error.abs();
        // Welford's update: the sum of squared deviations without the cancellation of Σy² − n·ȳ².
        let delta = target - self.mean;
        self.mean += delta / self.rows as f64;
        self.deviation += delta * (target - self.mean);
    }

    /// The metrics of the rows so far; none without rows.
    pub fn finish(&self) -> Option<RegressionMetrics> {
        let rows = self.rows as f64;
        (self.rows > 0).then(|| RegressionMetrics {
            rows: self.rows,
            rmse: (self.squared / rows).sqrt(),
            mae: self.absolute / rows,
            r2: (self.deviation > 0.0).then(|| 1.0 - self.squared / self.deviation),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn four_rows_by_hand() {
        let mut sums = RegressionAccumulator::default();
        for (target, prediction) in [(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0)] {
            sums.push(target, prediction);
        }
        let metrics = sums.finish().unwrap();
        assert!((metrics.rmse - 0.375f64.sqrt()).abs() < 1e-15);
        assert!((metrics.mae - 0.5).abs() < 1e-15);
        assert!((metrics.r2.unwrap() - 0.948_608_137_044_967_9).abs() < 1e-12);
    }

    #[test]
    fn a_constant_target_has_no_r2() {
        let mut sums = RegressionAccumulator::default();
        assert!(sums.finish().is_none());
        sums.push(1.0, 2.0);
        sums.push(1.0, 1.0);
        assert_eq!(sums.finish().unwrap().r2, None);
    }
}
