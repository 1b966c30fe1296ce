//! One line of the log for each call that failed through no fault of its caller.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::{ApiError, Code, request};

/// A server under siege refuses thousands of calls a second: beyond so many lines in one second the others are counted,
/// and the next line tells how many there were.
const LINES_A_SECOND: u64 = 20;

static LOG: LazyLock<Limiter> = LazyLock::new(Limiter::default);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Notes why a call failed, whatever protocol it came by; what the caller is told holds no secret. A bug of ours has its
/// line already, with what the caller is not told. The request's id is in the span.
pub(crate) fn note(error: &ApiError) {
    let ours = matches!(error.code, Code::Unavailable | Code::OutOfSpace | Code::Internal);
    if !ours || error.is_logged() {
        return;
    }
    let Some(left_out) = LOG.admit(START.elapsed().as_secs()) else { return };
    match left_out {
        0 => request::log(|| tracing::warn!(reason = %error, "a call failed")),
        _ => request::log(|| tracing::warn!(reason = %error, left_out, "a call failed, and others before it")),
    }
}

#[derive(Default)]
struct Limiter {
    second: AtomicU64,
    lines: AtomicU64,
    left_out: AtomicU64,
}

impl Limiter {
    /// Whether there may be another line in this second, and how many lines were left out since the last one.
    fn admit(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Relaxed) != second {
            self.lines.store(0, Relaxed);
        }
        if self.lines.fetch_add(1, Relaxed) < LINES_A_SECOND {
            return Some(self.left_out.swap(0, Relaxed));
        }
        self.left_out.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_some_lines_and_the_next_second_tells_how_many_not() {
        let limiter = Limiter::default();
        let told = (0..100).filter_map(|_| limiter.admit(7)).count() as u64;
        assert_eq!(told, LINES_A_SECOND);
        assert_eq!(limiter.admit(8), Some(100 - LINES_A_SECOND));
        assert_eq!(limiter.admit(8), Some(0));
    }
}
