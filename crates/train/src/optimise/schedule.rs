//! How the learning rate of SGD falls.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The learning rate over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// η.
    #[default]
    Constant,
    /// η / (1 + e)^power, where e counts the epochs done, fractions included.
    InverseScaling {
        /// How fast it falls; 0.5 is the classical choice.
        power: f64,
    },
    /// η · (1 + cos(π e / epochs)) / 2: from η down to nothing.
    Cosine,
    /// η · factor^⌊e / every⌋.
    Step {
        /// Epochs between two falls.
        every: u64,
        /// What remains of the rate at each fall.
        factor: f64,
    },
}

impl Schedule {
    /// The share of the first learning rate that is left after `done` of `epochs` epochs; `done` counts fractions.
    ///
    /// Sources: inverse scaling, Robbins and Monro 1951; cosine, Loshchilov and Hutter, SGDR, 2017.
    pub fn share(self, done: f64, epochs: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::InverseScaling { power } => (1.0 + done).powf(-power),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done / epochs as f64).cos()),
            Self::Step { every, factor } => factor.powf((done / every as f64).floor()),
        }
    }

    pub(super) fn check(self) -> Result<()> {
        let problem = match self {
            Self::InverseScaling { power } if !(power.is_finite() && power >= 0.0) => {
                "the power of the inverse-scaling schedule must be 0 or more"
            }
            Self::Step { every: 0, .. } => "the step schedule needs at least one epoch between two falls",
            Self::Step { factor, .. } if !(factor > 0.0 && factor <= 1.0) => {
                "the factor of the step schedule must be above 0 and at most 1"
            }
            _ => return Ok(()),
        };
        Err(Error::Invalid(problem.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_fall_as_their_formulas_say() {
        assert_eq!(Schedule::Constant.share(7.0, 20), 1.0);
        assert_eq!(Schedule::InverseScaling { power: 0.5 }.share(3.0, 20), 0.5);
        assert_eq!(Schedule::Cosine.share(0.0, 20), 1.0);
        assert!((Schedule::Cosine.share(10.0, 20) - 0.5).abs() < 1e-15);
        assert!(Schedule::Cosine.share(20.0, 20).abs() < 1e-15);
        let step = Schedule::Step { every: 5, factor: 0.1 };
        assert_eq!((step.share(4.9, 20), step.share(5.0, 20)), (1.0, 0.1));
    }

    #[test]
    fn a_schedule_out_of_range_is_refused() {
        assert!(Schedule::Step { every: 0, factor: 0.5 }.check().is_err());
        assert!(Schedule::Step { every: 1, factor: 1.5 }.check().is_err());
        assert!(Schedule::InverseScaling { power: -1.0 }.check().is_err());
    }
}
