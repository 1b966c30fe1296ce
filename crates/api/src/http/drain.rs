//! A refusal is read only by a caller who has finished sending.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use futures::StreamExt;
use http_body::{Frame, SizeHint};

/// How long the rest of a refused body is listened to.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a refusal reads what the caller still sends, and throws it away.
///
/// A connection that is closed while a body arrives is reset, and most clients then tell of a broken pipe and not of the
/// answer that said why. Who asked before sending (`Expect: 100-continue`) gets the answer at once.
pub(super) async fn hear_out(request: Request, next: Next) -> Response {
    let asked_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(Inner { body, begun: false })));
    let request = Request::from_parts(parts, Body::new(body.clone()));
    let response = next.run(request).await;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && (body.has_begun() || !asked_first) {
        let rest = Body::new(body).into_data_stream().for_each(|_| std::future::ready(()));
        // What comes after that is cut off.
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
    response
}

/// A request's body that its handler reads, and after it whoever drains it.
#[derive(Clone)]
struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    body: Body,
    begun: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_begun(&self) -> bool {
        self.lock().begun
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut inner = self.lock();
        inner.begun = true;
        Pin::new(&mut inner.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}
