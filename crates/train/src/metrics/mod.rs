//! How good a model is: sums over (target, prediction) pairs that come row by row.

mod auc;
mod classification;
mod regression;

pub use classification::{ClassMetrics, ClassificationAccumulator, ClassificationMetrics, most_probable};
pub use regression::{RegressionAccumulator, RegressionMetrics};
