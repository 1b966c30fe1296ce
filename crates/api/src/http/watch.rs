//! What is noticed of every request, whatever it asks for: how it ended, whether that was slow, and its trace.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::panic_error;
use crate::traces::{Trace, Traces};

/// From here on an answer is told as slow at the level of debugging.
const SLOW: Duration = Duration::from_secs(1);

/// What machines ask every few seconds; nothing of a caller's begins like that.
const PROBES: [&str; 5] = ["/metrics", "/v2/health/", "/ping", "/health", "/grpc.health."];

/// What is counted of a server's answers.
pub(super) struct Watch {
    started_at: SystemTime,
    responses: [AtomicU64; 5],
    traces: Option<Arc<Traces>>,
}

/// Puts what it wraps under watch.
#[derive(Clone)]
pub(super) struct WatchLayer(pub(super) Arc<Watch>);

/// A service under watch.
#[derive(Clone)]
pub(super) struct Watched<S> {
    inner: S,
    watch: Arc<Watch>,
}

pin_project! {
    /// An answer under way.
    pub(super) struct Watching<F> {
        #[pin]
        inner: F,
        watch: Arc<Watch>,
        started: Instant,
        // Boxed, since nobody pays for it who is not traced.
        trace: Option<Box<Trace>>,
    }
}

impl Watch {
    pub(super) fn new(traces: Option<Arc<Traces>>) -> Watch {
        Watch { started_at: SystemTime::now(), responses: Default::default(), traces }
    }

    /// Whether somebody collects traces.
    pub(super) fn traces(&self) -> bool {
        self.traces.is_some()
    }

    /// When the server started, in seconds since 1970.
    pub(super) fn started_at_seconds(&self) -> f64 {
        self.started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    /// How many answers there were, by class of status.
    pub(super) fn responses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.responses.iter().map(|count| count.load(Relaxed));
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts)
    }

    fn begin_trace(&self, request: &Request) -> Option<Box<Trace>> {
        let traces = self.traces.as_ref()?;
        // Whoever asks every few seconds whether all is well would bury the others.
        let path = request.uri().path();
        let is_probe = PROBES.iter().any(|probe| path.starts_with(probe));
        (!is_probe).then(|| Box::new(traces.begin(request)))
    }

    fn answered(&self, response: &Response, started: Instant) {
        let status = response.status().as_u16();
        if let Some(count) = self.responses.get(usize::from(status / 100).wrapping_sub(1)) {
            count.fetch_add(1, Relaxed);
        }
        let took = started.elapsed();
        let ms = took.as_secs_f64() * 1000.0;
        // Method, path and id are the span's.
        tracing::debug!(target: "wattle::access", status, ms, "answered");
        if took >= SLOW {
            tracing::debug!(status, ms, "a slow answer");
        }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, watch: Arc::clone(&self.0) }
    }
}

impl<S: Service<Request, Response = Response>> Service<Request> for Watched<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Watching<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let trace = self.watch.begin_trace(&request);
        Watching { started: Instant::now(), trace, watch: Arc::clone(&self.watch), inner: self.inner.call(request) }
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Watching<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // A handler that panics has an answer all the same, which is counted as others are.
        let result = match catch_unwind(AssertUnwindSafe(|| this.inner.poll(context))) {
            Ok(result) => ready!(result),
            Err(payload) => Ok(panic_error(payload.as_ref()).into_response()),
        };
        if let Ok(response) = &result {
            this.watch.answered(response, *this.started);
            if let (Some(traces), Some(trace)) = (&this.watch.traces, this.trace.take()) {
                traces.end(*trace, response);
            }
        }
        Poll::Ready(result)
    }
}
