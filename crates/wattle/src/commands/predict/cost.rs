use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use wattle_core::Energy;

use crate::output::quantity;

/// What calls cost, by the headers of their answers.
pub(crate) struct Cost {
    pub(crate) calls: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) energy: Energy,
}

impl Cost {
    /// That of one call; `None` where the headers do not say.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Cost> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name: &str| text(name)?.parse::<f64>().ok();
        Some(Cost {
            calls: 1,
            cpu_seconds: number("x-wattle-cpu-seconds")?,
            energy: Energy {
                joules_low: number("x-wattle-energy-joules-low")?,
                joules: number("x-wattle-energy-joules")?,
                joules_high: number("x-wattle-energy-joules-high")?,
                label: serde_json::from_value(json!(text("x-wattle-energy-label")?)).ok()?,
                source: text("x-wattle-energy-source")?.into(),
            },
        })
    }

    /// The cost of these calls and of those.
    pub(crate) fn and(mut self, other: &Cost) -> Cost {
        self.calls += other.calls;
        self.cpu_seconds += other.cpu_seconds;
        self.energy += &other.energy;
        self
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let calls = if self.calls == 1 { "1 call".to_owned() } else { format!("{} calls", self.calls) };
        format!(
            "{calls}: {} of processor time, {} ({})",
            quantity(self.cpu_seconds, "s"),
            quantity(self.energy.joules, "J"),
            self.energy.label
        )
    }

    /// For scripts.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "calls": self.calls,
            "cpu_seconds": self.cpu_seconds,
            "energy_joules": self.energy.joules,
            "energy_joules_low": self.energy.joules_low,
            "energy_joules_high": self.energy.joules_high,
            "energy_label": self.energy.label,
            "energy_source": self.energy.source,
        })
    }
}
