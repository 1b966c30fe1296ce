//! What comes in over gRPC: counted against the memory for all bodies, and never waited for without end.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body::{Frame, SizeHint};
use prost::Message;
use tokio::time::{Sleep, sleep};
use tonic::{Code as GrpcCode, Status};

use crate::{
    ApiError, Code, Result,
    http::{Bodies, Share},
};

/// What a message has beside its bytes.
const FRAMING_BYTES: usize = 5;

/// Counts what comes in for a call, which finds the count in its extensions.
pub(super) async fn account(State(bodies): State<Bodies>, request: Request, next: Next) -> Response {
    let kind = match request.uri().path().ends_with("/ModelStreamInfer") {
        true => Kind::Stream,
        false => Kind::One,
    };
    let compressed = request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity");
    let inner = Inner { share: bodies.share(), bodies: bodies.clone(), kind, compressed, read: 0 };
    let arrival = Arrival(Arc::new(Mutex::new(inner)));
    let mut request = request.map(|body| Body::new(Counted { body, arrival: arrival.clone(), patience: None }));
    if !compressed {
        // Clients say of themselves that they could read compressed answers; the work is done for those who compress.
        request.headers_mut().remove("grpc-accept-encoding");
    }
    request.extensions_mut().insert(arrival);
    let response = next.run(request).await;
    match response.headers().get(Status::GRPC_STATUS) {
        // This is what the library says of a message that is too large, and nobody else says it.
        Some(code) if code == "11" => Status::from(bodies.too_large()).into_http(),
        _ => response,
    }
}

/// An error of reading messages, in our own words.
pub(super) fn reading_failed(status: Status, bodies: &Bodies) -> Status {
    match status.code() {
        GrpcCode::OutOfRange => bodies.too_large().into(),
        _ => status,
    }
}

/// What of a call's messages came in and is still in memory, with its share of the memory for all.
#[derive(Clone)]
pub(super) struct Arrival(Arc<Mutex<Inner>>);

struct Inner {
    bodies: Bodies,
    kind: Kind,
    /// Whether messages are larger than what comes in.
    compressed: bool,
    /// How many messages were read.
    read: u64,
    /// For what came in since then.
    share: Share,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A call of one message.
    One,
    /// A call of any number of messages, between which it may rest.
    Stream,
}

impl Arrival {
    /// Hands over the share of a message that was read, to be kept for as long as its tensors are.
    pub(super) fn take(&self, message: &impl Message) -> Result<Share> {
        let mut inner = self.lock();
        if inner.compressed {
            let larger_by = (message.encoded_len() as u64).saturating_sub(inner.share.bytes());
            inner.share.grow(larger_by)?;
        }
        inner.read += 1;
        let next = inner.bodies.share();
        Ok(std::mem::replace(&mut inner.share, next))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self, bytes: usize) -> Result<()> {
        self.share.grow(bytes as u64)?;
        if self.kind == Kind::One && self.share.bytes() > (self.bodies.max_bytes() + FRAMING_BYTES) as u64 {
            return Err(self.bodies.too_large());
        }
        Ok(())
    }

    /// The number of the message that should be coming in now, if one should.
    fn awaited(&self) -> Option<u64> {
        (self.kind == Kind::One || self.share.bytes() > 0).then_some(self.read)
    }
}

/// The body of a call, counted as it is read.
struct Counted {
    body: Body,
    arrival: Arrival,
    /// For how long the message of this number is waited for.
    patience: Option<(u64, Pin<Box<Sleep>>)>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let counted = frame.data_ref().map_or(Ok(()), |data| self.arrival.lock().count(data.len()));
                Poll::Ready(Some(counted.map(|()| frame).map_err(Status::from)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Status::cancelled("the message ended early")))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(self.lose_patience(context));
                let seconds = self.arrival.lock().bodies.timeout().as_secs();
                let message = format!("the message did not come in within {seconds} s");
                Poll::Ready(Some(Err(ApiError::new(Code::Timeout, message).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Counted {
    /// Ready when the message that is coming in has taken too long.
    fn lose_patience(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (awaited, timeout) = {
            let inner = self.arrival.lock();
            (inner.awaited(), inner.bodies.timeout())
        };
        let Some(awaited) = awaited else {
            self.patience = None;
            return Poll::Pending;
        };
        self.patience.take_if(|(message, _)| *message != awaited);
        let (_, patience) = self.patience.get_or_insert_with(|| (awaited, Box::pin(sleep(timeout))));
        patience.as_mut().poll(context)
    }
}
