//! Waking to within some microseconds: the runtime's own timers do it to a millisecond, which is longer than many a call.

use std::{
    io,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Instant,
};

use tokio::sync::oneshot;

/// How late the kernel may wake the clock for the sake of saving power, instead of its usual 50 µs; 0 means that.
const SLACK_NANOS: u64 = 1;

/// A thread that sleeps until the next instant. It ends with the clock.
pub(super) struct Clock(SyncSender<Alarm>);

struct Alarm {
    at: Instant,
    ring: oneshot::Sender<()>,
}

impl Clock {
    /// A clock for so many who wait at once.
    pub(super) fn start(waiting: usize) -> io::Result<Clock> {
        let (sender, alarms) = sync_channel::<Alarm>(waiting);
        thread::Builder::new().name("clock".into()).spawn(move || {
            // Where it may not be set, the clock is a little later.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(SLACK_NANOS));
            for Alarm { at, ring } in alarms {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                // Whoever was stopped does not wait any more.
                let _ = ring.send(());
            }
        })?;
        Ok(Clock(sender))
    }

    /// Waits for an instant. Instants must be asked for in their order.
    pub(super) async fn wait_until(&self, at: Instant) {
        let (ring, rung) = oneshot::channel();
        match self.0.try_send(Alarm { at, ring }) {
            // The sender is dropped only after it rang.
            Ok(()) => rung.await.unwrap_or_default(),
            Err(_) => tokio::time::sleep(at.saturating_duration_since(Instant::now())).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nobody_is_woken_early() {
        let clock = Clock::start(3).unwrap();
        let now = Instant::now();
        let alarms = [0, 300, 2500].map(|micros| now + Duration::from_micros(micros));
        let waits = alarms.map(|at| {
            let wait = clock.wait_until(at);
            async move {
                wait.await;
                assert!(Instant::now() >= at);
            }
        });
        futures::future::join_all(waits).await;
    }
}
