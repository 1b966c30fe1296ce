//! `GET /metrics`: what every revision counts, what the machine and its energy did, in the names that `docs/observe.md`
//! explains.

mod language;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
};
use wattle_core::{Activity, Label};
use wattle_meter::{Total, process_use};
use wattle_serve::metrics::{Eviction, Histogram, Protocol, Refusal, RevisionMetrics, Spent};

use super::{
    App,
    body::off_the_runtime,
    exposition::{Exposition, Format, Kind, Labels},
};
use crate::Result;

/// About what a revision's metrics take as text.
const BYTES_A_REVISION: usize = 16 << 10;

pub(super) async fn show(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<([(header::HeaderName, HeaderValue); 1], String)> {
    let format = Format::wanted(&headers);
    let revisions: Vec<Told> = app.service.metrics().revisions().into_iter().map(Told::from).collect();
    let text = off_the_runtime(revisions.len() * BYTES_A_REVISION, move || {
        let mut to = Exposition::new(format);
        server(&app, &mut to);
        calls(&revisions, &mut to);
        models(&app, &revisions, &mut to);
        language::tell(&revisions, &mut to);
        energy(&revisions, &app.service.totals(), &mut to);
        process(&app, &mut to);
        Ok(to.finish())
    });
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()))], text.await?))
}

/// A revision and its labels.
struct Told {
    labels: Labels,
    metrics: Arc<RevisionMetrics>,
}

impl From<(wattle_serve::metrics::Revision, Arc<RevisionMetrics>)> for Told {
    fn from((revision, metrics): (wattle_serve::metrics::Revision, Arc<RevisionMetrics>)) -> Told {
        let labels = Labels::default()
            .and("deployment", revision.deployment)
            .and("model", revision.model.model)
            .and("version", revision.model.version);
        Told { labels, metrics }
    }
}

impl Told {
    fn spent(&self) -> [(&'static str, &Spent); 2] {
        [(Activity::Predict.as_str(), self.metrics.calls()), (Activity::Load.as_str(), self.metrics.loads())]
    }
}

fn server(app: &App, to: &mut Exposition) {
    to.family("wattle_build_info", Kind::Info, "The version of the server.");
    to.sample(&Labels::default().and("version", app.service.info().version), 1);
    to.family("wattle_ready", Kind::Gauge, "Whether the server accepts calls: 0 while it shuts down.");
    to.sample(&Labels::default(), u8::from(app.service.is_ready()));
    to.family("wattle_http_responses_total", Kind::Counter, "Answers over HTTP by class of status, of all addresses.");
    for (class, count) in app.watch.responses() {
        to.sample(&Labels::default().and("class", class), count);
    }
}

fn calls(revisions: &[Told], to: &mut Exposition) {
    to.family("wattle_requests_total", Kind::Counter, "Calls that ended, by protocol and its code.");
    for told in revisions {
        for protocol in Protocol::ALL {
            for (code, count) in told.metrics.requests(protocol) {
                let labels = told.labels.and("protocol", protocol.as_str()).and("code", code_text(protocol, code));
                to.sample(&labels, count);
            }
        }
    }
    to.family("wattle_request_duration_seconds", Kind::Histogram, "Time from a call's head to its written answer.");
    for told in revisions {
        for protocol in Protocol::ALL {
            let labels = told.labels.and("protocol", protocol.as_str());
            to.distribution(&labels, told.metrics.durations(protocol).distribution());
        }
    }
    to.family("wattle_request_phase_duration_seconds", Kind::Histogram, "The same time split into phases.");
    for told in revisions {
        for (phase, histogram) in told.metrics.phases() {
            to.distribution(&told.labels.and("phase", phase), histogram.distribution());
        }
    }
    gauge(revisions, to, "wattle_requests_in_flight", "Calls that have begun and not ended.", |m| m.in_flight.get());
    gauge(revisions, to, "wattle_requests_queued", "Calls that wait for a batch or a processor.", |m| m.queued.get());
    to.family("wattle_requests_refused_total", Kind::Counter, "Calls that got no place, by reason.");
    for told in revisions {
        for reason in Refusal::ALL {
            to.sample(&told.labels.and("reason", reason.as_str()), told.metrics.refusals(reason));
        }
    }
    counter(
        revisions,
        to,
        "wattle_requests_expired_total",
        "Calls whose deadline passed before they were computed.",
        |m| m.calls_expired(),
    );
    counter(revisions, to, "wattle_requests_cancelled_total", "Calls whose caller left before the answer.", |m| {
        m.calls_cancelled()
    });
    histogram(revisions, to, "wattle_batch_requests", "Calls that were computed together.", |m| m.batch_requests());
    histogram(revisions, to, "wattle_batch_rows", "Rows that were computed together.", |m| m.batch_rows());
}

fn models(app: &App, revisions: &[Told], to: &mut Exposition) {
    gauge(revisions, to, "wattle_model_loaded", "Whether the model is in memory.", |m| m.instances.get());
    gauge(revisions, to, "wattle_model_resident_bytes", "What the model takes in memory.", |m| m.resident_bytes.get());
    histogram(revisions, to, "wattle_model_load_duration_seconds", "Time that loads took.", |m| m.load_seconds());
    counter(revisions, to, "wattle_model_load_failures_total", "Loads that failed.", |m| m.loads_failed());
    to.family("wattle_model_evictions_total", Kind::Counter, "How often the model left memory, by reason.");
    for told in revisions {
        for reason in Eviction::ALL {
            to.sample(&told.labels.and("reason", reason.as_str()), told.metrics.evictions(reason));
        }
    }
    let budget = app.service.metrics().memory_budget_bytes.get();
    to.family(
        "wattle_memory_budget_bytes",
        Kind::Gauge,
        "The memory that models may take together; 0 without a bound.",
    );
    to.sample(&Labels::default(), budget);
}

fn energy(revisions: &[Told], totals: &[Total], to: &mut Exposition) {
    // What calls and loads took is told by revision; all else belongs to none.
    let others = || totals.iter().filter(|total| !matches!(total.activity, Activity::Predict | Activity::Load));
    let other = |total: &Total| Labels::default().and("component", total.activity.as_str());
    to.family("wattle_energy_joules_total", Kind::Counter, "Energy by what it was used for, and how it is known.");
    for told in revisions {
        for (component, spent) in told.spent() {
            for label in [Label::Measured, Label::Estimated] {
                let joules = spent.joules(label);
                if joules > 0.0 {
                    to.sample(&told.labels.and("component", component).and("label", label), joules);
                }
            }
        }
    }
    for total in others() {
        to.sample(&other(total).and("label", total.label), total.joules);
    }
    to.family("wattle_cpu_seconds_total", Kind::Counter, "Processor time by what it was used for.");
    for told in revisions {
        for (component, spent) in told.spent() {
            to.sample(&told.labels.and("component", component), spent.cpu_seconds());
        }
    }
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    for total in others().filter(|total| total.cpu_seconds > 0.0) {
        *seconds.entry(total.activity.as_str()).or_default() += total.cpu_seconds;
    }
    for (component, seconds) in seconds {
        to.sample(&Labels::default().and("component", component), seconds);
    }
}

fn process(app: &App, to: &mut Exposition) {
    let taken = process_use();
    to.family("process_resident_memory_bytes", Kind::Gauge, "Memory of the server that is really there.");
    to.sample(&Labels::default(), taken.resident_bytes);
    to.family("process_cpu_seconds_total", Kind::Counter, "Processor time of the server.");
    to.sample(&Labels::default(), taken.cpu_seconds);
    to.family("process_open_fds", Kind::Gauge, "Open files of the server, connections among them.");
    to.sample(&Labels::default(), taken.open_files);
    to.family("process_start_time_seconds", Kind::Gauge, "When the server started, in seconds since 1970.");
    to.sample(&Labels::default(), app.watch.started_at_seconds());
}

fn gauge(
    revisions: &[Told],
    to: &mut Exposition,
    name: &'static str,
    help: &str,
    of: impl Fn(&RevisionMetrics) -> i64,
) {
    to.family(name, Kind::Gauge, help);
    revisions.iter().for_each(|told| to.sample(&told.labels, of(&told.metrics)));
}

fn counter(
    revisions: &[Told],
    to: &mut Exposition,
    name: &'static str,
    help: &str,
    of: impl Fn(&RevisionMetrics) -> u64,
) {
    to.family(name, Kind::Counter, help);
    revisions.iter().for_each(|told| to.sample(&told.labels, of(&told.metrics)));
}

fn histogram(
    revisions: &[Told],
    to: &mut Exposition,
    name: &'static str,
    help: &str,
    of: impl Fn(&RevisionMetrics) -> &Histogram,
) {
    to.family(name, Kind::Histogram, help);
    revisions.iter().for_each(|told| to.distribution(&told.labels, of(&told.metrics).distribution()));
}

/// A code as its protocol writes it.
fn code_text(protocol: Protocol, code: u16) -> String {
    /// In the order of their numbers.
    const GRPC: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    match (protocol, code) {
        (_, u16::MAX) => "other".into(),
        (Protocol::Grpc, code) => GRPC.get(usize::from(code)).map_or_else(|| code.to_string(), |&name| name.into()),
        _ => code.to_string(),
    }
}
