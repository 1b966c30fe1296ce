use std::sync::Arc;

use wattle_core::{Energy, Label};

/// A figure's least, likely and greatest value, in this order.
pub type Range = [f64; 3];

/// What the processor's time costs at present, and what the machine draws whoever is served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    /// Drawn without any load, in watts.
    pub(crate) static_watts: Range,
    /// Joules for each second of processor time, on top of the static watts.
    pub(crate) dynamic_watts_per_cpu: Range,
    /// Measured or estimated.
    pub(crate) label: Label,
    /// What says so.
    pub(crate) source: Arc<str>,
}

impl Rates {
    /// The dynamic energy of processor time. What is no time (negative, not a number) costs nothing.
    pub(crate) fn dynamic_energy(&self, cpu_seconds: f64) -> Energy {
        let cpu_seconds = if cpu_seconds.is_finite() { cpu_seconds.max(0.0) } else { 0.0 };
        self.energy(scaled(self.dynamic_watts_per_cpu, cpu_seconds))
    }

    /// An amount of energy under this label and source.
    pub(crate) fn energy(&self, joules: Range) -> Energy {
        let [joules_low, joules, joules_high] = joules;
        Energy { joules_low, joules, joules_high, label: self.label, source: Arc::clone(&self.source) }
    }
}

/// Every value of a range times a factor.
pub(crate) fn scaled(range: Range, factor: f64) -> Range {
    range.map(|value| value * factor)
}

/// A likely value with the same relative error on both sides.
pub(crate) fn with_error(value: f64, error: f64) -> Range {
    [value * (1.0 - error), value, value * (1.0 + error)]
}
