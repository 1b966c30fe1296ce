use std::{fmt, ops::AddAssign, sync::Arc};

use serde::{Deserialize, Serialize};

/// Whether a figure was read off a sensor or reckoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Read off a sensor (RAPL).
    Measured,
    /// Reckoned from a power model or from watts that the operator gave.
    Estimated,
}

impl Label {
    /// The label as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Label::Measured => "measured",
            Label::Estimated => "estimated",
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An amount of energy and how far it can be trusted: `joules_low <= joules <= joules_high`, all equal when measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// The least that it can have been.
    pub joules_low: f64,
    /// The likely figure.
    pub joules: f64,
    /// The most that it can have been.
    pub joules_high: f64,
    /// Measured or estimated.
    pub label: Label,
    /// What said so, for example `rapl` or `cpu model: EPYC gen 3`.
    pub source: Arc<str>,
}

impl AddAssign<&Energy> for Energy {
    /// Sums the joules; a sum with an estimated part is estimated.
    fn add_assign(&mut self, other: &Energy) {
        self.joules_low += other.joules_low;
        self.joules += other.joules;
        self.joules_high += other.joules_high;
        self.label = self.label.max(other.label);
        if self.source != other.source && !self.source.split(" + ").any(|source| source == &*other.source) {
            self.source = format!("{} + {}", self.source, other.source).into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn energy(joules: f64, label: Label, source: &str) -> Energy {
        Energy { joules_low: joules / 2.0, joules, joules_high: joules * 2.0, label, source: source.into() }
    }

    #[test]
    fn a_sum_with_an_estimated_part_is_estimated() {
        let mut sum = energy(1.0, Label::Measured, "rapl");
        sum += &energy(2.0, Label::Estimated, "model");
        sum += &energy(2.0, Label::Estimated, "model");
        assert_eq!((sum.joules_low, sum.joules, sum.joules_high), (2.5, 5.0, 10.0));
        assert_eq!((sum.label, &*sum.source), (Label::Estimated, "rapl + model"));
    }
}
