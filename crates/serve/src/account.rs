//! What serving a revision takes, counted and booked.

use std::{
    sync::{PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use wattle_core::{Activity, Usage};
use wattle_store::Isolation;

use crate::{
    Error,
    replica::{Counters, Served, micros},
    speaker::Speaker,
    tokens::Statistics,
};

/// What was computed at once.
pub(crate) struct Batch {
    pub(crate) calls: usize,
    pub(crate) rows: usize,
    /// Those of the calls that are copies, which nobody asked for.
    pub(crate) copied_calls: usize,
    pub(crate) copied_rows: usize,
    pub(crate) cpu_seconds: f64,
    pub(crate) compute: Duration,
}

impl Batch {
    pub(crate) fn of_one(rows: usize, copy: bool, cpu_seconds: f64, compute: Duration) -> Batch {
        let (copied_calls, copied_rows) = if copy { (1, rows) } else { (0, 0) };
        Batch { calls: 1, rows, copied_calls, copied_rows, cpu_seconds, compute }
    }
}

/// Calls that compute; they do until this is dropped.
pub(crate) struct Computing<'a> {
    counters: &'a Counters,
    calls: u64,
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        self.counters.in_flight.fetch_sub(self.calls, Relaxed);
    }
}

impl Served {
    /// Adds what a language model's scheduler has counted since it was last asked.
    pub(crate) fn count_tokens(&self, speaker: &dyn Speaker) {
        let now = speaker.statistics();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let new = now.since(&counted);
        *counted = now;
        drop(counted);
        let wasted = self.usage(0, 0, new.wasted_cpu_seconds);
        self.metrics.count_tokens(&new, &wasted);
        if new.wasted_cpu_seconds > 0.0 {
            self.meter.record(wasted);
        }
    }

    /// A language model that was just loaded has counted nothing yet.
    pub(crate) fn begin_counting(&self) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Statistics::default();
    }

    /// Calls that compute now.
    pub(crate) fn computing(&self, calls: usize) -> Computing<'_> {
        let calls = calls as u64;
        self.counters.in_flight.fetch_add(calls, Relaxed);
        Computing { counters: &self.counters, calls }
    }

    /// Books a batch.
    pub(crate) fn account(&self, batch: &Batch) {
        if batch.calls > 0 {
            self.counters.requests.fetch_add(batch.calls as u64, Relaxed);
            self.counters.compute_micros.fetch_add(micros(batch.compute), Relaxed);
            self.metrics.batch(batch.calls, batch.rows);
        }
        let asked = |all: usize, copied: usize| all.saturating_sub(copied) as u64;
        let (requests, rows) = (asked(batch.calls, batch.copied_calls), asked(batch.rows, batch.copied_rows));
        let usage = self.usage(requests, rows, batch.cpu_seconds);
        self.metrics.spent(&usage);
        self.meter.record(usage);
    }

    /// Books what loading took: it is the deployment's, whose calls made it necessary.
    pub(crate) fn account_load(&self, cpu_seconds: f64) {
        let usage = Usage { activity: Activity::Load, ..self.usage(0, 0, cpu_seconds) };
        self.metrics.spent(&usage);
        self.meter.record(usage);
    }

    /// Counts a call that failed in the model.
    pub(crate) fn failed(&self, error: &Error) {
        self.counters.requests.fetch_add(1, Relaxed);
        if matches!(error, Error::Run(_) | Error::Crashed { .. } | Error::Unreached { .. }) {
            self.counters.failures.fetch_add(1, Relaxed);
        }
    }

    /// Usage by this version.
    pub(crate) fn usage(&self, requests: u64, rows: u64, cpu_seconds: f64) -> Usage {
        Usage {
            activity: Activity::Predict,
            deployment: Some(self.name.clone()),
            model: Some(self.id.model.clone()),
            version: Some(self.id.version),
            requests,
            rows,
            cpu_seconds,
            in_child: self.isolation == Isolation::Process,
            energy: self.meter.dynamic_energy(cpu_seconds),
        }
    }
}
