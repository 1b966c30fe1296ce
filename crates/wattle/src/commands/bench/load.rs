//! The load itself: connections at work until the time is over or somebody stops it.
//!
//! In a closed loop each connection sends its next request when its last one is answered. In an open loop requests are
//! due by a schedule, and a free connection takes the next one: while all are busy the schedule goes on, and what it
//! fell due meanwhile is sent as soon as one is free, with its latency counted from when it was due. So a server that
//! stalls cannot hide the requests that it kept from being sent (its "coordinated omission"), and there is no queue of
//! them to grow: only the next instant is known.

use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::{
    clock::Clock,
    connection::{Connection, Target},
    schedule::Schedule,
    tally::{Fault, Sent, Tally},
};

/// How long a connection that could not be made is left alone.
const RETRY: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct Load {
    target: Target,
    timeout: Duration,
    begin: Instant,
    warmup: Duration,
    end: Instant,
    open: Option<Open>,
    stop: CancellationToken,
    sent: AtomicUsize,
    tally: Mutex<Tally>,
}

/// What an open loop has besides.
struct Open {
    schedule: Mutex<Schedule>,
    clock: Clock,
}

/// How a load was asked for.
pub(super) struct Plan {
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) timeout: Duration,
    /// Absent in a closed loop.
    pub(super) schedule: Option<Schedule>,
}

impl Load {
    /// A load over so many connections that begins now.
    pub(super) fn new(target: Target, plan: Plan, connections: usize) -> Result<Load> {
        let open =
            |schedule| Ok::<_, io::Error>(Open { schedule: Mutex::new(schedule), clock: Clock::start(connections)? });
        let open = plan.schedule.map(open).transpose()?;
        let begin = Instant::now();
        let measured_from = begin + plan.warmup;
        Ok(Load {
            target,
            timeout: plan.timeout,
            begin,
            warmup: plan.warmup,
            end: measured_from + plan.duration,
            open,
            stop: CancellationToken::new(),
            sent: AtomicUsize::new(0),
            tally: Mutex::new(Tally::new(measured_from)?),
        })
    }

    /// Sends over one connection until the end, and waits for the last answer.
    pub(super) async fn work(&self, connection: Connection) {
        let mut kept = Some(connection);
        while let Some(due) = self.next().await {
            let open = match kept.take() {
                Some(mut connection) => connection.is_open().await.then_some(connection),
                None => None,
            };
            let opened = match open {
                Some(connection) => Ok(connection),
                None => Connection::open(&self.target, self.timeout).await,
            };
            let index = self.sent.fetch_add(1, Relaxed);
            let sent = Sent { due, at: Instant::now(), bytes: self.target.bytes(index) };
            let Ok(mut connection) = opened else {
                self.tally().add(&sent, &Err(Fault::Connection));
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let outcome = connection.call(&self.target, index, self.timeout).await;
            self.tally().add(&sent, &outcome);
            kept = outcome.is_ok().then_some(connection);
        }
    }

    /// Sends nothing more; what was sent is waited for.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether somebody stopped it.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// What was counted until now.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of its time that is over, from 0 to 1.
    pub(super) fn progress(&self) -> f64 {
        (self.elapsed().as_secs_f64() / (self.end - self.begin).as_secs_f64()).min(1.0)
    }

    /// How long it has lasted.
    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The same without the warm-up.
    pub(super) fn measured(&self) -> Duration {
        self.elapsed().saturating_sub(self.warmup)
    }

    /// How many requests were due before an instant and never sent.
    pub(super) fn unsent(&self, until: Instant) -> u64 {
        let until = until.min(self.end);
        let overdue = |open: &Open| {
            let mut count = 0;
            while self.due(open).is_some_and(|due| due < until) {
                count += 1;
            }
            count
        };
        self.open.as_ref().map_or(0, overdue)
    }

    /// Waits until a request is due; `None` when none will be.
    async fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.end || self.is_stopped() {
            return None;
        }
        let Some(open) = &self.open else { return Some(now) };
        let due = self.due(open).filter(|due| *due < self.end)?;
        if due > now {
            tokio::select! {
                () = open.clock.wait_until(due) => {}
                () = self.stop.cancelled() => return None,
            }
        }
        Some(due)
    }

    /// Takes the next instant off the schedule.
    fn due(&self, open: &Open) -> Option<Instant> {
        let seconds = open.schedule.lock().unwrap_or_else(PoisonError::into_inner).next_seconds();
        self.begin.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }
}
