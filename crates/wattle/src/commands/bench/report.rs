//! What a load showed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;
use wattle_core::{Energy, Name, grouped};

use super::{
    chart::{self, Bar},
    tally::Tally,
};
use crate::{
    commands::predict::cost::Cost,
    output::{bytes, pairs, quantity, significant},
};

/// A processor that was busy for more than this part of the time may have been what held the load back.
const BUSY: f64 = 0.9;

/// Everything that a load showed, as scripts read it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) load: Settings,
    /// The time that was measured, up to the last answer.
    pub(super) seconds: f64,
    /// Whether it was ended before its time.
    pub(super) interrupted: bool,
    /// Requests of the warm-up, which count nowhere else.
    warmup_requests: u64,
    /// Requests that ended.
    requests: u64,
    /// Those that were answered with a success; what follows is about them.
    answered: u64,
    answered_per_second: f64,
    /// The others, by status or reason.
    errors: BTreeMap<String, u64>,
    /// Those that were due and never sent, because all connections were busy; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unsent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<Times>,
    /// From when requests were sent, not due; absent in a closed loop, where both are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_from_sent_ms: Option<Times>,
    histogram: Vec<Bar>,
    /// Bytes of bodies.
    sent_bytes: u64,
    received_bytes: u64,
    /// The server's own mean time in the engine for a call.
    pub(super) mean_compute_ms: Option<f64>,
    /// What the answers say that they cost, divided by their number.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_cost: Option<MeanCost>,
    /// The part of one processor that sending and reading took here.
    pub(super) client_cpu: f64,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Settings {
    pub(super) deployment: Name,
    pub(super) url: String,
    pub(super) protocol: String,
    pub(super) connections: usize,
    /// Requests a second and how they follow each other; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) arrivals: Option<String>,
    pub(super) warmup_seconds: f64,
}

/// Mean and quantiles, in milliseconds.
#[derive(Debug, Serialize)]
struct Times {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct MeanCost {
    cpu_seconds: f64,
    energy_joules: f64,
    energy_joules_low: f64,
    energy_joules_high: f64,
    energy_label: String,
    energy_source: String,
}

impl Report {
    /// What was counted in so many seconds.
    pub(super) fn new(load: Settings, tally: &Tally, seconds: f64) -> Report {
        let open = load.rps.is_some();
        let times = |times: &Histogram<u64>| (!times.is_empty()).then(|| Times::of(times));
        Report {
            load,
            seconds,
            interrupted: false,
            warmup_requests: tally.warmup,
            requests: tally.answered + tally.failed(),
            answered: tally.answered,
            answered_per_second: if seconds > 0.0 { tally.answered as f64 / seconds } else { 0.0 },
            errors: tally.faults.iter().map(|(fault, count)| (fault.to_string(), *count)).collect(),
            unsent: open.then_some(0),
            latency_ms: times(&tally.latency),
            latency_from_sent_ms: times(&tally.service).filter(|_| open),
            histogram: chart::bars(&tally.latency),
            sent_bytes: tally.sent_bytes,
            received_bytes: tally.received_bytes,
            mean_compute_ms: None,
            mean_cost: tally.cost.as_ref().map(MeanCost::of),
            client_cpu: 0.0,
        }
    }

    /// For people.
    pub(super) fn show(&self) -> String {
        let Settings { deployment, url, protocol, connections, rps, arrivals, warmup_seconds } = &self.load;
        let load = match (rps, arrivals) {
            (Some(rps), Some(arrivals)) => {
                format!("{} requests a second ({arrivals}), at most {connections} under way", significant(*rps))
            }
            _ => format!("{connections} connections, each sends when it is answered"),
        };
        let mut rows = vec![
            ("deployment", format!("{deployment} ({protocol}) at {url}")),
            ("load", load),
            ("measured", format!("{} after {} of warm-up", time(self.seconds), time(*warmup_seconds))),
            ("answered", format!("{}, {} a second", grouped(self.answered), rate(self.answered_per_second))),
        ];
        if !self.errors.is_empty() {
            let errors = self.errors.iter().map(|(what, count)| format!("{what}: {}", grouped(*count)));
            rows.push(("errors", errors.collect::<Vec<_>>().join(", ")));
        }
        if let Some(unsent) = self.unsent.filter(|unsent| *unsent > 0) {
            rows.push(("not sent", format!("{}: they were due while all connections were busy", grouped(unsent))));
        }
        if let Some(latency) = &self.latency_ms {
            rows.push(("latency", latency.show()));
        }
        if let Some(latency) = &self.latency_from_sent_ms {
            rows.push(("  from sent", latency.show()));
        }
        rows.push(("bodies", format!("{} sent, {} received", bytes(self.sent_bytes), bytes(self.received_bytes))));
        if let Some(compute) = self.mean_compute_ms {
            rows.push(("compute", format!("{} a call in the engine, as the server says", time(compute / 1e3))));
        }
        if let Some(cost) = &self.mean_cost {
            rows.push(("processor", format!("{} a call", time(cost.cpu_seconds))));
            rows.push(("energy", cost.show_energy()));
        }
        let held_back = if self.client_cpu > BUSY { ": this may be what held the load back" } else { "" };
        rows.push(("client", format!("{:.0} % of one processor{held_back}", self.client_cpu * 100.0)));
        format!("{}\n{}", pairs(&rows), chart::draw(&self.histogram))
    }
}

impl Times {
    fn of(times: &Histogram<u64>) -> Times {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
        Times {
            mean: times.mean() / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: times.max() as f64 / 1e6,
        }
    }

    fn show(&self) -> String {
        let named = [
            ("mean", self.mean),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("max", self.max),
        ];
        named.map(|(name, ms)| format!("{name} {}", time(ms / 1e3))).join(", ")
    }
}

impl MeanCost {
    fn of(cost: &Cost) -> MeanCost {
        let calls = cost.calls as f64;
        let Energy { joules_low, joules, joules_high, label, source } = &cost.energy;
        MeanCost {
            cpu_seconds: cost.cpu_seconds / calls,
            energy_joules: joules / calls,
            energy_joules_low: joules_low / calls,
            energy_joules_high: joules_high / calls,
            energy_label: label.to_string(),
            energy_source: source.to_string(),
        }
    }

    fn show_energy(&self) -> String {
        let joules = |joules| quantity(joules, "J");
        format!(
            "{} a call ({} to {}), {}: {}",
            joules(self.energy_joules),
            joules(self.energy_joules_low),
            joules(self.energy_joules_high),
            self.energy_label,
            self.energy_source
        )
    }
}

fn time(seconds: f64) -> String {
    quantity(seconds, "s")
}

/// Whole numbers where there are many, since the digits of a rate are compared.
fn rate(per_second: f64) -> String {
    if per_second < 100.0 { significant(per_second) } else { grouped(per_second.round() as u64) }
}
