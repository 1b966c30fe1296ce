//! What two looks at a server make: rates, percentiles, watts.

use serde::Serialize;

use super::scrape::{Buckets, Counts, Scrape};
use crate::flags::TopOrder;

/// A server over an interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) version: String,
    pub(super) ready: bool,
    pub(super) uptime_seconds: f64,
    pub(super) interval_seconds: f64,
    pub(super) calls_per_second: f64,
    /// The part of the calls that was not answered well, if there were calls.
    pub(super) failed: Option<f64>,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
    pub(super) queued: f64,
    pub(super) in_flight: f64,
    pub(super) resident_bytes: f64,
    /// Zero without a bound.
    pub(super) budget_bytes: f64,
    pub(super) process_bytes: f64,
    /// Processors at work for the server.
    pub(super) processors: f64,
    /// Everything that is this server's, idle power included.
    pub(super) watts: f64,
    pub(super) deployments: Vec<Row>,
}

/// A revision over an interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) deployment: String,
    pub(super) model: String,
    pub(super) loaded: bool,
    pub(super) calls_per_second: f64,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
    pub(super) failed: Option<f64>,
    pub(super) rows_per_batch: Option<f64>,
    pub(super) queued: f64,
    pub(super) in_flight: f64,
    pub(super) resident_bytes: f64,
    pub(super) watts: f64,
    pub(super) joules_per_call: Option<f64>,
}

impl Figures {
    /// What happened between two looks; `now_seconds` is the time since 1970.
    pub(super) fn between(earlier: &Scrape, later: &Scrape, now_seconds: f64) -> Figures {
        // A server that was restarted in between has nothing to do with what it told before.
        let same = earlier.started_at_seconds == later.started_at_seconds;
        let interval_seconds = later.at.duration_since(earlier.at).as_secs_f64().max(1e-3);
        let rate = |before: f64, now: f64| (if same { (now - before).max(0.0) } else { now }) / interval_seconds;
        let mut all = Counts::default();
        let mut durations = Buckets::default();
        let mut deployments = Vec::new();
        for (key, counts) in &later.revisions {
            let before = earlier.revisions.get(key).filter(|_| same);
            let interval = counts.since(before);
            all.ended += interval.ended;
            all.answered += interval.answered;
            all.queued += interval.queued;
            all.in_flight += interval.in_flight;
            all.resident_bytes += interval.resident_bytes;
            durations.merge(&interval.durations);
            deployments.push(Row {
                deployment: key.deployment.clone(),
                model: format!("{}:{}", key.model, key.version),
                loaded: interval.loaded > 0.0,
                calls_per_second: interval.ended / interval_seconds,
                p50_seconds: interval.durations.quantile(0.5),
                p99_seconds: interval.durations.quantile(0.99),
                failed: failed(&interval),
                rows_per_batch: ratio(interval.rows, interval.batches),
                queued: interval.queued,
                in_flight: interval.in_flight,
                resident_bytes: interval.resident_bytes,
                watts: interval.joules / interval_seconds,
                joules_per_call: ratio(interval.joules, interval.answered),
            });
        }
        Figures {
            version: later.version.clone(),
            ready: later.ready,
            uptime_seconds: (now_seconds - later.started_at_seconds).max(0.0),
            interval_seconds,
            calls_per_second: all.ended / interval_seconds,
            failed: failed(&all),
            p50_seconds: durations.quantile(0.5),
            p99_seconds: durations.quantile(0.99),
            queued: all.queued,
            in_flight: all.in_flight,
            resident_bytes: all.resident_bytes,
            budget_bytes: later.budget_bytes,
            process_bytes: later.process_bytes,
            processors: rate(earlier.process_cpu_seconds, later.process_cpu_seconds),
            watts: rate(earlier.joules, later.joules),
            deployments,
        }
    }

    /// Puts the deployments into this order: names ascend, figures descend.
    pub(super) fn sort(&mut self, order: TopOrder) {
        let figure = |row: &Row| match order {
            TopOrder::Name => 0.0,
            TopOrder::Calls => row.calls_per_second,
            TopOrder::Latency => row.p99_seconds.unwrap_or(0.0),
            TopOrder::Memory => row.resident_bytes,
            TopOrder::Power => row.watts,
        };
        // They come by name, and a stable order keeps that among equals.
        self.deployments.sort_by(|one, other| figure(other).total_cmp(&figure(one)));
    }
}

fn failed(counts: &Counts) -> Option<f64> {
    ratio(counts.ended - counts.answered, counts.ended)
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A server that has answered so many calls of `a`, in 5 ms each, and none of `b`.
    fn scrape(at: Instant, started: f64, calls: f64) -> Scrape {
        let labels = r#"deployment="a",model="line",version="1""#;
        let text = format!(
            "wattle_ready 1\nprocess_start_time_seconds {started}\nprocess_cpu_seconds_total {}\n\
             wattle_requests_total{{{labels},protocol=\"v2\",code=\"200\"}} {calls}\n\
             wattle_requests_total{{{labels},protocol=\"v2\",code=\"400\"}} {calls}\n\
             wattle_request_duration_seconds_bucket{{{labels},protocol=\"v2\",le=\"0.01\"}} {calls}\n\
             wattle_request_duration_seconds_bucket{{{labels},protocol=\"v2\",le=\"+Inf\"}} {calls}\n\
             wattle_batch_rows_sum{{{labels}}} {}\nwattle_batch_rows_count{{{labels}}} {calls}\n\
             wattle_energy_joules_total{{{labels},component=\"predict\",label=\"estimated\"}} {}\n\
             wattle_energy_joules_total{{component=\"idle\",label=\"estimated\"}} {calls}\n\
             wattle_model_loaded{{deployment=\"b\",model=\"line\",version=\"1\"}} 1\n",
            calls / 10.0,
            calls * 4.0,
            calls / 4.0,
        );
        Scrape::parse(&text, at)
    }

    #[test]
    fn two_looks_make_rates() {
        let start = Instant::now();
        let (earlier, later) = (scrape(start, 50.0, 100.0), scrape(start + Duration::from_secs(2), 50.0, 140.0));
        let figures = Figures::between(&earlier, &later, 170.0);
        assert_eq!((figures.interval_seconds, figures.uptime_seconds, figures.ready), (2.0, 120.0, true));
        assert_eq!((figures.calls_per_second, figures.failed), (40.0, Some(0.5)));
        assert_eq!((figures.processors, figures.watts), (2.0, 25.0));
        let row = &figures.deployments[0];
        assert_eq!((row.calls_per_second, row.rows_per_batch, row.watts), (40.0, Some(4.0), 5.0));
        assert_eq!((row.joules_per_call, row.p50_seconds), (Some(0.25), Some(0.005)));
        let quiet = &figures.deployments[1];
        assert_eq!((quiet.calls_per_second, quiet.failed, quiet.p99_seconds, quiet.loaded), (0.0, None, None, true));
    }

    #[test]
    fn a_restart_begins_anew() {
        let start = Instant::now();
        // The new server has counted more than the old one had, and all of it since.
        let (earlier, later) = (scrape(start, 50.0, 100.0), scrape(start + Duration::from_secs(1), 60.0, 140.0));
        let figures = Figures::between(&earlier, &later, 61.0);
        assert_eq!((figures.calls_per_second, figures.watts), (280.0, 175.0));
    }

    #[test]
    fn orders_descend_by_figure_and_ascend_by_name() {
        let start = Instant::now();
        let (earlier, later) = (scrape(start, 50.0, 0.0), scrape(start + Duration::from_secs(1), 50.0, 1.0));
        let mut figures = Figures::between(&earlier, &later, 61.0);
        let mut names = |order| {
            figures.sort(order);
            figures.deployments.iter().map(|row| row.deployment.clone()).collect::<String>()
        };
        assert_eq!(names(TopOrder::Calls), "ab");
        assert_eq!(names(TopOrder::Name), "ab");
        figures.deployments[1].resident_bytes = 1.0;
        let mut names = |order| {
            figures.sort(order);
            figures.deployments.iter().map(|row| row.deployment.clone()).collect::<String>()
        };
        assert_eq!(names(TopOrder::Memory), "ba");
        assert_eq!(names(TopOrder::Power), "ab");
    }
}
