//! Which of the calls that wait for a model are computed together, and when: a state machine without a clock of its own.
//!
//! It never lets the model idle while somebody waits, unless the deployment's settings ask it to wait for company. Calls
//! keep the order in which they came: whoever has waited longest within the first class is always part of the next batch.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What a batcher has to know of a call that waits.
pub(crate) trait Waiting {
    /// How many rows it has.
    fn rows(&self) -> usize;
    /// Whether its tensors can stand in one batch with the other's.
    fn mixes_with(&self, other: &Self) -> bool;
    /// Whether its caller has left.
    fn is_gone(&self) -> bool;
}

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Nobody does: it is computed when no interactive call waits, or after a second.
    Batch,
}

/// How long a call of the lower class lets others pass.
const PATIENCE: Duration = Duration::from_secs(1);

/// What batches may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Rows of a batch; a call that has more is computed alone.
    pub(crate) max_rows: usize,
    /// How long the first call of a batch may wait for others.
    pub(crate) max_delay: Duration,
}

/// A call that waits.
pub(crate) struct Entry<T> {
    pub(crate) call: T,
    pub(crate) priority: Priority,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// What is to be done now.
#[derive(Debug, PartialEq)]
pub(crate) enum Next<T> {
    /// Compute these together. There is at least one.
    Batch(Vec<T>),
    /// Ask again then, or when a call came.
    Wait(Instant),
    /// Nobody waits.
    Idle,
}

/// The calls that wait for one model.
pub(crate) struct Batcher<T> {
    limits: BatchLimits,
    interactive: VecDeque<Entry<T>>,
    batch: VecDeque<Entry<T>>,
    /// At this length those whose callers left are looked for, so that they never pile up behind a slow batch.
    sweep_at: usize,
}

const SWEEP_AT_LEAST: usize = 64;

impl<T: Waiting> Batcher<T> {
    pub(crate) fn new(limits: BatchLimits) -> Batcher<T> {
        Batcher { limits, interactive: VecDeque::new(), batch: VecDeque::new(), sweep_at: SWEEP_AT_LEAST }
    }

    /// From now on every call is computed alone.
    pub(crate) fn stop_batching(&mut self) {
        self.limits = BatchLimits { max_rows: 1, max_delay: Duration::ZERO };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.interactive.is_empty() && self.batch.is_empty()
    }

    /// Adds a call.
    pub(crate) fn push(&mut self, entry: Entry<T>) {
        if self.interactive.len() + self.batch.len() >= self.sweep_at {
            self.queues().for_each(|queue| queue.retain(|entry| !entry.call.is_gone()));
            self.sweep_at = SWEEP_AT_LEAST.max(2 * (self.interactive.len() + self.batch.len()));
        }
        match entry.priority {
            Priority::Interactive => self.interactive.push_back(entry),
            Priority::Batch => self.batch.push_back(entry),
        }
    }

    /// What is to be done. Calls whose callers left, and those whose time is over, are dropped and not computed.
    pub(crate) fn next(&mut self, now: Instant) -> Next<T> {
        self.queues().for_each(|queue| {
            while queue.front().is_some_and(|entry| entry.is_over(now)) {
                queue.pop_front();
            }
        });
        let Some(lower_leads) = self.lower_leads(now) else { return Next::Idle };
        if let Some(until) = self.wait_until(lower_leads, now) {
            return Next::Wait(until);
        }
        let mut taken: Vec<T> = Vec::new();
        let mut rows = 0;
        let first = if lower_leads { self.batch.pop_front() } else { self.interactive.pop_front() };
        if let Some(entry) = first {
            rows = entry.call.rows();
            taken.push(entry.call);
        }
        let max_rows = self.limits.max_rows;
        for queue in self.queues() {
            let mut passed = VecDeque::new();
            while rows < max_rows
                && let Some(entry) = queue.pop_front()
            {
                if entry.is_over(now) {
                    continue;
                }
                let mixes = taken.first().is_some_and(|first| first.mixes_with(&entry.call));
                let fits = rows + entry.call.rows() <= max_rows;
                match (mixes, fits) {
                    (true, true) => {
                        rows += entry.call.rows();
                        taken.push(entry.call);
                    }
                    (true, false) => {
                        // Whoever comes after it must not pass it.
                        queue.push_front(entry);
                        break;
                    }
                    (false, _) => passed.push_back(entry),
                }
            }
            while let Some(entry) = passed.pop_back() {
                queue.push_front(entry);
            }
        }
        Next::Batch(taken)
    }

    /// Takes all that wait.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.queues().flat_map(|queue| queue.drain(..)).map(|entry| entry.call).collect()
    }

    /// Whether the lower class has the first call of the next batch; `None` when nobody waits.
    fn lower_leads(&self, now: Instant) -> Option<bool> {
        match (self.interactive.front(), self.batch.front()) {
            (None, None) => None,
            (Some(_), None) => Some(false),
            (None, Some(_)) => Some(true),
            (Some(first), Some(lower)) => Some(lower.since + PATIENCE <= now && lower.since < first.since),
        }
    }

    /// Until when the next batch waits for company, if it does.
    fn wait_until(&self, lower_leads: bool, now: Instant) -> Option<Instant> {
        if self.limits.max_delay.is_zero() {
            return None;
        }
        let first = if lower_leads { self.batch.front()? } else { self.interactive.front()? };
        let all = self.interactive.iter().chain(&self.batch);
        let rows: usize = all.filter(|entry| entry.call.mixes_with(&first.call)).map(|entry| entry.call.rows()).sum();
        let until = first.since + self.limits.max_delay;
        // A call that has a deadline is not made to miss it.
        let until = first.deadline.map_or(until, |deadline| until.min(deadline - (deadline - first.since) / 2));
        (rows < self.limits.max_rows && until > now).then_some(until)
    }

    fn queues(&mut self) -> impl Iterator<Item = &mut VecDeque<Entry<T>>> {
        [&mut self.interactive, &mut self.batch].into_iter()
    }
}

impl<T: Waiting> Entry<T> {
    fn is_over(&self, now: Instant) -> bool {
        self.call.is_gone() || self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
#[path = "batcher_tests.rs"]
mod tests;
