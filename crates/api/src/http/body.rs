//! Bodies of calls: each bounded, and all together; and work on large ones away from the threads that answer others.

use std::{error::Error, sync::Arc, time::Duration};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use futures::{
    FutureExt, Stream, StreamExt,
    future::{Either, ready},
    stream,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, timeout_at},
};

use super::App;
use crate::{ApiError, Code, Result, json::not_expected, service::Staged};

/// How fast a body must come in when its first time is over; it takes room in memory meanwhile.
const BODY_BYTES_PER_SECOND: u64 = 64 << 10;
/// The same for an upload, which takes room on the disk.
const UPLOAD_BYTES_PER_SECOND: u64 = 8 << 10;
/// How many bodies of the largest size may be in memory at once.
const LARGEST_AT_ONCE: usize = 2;
/// From this size on, a body needs a share of the memory for all, and work on it goes to a thread of its own.
const LARGE_BYTES: usize = 64 << 10;
/// How many bytes are copied, which some of a body's tensors may have to be, in the time that one of text is read.
const COPY_SPEEDUP: usize = 32;
/// No type of number needs more.
const ALIGNMENT: usize = 16;

/// The bounds of all bodies of a server.
#[derive(Clone)]
pub(crate) struct Bodies {
    max_bytes: usize,
    timeout: Duration,
    /// One permit for each byte that may be in memory.
    budget: Arc<Semaphore>,
}

/// A body in memory, and its share of the budget.
pub(super) struct Held {
    bytes: Bytes,
    share: Share,
    work_bytes: usize,
}

/// A part of the budget of all bodies. The first [`LARGE_BYTES`] need none, so that large calls, however slow, never keep
/// small ones out.
pub(crate) struct Share {
    bodies: Bodies,
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new(max_bytes: usize, timeout: Duration) -> Bodies {
        let budget = max_bytes.saturating_mul(LARGEST_AT_ONCE).min(Semaphore::MAX_PERMITS);
        Bodies { max_bytes, timeout, budget: Arc::new(Semaphore::new(budget)) }
    }

    /// The largest body that is taken.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// How long a body may take to come in; a large one has more time.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many values an answer may have: as text they are a few times as large as the largest body.
    pub(crate) fn max_answer_values(&self) -> usize {
        (self.max_bytes / 4).max(1)
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// One that is too large is refused before it is read, if it says its size; one that comes too slowly, when its time
    /// is over; and any, while others use up the memory for all.
    pub(super) async fn read(&self, body: Body) -> Result<Held> {
        self.read_aligned(body, 0).await
    }

    /// Reads a whole body into memory in which the byte at `aligned` could begin a number of any type, so that tensors
    /// behind it are used where they are.
    pub(super) async fn read_aligned(&self, body: Body, aligned: usize) -> Result<Held> {
        let announced = body.size_hint().lower();
        if announced > self.max_bytes as u64 {
            return Err(self.too_large());
        }
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        let mut share = self.share();
        let mut pieces = Paced::start(body, self.timeout, BODY_BYTES_PER_SECOND);
        let Some(first) = self.next_piece(&mut pieces, &mut share).await? else {
            return Ok(Held::new(Bytes::new(), share));
        };
        if first.len() == announced && aligned == 0 {
            return Ok(Held::new(first, share));
        }
        // Memory of the system's begins at a multiple of its own alignment; the padding moves the place to one.
        let padding = aligned.next_multiple_of(ALIGNMENT) - aligned;
        let mut bytes = Vec::with_capacity(padding + announced.min(self.max_bytes));
        bytes.resize(padding, 0);
        bytes.extend_from_slice(&first);
        while let Some(piece) = self.next_piece(&mut pieces, &mut share).await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(Held::new(Bytes::from(bytes).slice(padding..), share))
    }

    /// The next piece of a body, and its share of the budget.
    async fn next_piece(&self, pieces: &mut Paced, share: &mut Share) -> Result<Option<Bytes>> {
        let Some(piece) = pieces.next().await? else { return Ok(None) };
        if share.bytes + piece.len() as u64 > self.max_bytes as u64 {
            return Err(self.too_large());
        }
        share.grow(piece.len() as u64)?;
        Ok(Some(piece))
    }

    /// A share of the budget, which is empty yet.
    pub(crate) fn share(&self) -> Share {
        Share { bodies: self.clone(), bytes: 0, permit: None }
    }

    pub(crate) fn too_large(&self) -> ApiError {
        let message = format!(
            "the body is larger than {} bytes: send fewer rows, or start the server with a higher --max-body-bytes",
            self.max_bytes
        );
        ApiError::new(Code::TooLarge, message)
    }
}

impl Share {
    /// How many bytes it is for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// More than there are for all; or as many as others leave over.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        let Bodies { max_bytes, budget, .. } = &self.bodies;
        let due = self.bytes.saturating_sub(LARGE_BYTES as u64);
        let most = max_bytes.saturating_mul(LARGEST_AT_ONCE) as u64;
        let too_large = || {
            let message = format!(
                "the body takes more than {most} bytes of memory once it is unpacked: send fewer rows, or start the server with a higher --max-body-bytes"
            );
            ApiError::new(Code::TooLarge, message)
        };
        let due = u32::try_from(due).ok().filter(|due| u64::from(*due) <= most).ok_or_else(too_large)?;
        let taken = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more) = due.checked_sub(u32::try_from(taken).unwrap_or(u32::MAX)).filter(|more| *more > 0) else {
            return Ok(());
        };
        let more = Arc::clone(budget).try_acquire_many_owned(more).map_err(|error| match error {
            TryAcquireError::NoPermits => ApiError {
                code: Code::Unavailable,
                message: "too many bytes of other calls are in memory: try again in 1 s".into(),
                retry_after_seconds: Some(1),
            },
            TryAcquireError::Closed => ApiError::internal("the budget of bodies is closed"),
        })?;
        match &mut self.permit {
            Some(all) => all.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

impl Held {
    fn new(bytes: Bytes, share: Share) -> Held {
        Held { work_bytes: bytes.len(), bytes, share }
    }

    /// The same body, of which it is known that it becomes larger.
    pub(super) fn packed(self) -> Held {
        Held { work_bytes: usize::MAX, ..self }
    }

    /// The same body, of which only the first bytes are to be read, while the others are used as they are.
    pub(super) fn used_from(self, read: usize) -> Held {
        Held { work_bytes: read.saturating_add(self.bytes.len() / COPY_SPEEDUP), ..self }
    }

    /// How much work its bytes are.
    pub(super) fn work_bytes(&self) -> usize {
        self.work_bytes
    }

    /// Lets the bytes go and keeps their share of the memory.
    pub(super) fn into_share(self) -> Share {
        self.share
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Reads the body as JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.bytes).map_err(|error| not_expected(&error))
    }
}

/// Has a body of any size written to a temporary file, within the limit for uploads.
pub(super) async fn stage(app: &App, body: Body) -> Result<Staged> {
    let announced = body.size_hint().lower();
    if announced > app.max_upload_bytes {
        return Err(ApiError::new(
            Code::TooLarge,
            format!(
                "the upload has {announced} bytes, and {} is the most: start the server with a higher --max-upload-bytes",
                app.max_upload_bytes
            ),
        ));
    }
    app.service.stage(Box::pin(paced(app, body)), app.max_upload_bytes).await
}

/// The pieces of an upload, which ends with an error when they come too slowly.
pub(super) fn paced(app: &App, body: Body) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    let pieces = Paced::start(body, app.bodies.timeout, UPLOAD_BYTES_PER_SECOND);
    stream::try_unfold(pieces, async |mut pieces| Ok(pieces.next().await?.map(|piece| (piece, pieces))))
}

/// A body that may come in only so slowly: it has some time, and more for each piece that came.
struct Paced {
    pieces: BodyDataStream,
    due: Instant,
    timeout: Duration,
    bytes_per_second: u64,
}

impl Paced {
    fn start(body: Body, timeout: Duration, bytes_per_second: u64) -> Paced {
        Paced { pieces: body.into_data_stream(), due: Instant::now() + timeout, timeout, bytes_per_second }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = timeout_at(self.due, self.pieces.next()).await.map_err(|_| {
            let (seconds, kib) = (self.timeout.as_secs(), self.bytes_per_second >> 10);
            let message = format!("the body came in too slowly: send it within {seconds} s, or {kib} KiB each second");
            ApiError::new(Code::Timeout, message)
        })?;
        let piece = piece.transpose().map_err(|error| told(&error))?;
        if let Some(piece) = &piece {
            self.due += Duration::from_secs_f64(piece.len() as f64 / self.bytes_per_second as f64);
        }
        Ok(piece)
    }
}

/// What somebody on the way said of a body; otherwise it broke off.
fn told(error: &axum::Error) -> ApiError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(told) = error.downcast_ref::<ApiError>() {
            return told.clone();
        }
        cause = error.source();
    }
    ApiError::invalid("the body ended early: send it again")
}

/// Does work on so many bytes; if they are many, on a thread that may be busy for long.
pub(crate) fn off_the_runtime<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> impl Future<Output = Result<T>> + Send {
    match bytes < LARGE_BYTES {
        true => Either::Left(ready(work())),
        false => Either::Right(tokio::task::spawn_blocking(work).map(|done| done.map_err(ApiError::internal)?)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECONDS: Duration = Duration::from_secs(30);

    /// A number of so many digits.
    fn number(bytes: usize) -> Body {
        Body::from(vec![b'1'; bytes])
    }

    #[tokio::test]
    async fn large_bodies_share_a_budget_and_small_ones_pass() {
        let largest = 4 * LARGE_BYTES;
        let bodies = Bodies::new(largest, SECONDS);
        let mut held = Vec::new();
        while let Ok(body) = bodies.read(number(largest)).await {
            held.push(body);
        }
        assert_eq!(held.len(), LARGEST_AT_ONCE);
        let refusal = bodies.read(number(largest)).await.err().unwrap();
        assert_eq!((refusal.code, refusal.retry_after_seconds), (Code::Unavailable, Some(1)));
        assert_eq!(bodies.read(number(1)).await.unwrap().parse::<u8>().unwrap(), 1);
        drop(held);
        assert!(bodies.read(number(largest)).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_without_a_size_is_bounded_too() {
        let pieces = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("1234")));
        let refusal = Bodies::new(10, SECONDS).read(Body::from_stream(pieces)).await.err().unwrap();
        assert_eq!(refusal.code, Code::TooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_half_way_gives_up_its_share() {
        let bodies = Bodies::new(2 * LARGE_BYTES, SECONDS);
        let all = bodies.budget.available_permits();
        let half = futures::stream::iter([Ok::<_, std::io::Error>(vec![b'1'; LARGE_BYTES + 5])]);
        let half = half.chain(futures::stream::pending());
        assert_eq!(bodies.read(Body::from_stream(half)).await.err().unwrap().code, Code::Timeout);
        assert_eq!(bodies.budget.available_permits(), all);
    }

    /// Pieces of so many bytes, one each second.
    fn slowly(bytes: usize, pieces: usize) -> Body {
        Body::from_stream(stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(vec![b'1'; bytes])
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_has_more_time_as_long_as_it_comes_in() {
        let rate = BODY_BYTES_PER_SECOND as usize;
        let bodies = Bodies::new(200 * rate, SECONDS);
        assert_eq!(bodies.read(slowly(rate, 100)).await.unwrap().bytes().len(), 100 * rate);
        assert_eq!(bodies.read(slowly(rate / 2, 100)).await.err().unwrap().code, Code::Timeout);
        // What comes within the first time may come as slowly as it likes.
        assert_eq!(bodies.read(slowly(1, 29)).await.unwrap().bytes().len(), 29);
        assert_eq!(bodies.read(slowly(1, 31)).await.err().unwrap().code, Code::Timeout);
    }
}
