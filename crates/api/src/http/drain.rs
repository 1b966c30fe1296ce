//! A refusal is read only by a caller who has finished sending.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use futures::{Stream, StreamExt};

/// How long the rest of a refused body is listened to.
const PATIENCE: Duration = Duration::from_secs(10);

/// After a refusal reads what the caller still sends, and throws it away.
///
/// A connection that is closed while a body arrives is reset, and most clients then tell of a broken pipe and not of the
/// answer that said why. Who asked before sending (`Expect: 100-continue`) gets the answer at once.
pub(super) async fn hear_out(request: Request, next: Next) -> Response {
    let asked_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(Inner { stream: body.into_data_stream(), begun: false })));
    let request = Request::from_parts(parts, Body::from_stream(body.clone()));
    let response = next.run(request).await;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && (body.has_begun() || !asked_first) {
        let rest = body.for_each(|_| std::future::ready(()));
        // What comes after that is cut off.
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
    response
}

/// A request's body that its handler reads, and after it whoever drains it.
#[derive(Clone)]
struct Shared(Arc<Mutex<Inner>>);

struct Inner {
    stream: BodyDataStream,
    begun: bool,
}

impl Shared {
    fn has_begun(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).begun
    }
}

impl Stream for Shared {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.begun = true;
        inner.stream.poll_next_unpin(context)
    }
}
