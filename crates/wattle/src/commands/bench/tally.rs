//! What is counted while the load lasts.

use std::{collections::BTreeMap, fmt, time::Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::connection::Answer;
use crate::commands::predict::cost::Cost;

/// The longest time that is told from longer ones: beyond the longest run and the longest wait after it.
const LONGEST_NANOS: u64 = 10_000_000_000_000;
/// So many digits of a time are kept.
const DIGITS: u8 = 3;

/// Requests that ended, from the end of the warm-up on.
pub(super) struct Tally {
    measured_from: Instant,
    /// Requests of the warm-up.
    pub(super) warmup: u64,
    /// Requests that were answered with a success.
    pub(super) answered: u64,
    /// Others, by what came instead.
    pub(super) faults: BTreeMap<Fault, u64>,
    /// From when a request was due until its answer was there, in nanoseconds. Successes alone, since a server refuses
    /// quickly.
    pub(super) latency: Histogram<u64>,
    /// The same from when it was sent.
    pub(super) service: Histogram<u64>,
    /// Bytes of bodies.
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// What the answers say that they cost.
    pub(super) cost: Option<Cost>,
}

/// A request: when it was due, when it was sent, and how large its body was.
pub(super) struct Sent {
    pub(super) due: Instant,
    pub(super) at: Instant,
    pub(super) bytes: usize,
}

/// What came instead of a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// An answer with this status.
    Status(u16),
    /// The connection ended or could not be made.
    Connection,
    /// The time for an answer was over.
    TimedOut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Status(status) => write!(f, "{status}"),
            Fault::Connection => f.write_str("connection lost"),
            Fault::TimedOut => f.write_str("timed out"),
        }
    }
}

impl Tally {
    /// Counts what was due from an instant on.
    pub(super) fn new(measured_from: Instant) -> Result<Tally> {
        let times = Histogram::new_with_bounds(1, LONGEST_NANOS, DIGITS)?;
        Ok(Tally {
            measured_from,
            warmup: 0,
            answered: 0,
            faults: BTreeMap::new(),
            latency: times.clone(),
            service: times,
            sent_bytes: 0,
            received_bytes: 0,
            cost: None,
        })
    }

    /// Counts a request that has just ended.
    pub(super) fn add(&mut self, sent: &Sent, outcome: &Result<Answer, Fault>) {
        let now = Instant::now();
        if sent.due < self.measured_from {
            self.warmup += 1;
            return;
        }
        self.sent_bytes += sent.bytes as u64;
        let fault = match outcome {
            Ok(answer) => {
                self.received_bytes += answer.bytes;
                (!answer.status.is_success()).then(|| Fault::Status(answer.status.as_u16()))
            }
            Err(fault) => Some(*fault),
        };
        if let Some(fault) = fault {
            *self.faults.entry(fault).or_default() += 1;
            return;
        }
        self.answered += 1;
        let nanos = |since: Instant| u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos(sent.due));
        self.service.saturating_record(nanos(sent.at));
        if let Some(cost) = outcome.as_ref().ok().and_then(|answer| Cost::of(&answer.headers)) {
            self.cost = Some(match self.cost.take() {
                Some(sum) => sum.and(&cost),
                None => cost,
            });
        }
    }

    /// Requests that ended without a success.
    pub(super) fn failed(&self) -> u64 {
        self.faults.values().sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use reqwest::{StatusCode, header::HeaderMap};

    use super::*;

    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut tally = Tally::new(ago(60)).unwrap();
        let answer = |status| Ok(Answer { status, headers: HeaderMap::new(), bytes: 5 });
        tally.add(&Sent { due: ago(61), at: ago(50), bytes: 7 }, &answer(StatusCode::OK));
        tally.add(&Sent { due: ago(40), at: ago(10), bytes: 7 }, &answer(StatusCode::OK));
        tally.add(&Sent { due: ago(1), at: ago(1), bytes: 7 }, &answer(StatusCode::SERVICE_UNAVAILABLE));
        tally.add(&Sent { due: ago(1), at: ago(1), bytes: 7 }, &Err(Fault::TimedOut));
        assert_eq!((tally.warmup, tally.answered, tally.failed()), (1, 1, 2));
        assert_eq!((tally.sent_bytes, tally.received_bytes), (21, 10));
        let faults: Vec<String> = tally.faults.keys().map(ToString::to_string).collect();
        assert_eq!(faults, ["503", "timed out"]);
        let seconds = |times: &Histogram<u64>| (times.len(), (times.max() as f64 / 1e9).round());
        assert_eq!((seconds(&tally.latency), seconds(&tally.service)), ((1, 40.0), (1, 10.0)));
    }
}
