//! An answer on its way out, and what becomes of one that its client does not take.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Sleep, sleep};

use super::patience::Turn;

/// A stream of HTTP/2 is handed an answer in pieces of this size, so that it buffers no more than its client takes.
const PIECE_BYTES: usize = 64 << 10;

/// The body of an answer. Its request's turn ends with it.
pub(super) struct Answer {
    body: Body,
    piece_bytes: usize,
    /// What is left of the body's last frame.
    rest: Bytes,
    _turn: Turn,
}

impl Answer {
    /// As it comes, for HTTP/1.1, which writes straight from it.
    pub(super) fn whole(body: Body, turn: Turn) -> Answer {
        Answer { body, piece_bytes: usize::MAX, rest: Bytes::new(), _turn: turn }
    }

    /// In pieces, for HTTP/2.
    pub(super) fn in_pieces(body: Body, turn: Turn) -> Answer {
        Answer { body, piece_bytes: PIECE_BYTES, rest: Bytes::new(), _turn: turn }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        HANDED.set(Handed::Nothing);
        let mut data = std::mem::take(&mut self.rest);
        if data.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => data = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        if data.len() > self.piece_bytes {
            self.rest = data.split_off(self.piece_bytes);
        }
        HANDED.set(Handed::Anew);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if rest > 0 {
            let upper = hint.upper();
            hint.set_lower(hint.lower() + rest);
            upper.into_iter().for_each(|upper| hint.set_upper(upper + rest));
        }
        hint
    }
}

thread_local! {
    /// What the answer that is polled on this thread has handed to its stream.
    static HANDED: Cell<Handed> = const { Cell::new(Handed::Nothing) };
}

#[derive(Clone, Copy, PartialEq)]
enum Handed {
    /// Nothing that waits for the client.
    Nothing,
    /// A piece, since the stream was polled.
    Anew,
    /// A piece, before.
    Before,
}

/// Runs the streams of HTTP/2 connections. One whose client has not made room for the next piece of its answer for too
/// long is reset, and the others of its connection go on.
#[derive(Clone)]
pub(super) struct Streams {
    write_timeout: Duration,
}

impl Streams {
    pub(super) fn new(write_timeout: Duration) -> Streams {
        Streams { write_timeout }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let write_timeout = self.write_timeout;
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let mut stalled: Option<Pin<Box<Sleep>>> = None;
            poll_fn(|context| {
                HANDED.set(if stalled.is_some() { Handed::Before } else { Handed::Nothing });
                if stream.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                // A stream that has a piece and does not ask for the next one waits for its client.
                match HANDED.get() {
                    Handed::Nothing => stalled = None,
                    Handed::Anew => stalled = Some(Box::pin(sleep(write_timeout))),
                    Handed::Before => {}
                }
                stalled.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(context))
            })
            .await;
        });
    }
}
