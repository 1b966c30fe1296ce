//! A refusal is read only by a caller who has finished sending.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::AcqRel, Ordering::Acquire, Ordering::Release},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::patience::Watch;

/// How long the rest of a refused body is listened to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nobody asks for what a handler leaves of the body.
const FORGOTTEN: u8 = 0;
/// What a handler leaves is to be kept.
const WANTED: u8 = 1;
/// It is here.
const KEPT: u8 = 2;

/// What the handler of a request on a connection of HTTP/1.1 has left unread of the body.
///
/// A connection that is closed while a body arrives is reset, and most clients then tell of a broken pipe and not of the
/// answer that said why. HTTP/2 ends the stream alone.
#[derive(Default)]
pub(super) struct Leftover {
    state: AtomicU8,
    body: Mutex<Option<Incoming>>,
}

impl Leftover {
    /// Lends a request's body to its handler. Who asked before sending (`Expect: 100-continue`) is told at once that it
    /// is not wanted, as long as nothing of it was.
    pub(super) fn lend(watch: &Arc<Watch>, body: Incoming, asked_first: bool) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        watch.leftover.state.store(WANTED, Release);
        Body::new(Lent { body: Some(body), is_coming: !asked_first, watch: Arc::clone(watch) })
    }

    /// Reads what the caller still sends, and throws it away. What comes too late is cut off.
    pub(super) async fn hear_out(&self) {
        if let Some(mut body) = self.take() {
            let rest = poll_fn(|context| {
                while let Some(Ok(_)) = ready!(Pin::new(&mut body).poll_frame(context)) {}
                Poll::Ready(())
            });
            let _ = tokio::time::timeout(PATIENCE, rest).await;
        }
    }

    /// Does not listen to what the caller still sends.
    pub(super) fn forget(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<Incoming> {
        // Most handlers leave nothing, and then there is nothing to lock.
        (self.state.swap(FORGOTTEN, AcqRel) == KEPT)
            .then(|| self.body.lock().unwrap_or_else(PoisonError::into_inner).take())
            .flatten()
    }

    fn keep(&self, body: Incoming) {
        if self.state.load(Acquire) == WANTED {
            *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
            // Somebody who forgot it meanwhile must not be kept waiting by it.
            if self.state.compare_exchange(WANTED, KEPT, AcqRel, Acquire).is_err() {
                self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
    }
}

/// A request's body in its handler's hands.
struct Lent {
    /// Absent when all of it was read, or when it broke off.
    body: Option<Incoming>,
    /// Whether the caller sends it, or would only if it was asked for.
    is_coming: bool,
    watch: Arc<Watch>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.is_coming = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && self.is_coming
            && !body.is_end_stream()
        {
            self.watch.leftover.keep(body);
        }
    }
}
