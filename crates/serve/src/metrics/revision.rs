use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use wattle_core::{Activity, Label, Usage};

use crate::tokens::Statistics;

use super::{
    Eviction, Gauge, Protocol, Refusal,
    codes::Codes,
    histogram::{COUNTS, Histogram, SECONDS},
};

/// Where the time of an answered call went, in the order in which it passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Reading the body and making tensors of it; whoever observes the call works it out.
    pub read: Duration,
    /// Waiting for its batch, for its model to be loaded and for a processor.
    pub queue: Duration,
    /// Putting the batch's tensors together.
    pub batch: Duration,
    /// In the engine.
    pub compute: Duration,
    /// Taking the outputs apart and writing the answer.
    pub reply: Duration,
}

impl Phases {
    /// Their names, in order.
    pub const NAMES: [&'static str; 5] = ["read", "queue", "batch", "compute", "reply"];

    /// Their lengths, in the order of [`Phases::NAMES`].
    pub fn lengths(&self) -> [Duration; 5] {
        [self.read, self.queue, self.batch, self.compute, self.reply]
    }
}

/// What one revision of a deployment counts.
#[derive(Debug)]
pub struct RevisionMetrics {
    /// Calls that wait for a batch or for their model's turn.
    pub queued: Gauge,
    /// Calls that have begun and are not answered.
    pub in_flight: Gauge,
    /// How many instances of its model are in memory: none, or one; for a moment two, when one goes and another comes.
    pub instances: Gauge,
    /// What its model takes in memory, in bytes.
    pub resident_bytes: Gauge,
    codes: [Codes; Protocol::ALL.len()],
    durations: [Histogram; Protocol::ALL.len()],
    phases: [Histogram; 5],
    batch_rows: Histogram,
    batch_requests: Histogram,
    load_seconds: Histogram,
    loads_failed: AtomicU64,
    evictions: [AtomicU64; 5],
    refusals: [AtomicU64; 4],
    answered_at_ms: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    calls: Spent,
    loads: Spent,
    tokens: Mutex<Statistics>,
    wasted: Spent,
}

/// Processor time and energy.
#[derive(Debug, Default)]
pub struct Spent {
    cpu_nanos: AtomicU64,
    measured_nanojoules: AtomicU64,
    estimated_nanojoules: AtomicU64,
}

/// A call that is being observed, from the moment its deployment is known. One that is dropped before its end was told
/// belongs to a caller who left.
#[derive(Debug)]
pub struct Observation {
    metrics: Arc<RevisionMetrics>,
    protocol: Protocol,
    started: Instant,
    ended: bool,
}

impl RevisionMetrics {
    pub(super) fn new() -> RevisionMetrics {
        let times = |_| Histogram::new(&SECONDS);
        RevisionMetrics {
            queued: Gauge::default(),
            in_flight: Gauge::default(),
            instances: Gauge::default(),
            resident_bytes: Gauge::default(),
            codes: std::array::from_fn(|_| Codes::new()),
            durations: std::array::from_fn(times),
            phases: std::array::from_fn(times),
            batch_rows: Histogram::new(&COUNTS),
            batch_requests: Histogram::new(&COUNTS),
            load_seconds: Histogram::new(&SECONDS),
            loads_failed: AtomicU64::new(0),
            evictions: Default::default(),
            refusals: Default::default(),
            answered_at_ms: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            calls: Spent::default(),
            loads: Spent::default(),
            tokens: Mutex::default(),
            wasted: Spent::default(),
        }
    }

    /// Begins to observe a call. Every adapter does so as soon as it knows the deployment, before it reads the body.
    pub fn observe(self: &Arc<Self>, protocol: Protocol) -> Observation {
        self.in_flight.add(1);
        Observation { metrics: Arc::clone(self), protocol, started: Instant::now(), ended: false }
    }

    /// Counts a call that got no place.
    pub fn refused(&self, reason: Refusal) {
        self.refusals[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a call whose deadline passed before it was computed.
    pub fn expired(&self) {
        self.expired.fetch_add(1, Relaxed);
    }

    /// Counts a batch that was computed.
    pub fn batch(&self, requests: usize, rows: usize) {
        self.batch_requests.add(requests as u64);
        self.batch_rows.add(rows as u64);
    }

    /// Counts an attempt to load the model, which took so long.
    pub fn loaded(&self, time: Duration, succeeded: bool) {
        match succeeded {
            true => self.load_seconds.add_time(time),
            false => {
                self.loads_failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Counts a model's leaving memory.
    pub fn evicted(&self, reason: Eviction) {
        self.evictions[reason as usize].fetch_add(1, Relaxed);
    }

    /// Adds what a language model's scheduler has counted since it was last asked, and what of it was spent for nobody.
    pub fn count_tokens(&self, new: &Statistics, wasted: &Usage) {
        if wasted.cpu_seconds > 0.0 {
            self.calls.add(wasted);
            self.wasted.add(wasted);
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        *tokens = new.after(&tokens);
    }

    /// The model is gone, and nothing of it is kept any more.
    pub(crate) fn model_gone(&self) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *tokens);
        *tokens = Statistics::default().after(&before);
    }

    /// What was spent on answers whose callers left; a part of what was spent on calls.
    pub fn wasted(&self) -> &Spent {
        &self.wasted
    }

    /// What the schedulers of a language model have counted, a second ago at most.
    pub fn tokens(&self) -> Statistics {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what was spent for this revision: on its loads, or on its calls, also on those that failed.
    pub fn spent(&self, usage: &Usage) {
        match usage.activity {
            Activity::Load => self.loads.add(usage),
            _ => self.calls.add(usage),
        }
    }

    /// How often calls by a protocol ended with each of its codes; 65535 stands for all further ones.
    pub fn requests(&self, protocol: Protocol) -> Vec<(u16, u64)> {
        self.codes[protocol as usize].counts()
    }

    /// How long answered calls by a protocol took as a whole.
    pub fn durations(&self, protocol: Protocol) -> &Histogram {
        &self.durations[protocol as usize]
    }

    /// When a call was last answered, in milliseconds since 1970; `None` before the first.
    pub fn answered_at_ms(&self) -> Option<u64> {
        Some(self.answered_at_ms.load(Relaxed)).filter(|at| *at > 0)
    }

    /// How long each phase of answered calls took.
    pub fn phases(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        Phases::NAMES.into_iter().zip(&self.phases)
    }

    /// How many rows the batches had.
    pub fn batch_rows(&self) -> &Histogram {
        &self.batch_rows
    }

    /// How many calls the batches had.
    pub fn batch_requests(&self) -> &Histogram {
        &self.batch_requests
    }

    /// How long loads took that succeeded.
    pub fn load_seconds(&self) -> &Histogram {
        &self.load_seconds
    }

    /// How many loads failed.
    pub fn loads_failed(&self) -> u64 {
        self.loads_failed.load(Relaxed)
    }

    /// How often the model left memory for this reason.
    pub fn evictions(&self, reason: Eviction) -> u64 {
        self.evictions[reason as usize].load(Relaxed)
    }

    /// How many calls got no place for this reason.
    pub fn refusals(&self, reason: Refusal) -> u64 {
        self.refusals[reason as usize].load(Relaxed)
    }

    /// How many calls were given up since their deadline had passed.
    pub fn calls_expired(&self) -> u64 {
        self.expired.load(Relaxed)
    }

    /// How many callers left before their answer was there.
    pub fn calls_cancelled(&self) -> u64 {
        self.cancelled.load(Relaxed)
    }

    /// What was spent on calls.
    pub fn calls(&self) -> &Spent {
        &self.calls
    }

    /// What was spent on loads.
    pub fn loads(&self) -> &Spent {
        &self.loads
    }
}

impl Spent {
    /// Processor time, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_nanos.load(Relaxed) as f64 / 1e9
    }

    /// Energy, in joules, as far as it is known in this way.
    pub fn joules(&self, label: Label) -> f64 {
        self.of(label).load(Relaxed) as f64 / 1e9
    }

    fn add(&self, usage: &Usage) {
        let nanos = |amount: f64| (amount.max(0.0) * 1e9).round() as u64;
        self.cpu_nanos.fetch_add(nanos(usage.cpu_seconds), Relaxed);
        self.of(usage.energy.label).fetch_add(nanos(usage.energy.joules), Relaxed);
    }

    fn of(&self, label: Label) -> &AtomicU64 {
        match label {
            Label::Measured => &self.measured_nanojoules,
            Label::Estimated => &self.estimated_nanojoules,
        }
    }
}

impl Observation {
    /// The call failed, with this code of its protocol. It has no part in the latencies: one that was refused at once says
    /// nothing of how long an answer takes.
    pub fn failed(mut self, code: u16) {
        self.ended = true;
        self.metrics.codes[self.protocol as usize].count(code);
    }

    /// The call is answered, with this code of its protocol. What is left of its time was spent on reading it; the phases
    /// as they then are add up to the whole.
    pub fn answered(mut self, code: u16, mut phases: Phases) -> Phases {
        self.ended = true;
        let whole = self.started.elapsed();
        phases.read = Duration::ZERO;
        phases.read = whole.saturating_sub(phases.lengths().iter().sum());
        self.metrics.codes[self.protocol as usize].count(code);
        self.metrics.durations[self.protocol as usize].add_time(whole);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.answered_at_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Relaxed);
        for (histogram, length) in self.metrics.phases.iter().zip(phases.lengths()) {
            histogram.add_time(length);
        }
        phases
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.metrics.in_flight.add(-1);
        if !self.ended {
            self.metrics.cancelled.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_core::Energy;

    use super::*;

    fn metrics() -> Arc<RevisionMetrics> {
        Arc::new(RevisionMetrics::new())
    }

    #[test]
    fn an_answered_call_counts_once_everywhere() {
        let metrics = metrics();
        let observation = metrics.observe(Protocol::V2);
        assert_eq!(metrics.in_flight.get(), 1);
        let phases = Phases { compute: Duration::from_millis(3), ..Phases::default() };
        let phases = observation.answered(200, phases);
        assert_eq!(phases.compute, Duration::from_millis(3));
        assert_eq!((metrics.in_flight.get(), metrics.calls_cancelled()), (0, 0));
        assert!(metrics.answered_at_ms().is_some());
        assert_eq!(metrics.requests(Protocol::V2), [(200, 1)]);
        assert!(metrics.requests(Protocol::Grpc).is_empty());
        assert_eq!(metrics.durations(Protocol::V2).distribution().unwrap().count, 1);
        for (name, histogram) in metrics.phases() {
            let told = histogram.distribution().unwrap();
            let length = phases.lengths()[Phases::NAMES.iter().position(|known| *known == name).unwrap()];
            assert_eq!((told.count, told.sum), (1, length.as_secs_f64()));
        }
    }

    #[test]
    fn a_refused_call_has_no_latency_and_a_dropped_one_no_code() {
        let metrics = metrics();
        metrics.observe(Protocol::Predict).failed(503);
        drop(metrics.observe(Protocol::Predict));
        assert_eq!(metrics.requests(Protocol::Predict), [(503, 1)]);
        assert_eq!(metrics.durations(Protocol::Predict).distribution(), None);
        assert_eq!((metrics.in_flight.get(), metrics.calls_cancelled()), (0, 1));
    }

    #[test]
    fn reasons_and_labels_are_kept_apart() {
        let metrics = metrics();
        for (index, reason) in Refusal::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| metrics.refused(reason));
        }
        assert_eq!(Refusal::ALL.map(|reason| metrics.refusals(reason)), [1, 2, 3, 4]);
        metrics.loaded(Duration::from_millis(30), true);
        metrics.loaded(Duration::from_millis(30), false);
        assert_eq!((metrics.load_seconds().distribution().unwrap().count, metrics.loads_failed()), (1, 1));
        metrics.evicted(Eviction::Idle);
        assert_eq!(Eviction::ALL.map(|reason| metrics.evictions(reason)), [0, 1, 0, 0, 0]);

        let energy = |joules, label| Energy { joules_low: 0.0, joules, joules_high: 1.0, label, source: "test".into() };
        let usage = |energy| Usage {
            activity: Activity::Predict,
            deployment: None,
            model: None,
            version: None,
            requests: 1,
            rows: 1,
            cpu_seconds: 0.25,
            in_child: false,
            energy,
        };
        metrics.spent(&usage(energy(0.5, Label::Measured)));
        metrics.spent(&usage(energy(0.000_25, Label::Estimated)));
        metrics.spent(&Usage { activity: Activity::Load, ..usage(energy(2.0, Label::Measured)) });
        let (calls, loads) = (metrics.calls(), metrics.loads());
        assert_eq!((calls.joules(Label::Measured), calls.joules(Label::Estimated)), (0.5, 0.000_25));
        assert_eq!((calls.cpu_seconds(), loads.cpu_seconds(), loads.joules(Label::Measured)), (0.5, 0.25, 2.0));
    }
}
