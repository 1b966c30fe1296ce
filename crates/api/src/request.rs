//! The request that is being answered: its id, and the span that the log shows it in.
//!
//! A span costs more than much of what a small call does. It is made when something is logged in it, or where so much is
//! logged that it will be.

use std::{
    cell::OnceCell,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri},
};
use tracing::{Instrument, Span, level_filters::LevelFilter};

/// The header of a request's id, in requests and in answers.
pub(crate) const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id of a caller's is not taken over.
const LONGEST_ID: usize = 128;

tokio::task_local! {
    static CURRENT: Current;
}

/// The id of a request: the caller's own, or one that no other request has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RequestId {
    /// As the caller sent it.
    Theirs(HeaderValue),
    /// A number within this process.
    Ours(u64),
}

impl RequestId {
    /// The caller's id, if it is short and of visible letters; otherwise a new one.
    pub(crate) fn of(headers: &HeaderMap) -> RequestId {
        match headers.get(ID_HEADER) {
            Some(id) if is_fit(id.as_bytes()) => RequestId::Theirs(id.clone()),
            _ => {
                static NEXT: AtomicU64 = AtomicU64::new(1);
                RequestId::Ours(NEXT.fetch_add(1, Relaxed))
            }
        }
    }

    /// The id as an answer carries it.
    pub(crate) fn header(&self) -> HeaderValue {
        match self {
            RequestId::Theirs(id) => id.clone(),
            RequestId::Ours(number) => {
                let (text, length) = ours(*number);
                HeaderValue::from_bytes(&text[..length]).unwrap_or(HeaderValue::from_static("-"))
            }
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.header().to_str().unwrap_or_default())
    }
}

/// What the log needs to know of a request.
pub(crate) struct Current {
    id: RequestId,
    method: Method,
    uri: Uri,
    span: OnceCell<Span>,
    is_entered: bool,
}

impl Current {
    pub(crate) fn new(id: RequestId, request: &Request) -> Current {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Current { id, method, uri, span: OnceCell::new(), is_entered: LevelFilter::current() >= LevelFilter::DEBUG }
    }

    /// Answers the request.
    pub(crate) async fn scope<T>(self, answer: impl Future<Output = T>) -> T {
        let span = if self.is_entered { self.span().clone() } else { Span::none() };
        CURRENT.scope(self, answer.instrument(span)).await
    }

    fn span(&self) -> &Span {
        self.span.get_or_init(
            || tracing::error_span!("request", id = %self.id, method = %self.method, path = self.uri.path()),
        )
    }
}

/// The id of the request that is being answered.
pub(crate) fn id() -> Option<String> {
    CURRENT.try_with(|current| current.id.to_string()).ok()
}

/// The span of the request that is being answered, for a task that goes on by itself.
pub(crate) fn span() -> Span {
    CURRENT.try_with(|current| current.span().clone()).unwrap_or_else(|_| Span::current())
}

/// Logs something of the request that is being answered.
pub(crate) fn log(write: impl FnOnce()) {
    match CURRENT.try_with(|current| current.is_entered) {
        Ok(false) => span().in_scope(write),
        Ok(true) | Err(_) => write(),
    }
}

fn is_fit(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= LONGEST_ID && id.iter().all(u8::is_ascii_graphic)
}

/// Sixteen digits that tell this process from all others, and the number of the request.
fn ours(number: u64) -> ([u8; 33], usize) {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    let mut text = [b'-'; 33];
    digits(&mut text[..16], *PROCESS);
    let length = (16 - number.leading_zeros() as usize / 4).max(1);
    digits(&mut text[17..17 + length], number);
    (text, 17 + length)
}

/// Writes the last digits of a number to base 16.
fn digits(text: &mut [u8], mut number: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id_of(text: &[u8]) -> RequestId {
        let header = (ID_HEADER, HeaderValue::from_bytes(text).unwrap());
        RequestId::of(&HeaderMap::from_iter([header]))
    }

    #[test]
    fn a_callers_id_is_taken_over_if_it_is_short_and_visible() {
        for id in ["7", "0198c1a2-7f3e-7bbb-8000-1234567890ab", &"x".repeat(LONGEST_ID)] {
            assert_eq!(id_of(id.as_bytes()).header(), id);
        }
        for id in ["", "a b", "a\tb", "ä", &"x".repeat(LONGEST_ID + 1)] {
            assert!(matches!(id_of(id.as_bytes()), RequestId::Ours(_)), "{id:?}");
        }
    }

    #[test]
    fn our_ids_differ_and_begin_alike() {
        let ids: Vec<String> = (0..1000).map(|_| RequestId::of(&HeaderMap::new()).to_string()).collect();
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ids.len());
        assert!(ids.iter().all(|id| id[..17] == ids[0][..17] && id.is_ascii() && id.len() <= 33));
    }

    #[test]
    fn numbers_are_written_to_base_16() {
        for number in [0, 1, 15, 16, 0xabc, u64::MAX] {
            let (text, length) = ours(number);
            assert_eq!(std::str::from_utf8(&text[17..length]).unwrap(), format!("{number:x}"));
        }
    }
}
