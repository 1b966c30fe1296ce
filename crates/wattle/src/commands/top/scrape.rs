//! What a server tells of itself at one moment, out of the text of `/metrics`.

use std::{collections::BTreeMap, time::Instant};

/// One look at a server. Counters are since its start; two looks make a rate.
#[derive(Debug, Clone)]
pub(super) struct Scrape {
    /// When the text was there.
    pub(super) at: Instant,
    pub(super) version: String,
    pub(super) ready: bool,
    pub(super) started_at_seconds: f64,
    pub(super) budget_bytes: f64,
    pub(super) process_bytes: f64,
    pub(super) process_cpu_seconds: f64,
    /// All energy that is this server's, idle and unattributed included.
    pub(super) joules: f64,
    pub(super) revisions: BTreeMap<RevisionKey, Counts>,
}

/// A version under a deployment's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RevisionKey {
    pub(super) deployment: String,
    pub(super) model: String,
    pub(super) version: String,
}

/// What one revision counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) ended: f64,
    /// Those of them that were answered well.
    pub(super) answered: f64,
    /// How many calls took at most so many seconds.
    pub(super) durations: Buckets,
    pub(super) batches: f64,
    pub(super) rows: f64,
    pub(super) queued: f64,
    pub(super) in_flight: f64,
    pub(super) loaded: f64,
    pub(super) resident_bytes: f64,
    /// Energy of its calls.
    pub(super) joules: f64,
}

/// The bounds of a histogram and how many values are at most that, both ascending.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Buckets(Vec<(f64, f64)>);

impl Scrape {
    /// Reads the text; lines that this program does not know are left out, since a newer server tells more.
    pub(super) fn parse(text: &str, at: Instant) -> Scrape {
        let mut scrape = Scrape {
            at,
            version: String::new(),
            ready: false,
            started_at_seconds: 0.0,
            budget_bytes: 0.0,
            process_bytes: 0.0,
            process_cpu_seconds: 0.0,
            joules: 0.0,
            revisions: BTreeMap::new(),
        };
        text.lines().filter_map(Sample::parse).for_each(|sample| scrape.take(&sample));
        scrape
    }

    fn take(&mut self, sample: &Sample<'_>) {
        let value = sample.value;
        match sample.name {
            "wattle_build_info" => self.version = sample.label("version").unwrap_or_default().to_owned(),
            "wattle_ready" => self.ready = value > 0.0,
            "wattle_memory_budget_bytes" => self.budget_bytes = value,
            "process_start_time_seconds" => self.started_at_seconds = value,
            "process_resident_memory_bytes" => self.process_bytes = value,
            "process_cpu_seconds_total" => self.process_cpu_seconds = value,
            "wattle_energy_joules_total" => self.joules += value,
            _ => {}
        }
        let (Some(deployment), Some(model), Some(version)) =
            (sample.label("deployment"), sample.label("model"), sample.label("version"))
        else {
            return;
        };
        let key = RevisionKey { deployment: deployment.into(), model: model.into(), version: version.into() };
        let counts = self.revisions.entry(key).or_default();
        match sample.name {
            "wattle_requests_total" => {
                counts.ended += value;
                if matches!(sample.label("code"), Some("200" | "OK")) {
                    counts.answered += value;
                }
            }
            "wattle_request_duration_seconds_bucket" => {
                if let Some(bound) = sample.label("le").and_then(|bound| bound.parse().ok()) {
                    counts.durations.add(bound, value);
                }
            }
            "wattle_batch_rows_sum" => counts.rows = value,
            "wattle_batch_rows_count" => counts.batches = value,
            "wattle_requests_queued" => counts.queued = value,
            "wattle_requests_in_flight" => counts.in_flight = value,
            "wattle_model_loaded" => counts.loaded = value,
            "wattle_model_resident_bytes" => counts.resident_bytes = value,
            "wattle_energy_joules_total" if sample.label("component") == Some("predict") => counts.joules += value,
            _ => {}
        }
    }
}

impl Counts {
    /// What was counted since an earlier look; what is a state and no count stays as it is now. A revision that has counted
    /// less than before was begun anew, and all that it counts is new.
    pub(super) fn since(&self, earlier: Option<&Counts>) -> Counts {
        let Some(earlier) = earlier.filter(|earlier| earlier.ended <= self.ended && earlier.joules <= self.joules)
        else {
            return self.clone();
        };
        Counts {
            ended: self.ended - earlier.ended,
            answered: self.answered - earlier.answered,
            durations: self.durations.since(&earlier.durations),
            batches: self.batches - earlier.batches,
            rows: self.rows - earlier.rows,
            joules: self.joules - earlier.joules,
            ..self.clone()
        }
    }
}

impl Buckets {
    /// Adds to the count below a bound: protocols have histograms of their own with the same bounds.
    pub(super) fn add(&mut self, bound: f64, count: f64) {
        match self.0.binary_search_by(|(has, _)| has.total_cmp(&bound)) {
            Ok(index) => self.0[index].1 += count,
            Err(index) => self.0.insert(index, (bound, count)),
        }
    }

    pub(super) fn merge(&mut self, other: &Buckets) {
        other.0.iter().for_each(|(bound, count)| self.add(*bound, *count));
    }

    fn since(&self, earlier: &Buckets) -> Buckets {
        let before = |bound: f64| earlier.0.iter().find(|(has, _)| *has == bound).map_or(0.0, |(_, count)| *count);
        Buckets(self.0.iter().map(|(bound, count)| (*bound, (count - before(*bound)).max(0.0))).collect())
    }

    /// The value that this part of all values does not pass, evenly spread within its bucket, as Prometheus's
    /// `histogram_quantile` has it; `None` without values. Beyond the last bound it is that bound.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let all = self.0.last().map_or(0.0, |(_, count)| *count);
        if all <= 0.0 {
            return None;
        }
        let rank = part * all;
        let index = self.0.iter().position(|(_, count)| *count >= rank)?;
        let (below, before) = if index == 0 { (0.0, 0.0) } else { self.0[index - 1] };
        let (bound, count) = self.0[index];
        if bound.is_infinite() {
            return Some(below);
        }
        Some(below + (bound - below) * ((rank - before) / (count - before).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0))
    }
}

/// A line of the text.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Sample<'a>> {
        if line.starts_with('#') {
            return None;
        }
        let (head, value) = line.rsplit_once(' ')?;
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        Some(Sample { name, labels: labels.trim_end_matches('}'), value: value.parse().ok()? })
    }

    /// A label's value. The values that are read here have no quotes in them.
    fn label(&self, name: &str) -> Option<&'a str> {
        let pairs = self.labels.split("\",").filter_map(|pair| pair.split_once("=\""));
        pairs.into_iter().find(|(label, _)| *label == name).map(|(_, value)| value.trim_end_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r#"# HELP wattle_build_info The version of the server.
# TYPE wattle_build_info gauge
wattle_build_info{version="1.2.3"} 1
wattle_ready 1
wattle_requests_total{deployment="a",model="line",version="2",protocol="predict",code="200"} 3
wattle_requests_total{deployment="a",model="line",version="2",protocol="grpc",code="OK"} 2
wattle_requests_total{deployment="a",model="line",version="2",protocol="predict",code="503"} 1
wattle_request_duration_seconds_bucket{deployment="a",model="line",version="2",protocol="predict",le="0.01"} 1
wattle_request_duration_seconds_bucket{deployment="a",model="line",version="2",protocol="predict",le="+Inf"} 3
wattle_request_duration_seconds_bucket{deployment="a",model="line",version="2",protocol="grpc",le="0.01"} 2
wattle_request_duration_seconds_bucket{deployment="a",model="line",version="2",protocol="grpc",le="+Inf"} 2
wattle_model_resident_bytes{deployment="a",model="line",version="2"} 4096
wattle_energy_joules_total{deployment="a",model="line",version="2",component="predict",label="estimated"} 0.5
wattle_energy_joules_total{component="idle",label="estimated"} 10.5
something_new{of="a later server"} 7
"#;

    #[test]
    fn a_servers_text_is_read() {
        let scrape = Scrape::parse(TEXT, Instant::now());
        assert_eq!((scrape.version.as_str(), scrape.ready, scrape.joules), ("1.2.3", true, 11.0));
        assert_eq!(scrape.revisions.len(), 1);
        let (key, counts) = scrape.revisions.first_key_value().unwrap();
        assert_eq!((key.deployment.as_str(), key.model.as_str(), key.version.as_str()), ("a", "line", "2"));
        assert_eq!((counts.ended, counts.answered, counts.resident_bytes, counts.joules), (6.0, 5.0, 4096.0, 0.5));
        assert_eq!(counts.durations.0, [(0.01, 3.0), (f64::INFINITY, 5.0)]);
    }

    #[test]
    fn quantiles_are_spread_within_their_bucket() {
        let mut buckets = Buckets::default();
        assert_eq!(buckets.quantile(0.5), None);
        for (bound, count) in [(f64::INFINITY, 100.0), (0.1, 50.0), (0.2, 90.0)] {
            buckets.add(bound, count);
        }
        assert_eq!(buckets.quantile(0.25), Some(0.05));
        assert_eq!(buckets.quantile(0.5), Some(0.1));
        assert!((buckets.quantile(0.7).unwrap() - 0.15).abs() < 1e-12);
        assert_eq!(buckets.quantile(0.99), Some(0.2), "nothing is known beyond the last bound");
    }

    #[test]
    fn an_interval_is_the_difference_and_a_new_beginning_counts_from_zero() {
        let scrape = Scrape::parse(TEXT, Instant::now());
        let counts = scrape.revisions.into_values().next().unwrap();
        let mut later = counts.clone();
        later.ended += 10.0;
        later.answered += 9.0;
        later.joules += 1.0;
        later.durations.add(0.01, 9.0);
        later.durations.add(f64::INFINITY, 9.0);
        later.queued = 4.0;
        let interval = later.since(Some(&counts));
        assert_eq!((interval.ended, interval.answered, interval.joules, interval.queued), (10.0, 9.0, 1.0, 4.0));
        assert_eq!(interval.durations.0, [(0.01, 9.0), (f64::INFINITY, 9.0)]);
        assert_eq!(interval.resident_bytes, 4096.0, "a state is no difference");
        assert_eq!(counts.since(Some(&later)), counts, "the server was restarted");
        assert_eq!(counts.since(None), counts);
    }
}
