//! How long a connection is waited for, kept with one timer for each connection and none for a request.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{drain::Leftover, edge::ConnectionLimits};

/// How long a connection that is told to end may take to do so when nothing is asked on it any more.
const FAREWELL: Duration = Duration::from_secs(3);

/// What goes on on a connection, as its parts see it.
#[derive(Default)]
pub(super) struct Watch {
    /// Requests whose answers have not ended.
    open: AtomicUsize,
    /// Requests whose answers have.
    answered: AtomicUsize,
    /// Whether bytes have come in since the last request began or ended.
    heard: AtomicBool,
    /// What is left of the body of its only request, on HTTP/1.1.
    pub(super) leftover: Leftover,
}

impl Watch {
    /// Bytes have come in.
    pub(super) fn hear(&self) {
        self.heard.store(true, Relaxed);
    }
}

/// A request and its answer on a connection, until this is dropped.
pub(super) struct Turn(Arc<Watch>);

impl Turn {
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.0
    }

    pub(super) fn begin(watch: &Arc<Watch>) -> Turn {
        watch.open.fetch_add(1, Relaxed);
        watch.heard.store(false, Relaxed);
        Turn(Arc::clone(watch))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Relaxed);
        self.0.heard.store(false, Relaxed);
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// What was waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A request, of which nothing has come.
    ForRequest,
    /// The rest of a request's head.
    ForHead,
}

/// Tells when a connection has been waited for long enough.
pub(super) struct Patience {
    watch: Arc<Watch>,
    idle_timeout: Duration,
    header_timeout: Duration,
    wait: Wait,
    /// What the current wait is measured from.
    since: Instant,
    /// Since then nothing has changed but the time.
    answered: usize,
    /// Whether bytes that come between requests are a request's head.
    hears_heads: bool,
    /// Whether the first request is still to come, which has no more time than its head.
    first: bool,
    /// Never rings later than it is due; where it rings too early it is set again.
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    /// For HTTP/1.1: a connection that began at `since` has to send the head of a request.
    pub(super) fn for_a_head(limits: &ConnectionLimits, watch: Arc<Watch>, since: Instant) -> Patience {
        let (idle_timeout, header_timeout) = (limits.idle_timeout, limits.header_timeout);
        let timer = Box::pin(sleep_until(since + header_timeout));
        let (wait, hears_heads, first) = (Wait::ForRequest, true, true);
        Patience { watch, idle_timeout, header_timeout, wait, since, answered: 0, hears_heads, first, timer }
    }

    /// For HTTP/2: connections are opened ahead of their use, and may send bytes that ask for nothing.
    pub(super) fn when_idle(limits: &ConnectionLimits, watch: Arc<Watch>) -> Patience {
        let since = Instant::now();
        let timer = Box::pin(sleep_until(since + limits.idle_timeout));
        Patience { hears_heads: false, first: false, timer, ..Patience::for_a_head(limits, watch, since) }
    }

    /// From now on, what is not asked at once is not waited for.
    pub(super) fn hurry(&mut self) {
        self.idle_timeout = FAREWELL;
        self.header_timeout = self.header_timeout.min(FAREWELL);
        (self.first, self.since) = (false, Instant::now());
    }

    /// Whether a wait is over. To be asked after each step of the connection.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Wait> {
        let due = self.due();
        if let Some(due) = due
            && due < self.timer.deadline()
        {
            self.timer.as_mut().reset(due);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            match due {
                Some(due) if due <= now => return Poll::Ready(self.wait),
                Some(due) => self.timer.as_mut().reset(due),
                None => self.timer.as_mut().reset(now + self.idle_timeout),
            }
        }
    }

    /// When the current wait ends; no end while a request is being answered.
    fn due(&mut self) -> Option<Instant> {
        if self.watch.open.load(Relaxed) > 0 {
            return None;
        }
        let answered = self.watch.answered.load(Relaxed);
        if answered != self.answered {
            (self.answered, self.first) = (answered, false);
            (self.wait, self.since) = (Wait::ForRequest, Instant::now());
        }
        if self.hears_heads && self.wait == Wait::ForRequest && self.watch.heard.load(Relaxed) {
            self.wait = Wait::ForHead;
            if !self.first {
                self.since = Instant::now();
            }
        }
        let time = if self.first || self.wait == Wait::ForHead { self.header_timeout } else { self.idle_timeout };
        Some(self.since + time)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> ConnectionLimits {
        ConnectionLimits {
            max_connections: 1,
            max_header_bytes: 1,
            header_timeout: 10 * SECOND,
            idle_timeout: 60 * SECOND,
            write_timeout: SECOND,
            max_http2_streams: 1,
        }
    }

    /// What a wait ends with, and after how many seconds.
    async fn end(patience: &mut Patience) -> (Wait, u64) {
        let begun = Instant::now();
        let wait = poll_fn(|context| patience.poll(context)).await;
        (wait, begun.elapsed().as_secs())
    }

    /// Lets the time pass that is waited for in vain.
    async fn pass(patience: &mut Patience, seconds: u64) {
        let waited = tokio::time::timeout(Duration::from_secs(seconds), end(patience)).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_head_has_its_time_from_the_beginning_whether_something_came_or_not() {
        let watch = Arc::new(Watch::default());
        assert_eq!(
            end(&mut Patience::for_a_head(&limits(), Arc::clone(&watch), Instant::now())).await,
            (Wait::ForRequest, 10)
        );
        let mut patience = Patience::for_a_head(&limits(), Arc::clone(&watch), Instant::now());
        pass(&mut patience, 4).await;
        watch.hear();
        assert_eq!(end(&mut patience).await, (Wait::ForHead, 6));
        assert_eq!(end(&mut Patience::when_idle(&limits(), Arc::default())).await, (Wait::ForRequest, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_never_waited_for_while_another_is_answered() {
        let watch = Arc::new(Watch::default());
        let mut patience = Patience::for_a_head(&limits(), Arc::clone(&watch), Instant::now());
        watch.hear();
        let turn = Turn::begin(&watch);
        // The body comes in.
        watch.hear();
        pass(&mut patience, 1000).await;
        drop(turn);
        assert_eq!(end(&mut patience).await, (Wait::ForRequest, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn each_further_head_has_its_time_from_its_first_byte() {
        let watch = Arc::new(Watch::default());
        let mut patience = Patience::for_a_head(&limits(), Arc::clone(&watch), Instant::now());
        for _ in 0..3 {
            drop(Turn::begin(&watch));
            pass(&mut patience, 59).await;
        }
        watch.hear();
        pass(&mut patience, 9).await;
        // More bytes buy no more time.
        watch.hear();
        assert_eq!(end(&mut patience).await, (Wait::ForHead, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn two_requests_at_once_both_hold_the_connection() {
        let watch = Arc::new(Watch::default());
        let mut patience = Patience::when_idle(&limits(), Arc::clone(&watch));
        let (first, second) = (Turn::begin(&watch), Turn::begin(&watch));
        drop(first);
        pass(&mut patience, 1000).await;
        drop(second);
        sleep(SECOND).await;
        assert_eq!(end(&mut patience).await, (Wait::ForRequest, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_to_end_is_not_waited_for_long() {
        let watch = Arc::new(Watch::default());
        let mut patience = Patience::when_idle(&limits(), Arc::clone(&watch));
        let turn = Turn::begin(&watch);
        pass(&mut patience, 10).await;
        patience.hurry();
        pass(&mut patience, 1000).await;
        drop(turn);
        assert_eq!(end(&mut patience).await, (Wait::ForRequest, FAREWELL.as_secs()));
    }
}
