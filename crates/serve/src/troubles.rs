//! Failures in a row, and for how long a model that fails is left alone: longer each time, so that many callers do not make
//! a storm of loads.

use std::time::{Duration, Instant};

use crate::Error;

/// How long a failed load is answered from memory: so long after the first failure, and twice as long after each further
/// one.
const FAILURE_KEPT: Duration = Duration::from_secs(5);
/// How long a process that ended too often in a row is left alone; twice as long after each further time.
const CRASH_KEPT: Duration = Duration::from_secs(1);
/// The longest that either lasts.
const KEPT_AT_MOST: Duration = Duration::from_secs(60);
/// What has gone well for so long is no longer in a row with what failed before.
const RECOVERED: Duration = Duration::from_secs(120);
/// How often in a row a process that has answered may end and be started again at once.
pub(crate) const CHANCE: u32 = 2;

/// Failures in a row.
#[derive(Default)]
pub(crate) struct Troubles {
    count: u32,
    last: Option<Instant>,
}

impl Troubles {
    /// One more; how many there are.
    pub(crate) fn another(&mut self) -> u32 {
        if self.last.is_some_and(|last| last.elapsed() > RECOVERED) {
            self.count = 0;
        }
        self.last = Some(Instant::now());
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// How long so many loads that failed in a row keep others from trying.
pub(crate) fn kept_after_load(times: u32) -> Duration {
    doubled(FAILURE_KEPT, times)
}

/// How long so many ends of a process, beyond chance, keep it from being started.
pub(crate) fn kept_after_crash(times: u32) -> Duration {
    doubled(CRASH_KEPT, times)
}

/// What is told of a failure until it is tried again.
pub(crate) fn waiting(error: &Error, until: Instant) -> Error {
    match error {
        Error::Busy { reason, .. } => {
            let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
            Error::Busy { reason: reason.clone(), retry_after_seconds: (seconds as u64).max(1) }
        }
        other => other.clone(),
    }
}

fn doubled(time: Duration, times: u32) -> Duration {
    time.saturating_mul(1 << times.saturating_sub(1).min(16)).min(KEPT_AT_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_it_lasts_longer_up_to_a_minute() {
        let seconds = |of: fn(u32) -> Duration| [1, 2, 3, 4, 5, 9].map(|times| of(times).as_secs());
        assert_eq!(seconds(kept_after_load), [5, 10, 20, 40, 60, 60]);
        assert_eq!(seconds(kept_after_crash), [1, 2, 4, 8, 16, 60]);
        let mut troubles = Troubles::default();
        assert_eq!([troubles.another(), troubles.another()], [1, 2]);
    }
}
