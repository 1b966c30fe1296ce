//! Values as lines of JSON, one after the other, as they come.

use std::{
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Bytes;
use futures::Stream;
use http_body::Body;
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};

/// A body's lines.
pub(super) struct Lines<T> {
    body: Incoming,
    read: Vec<u8>,
    /// How much of what was read is known to have no end of a line.
    looked: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Lines<T> {
    pub(super) fn new(body: Incoming) -> Lines<T> {
        Lines { body, read: Vec::new(), looked: 0, of: PhantomData }
    }
}

impl<T: DeserializeOwned> Stream for Lines<T> {
    type Item = Result<T, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<T, String>>> {
        loop {
            let this = &mut *self;
            if let Some(end) = this.read[this.looked..].iter().position(|byte| *byte == b'\n') {
                let end = this.looked + end;
                let value = serde_json::from_slice(&this.read[..end]).map_err(|error| error.to_string());
                this.read.drain(..=end);
                this.looked = 0;
                return Poll::Ready(Some(value));
            }
            this.looked = this.read.len();
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.to_string()))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// A value as a line.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    // What cannot be written is no value of ours.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
