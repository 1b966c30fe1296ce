//! A language model in an instance of its own, as the server calls it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use http::StatusCode;
use tokio_util::task::AbortOnDropHandle;
use wattle_engine::tokens::Token;
use wattle_serve::{
    Instance, Result,
    language::{Embedded, Generate, Piece, Pieces, Prompt},
    speaker::{Asker, Speaker},
    tokens::Statistics,
};

use super::{Loaded, line::Line, lines::Lines};

/// How long a process may take to write its prefixes when its model goes.
const SAVING: Duration = Duration::from_secs(20);

/// The server's end of an instance that has a language model.
pub(super) struct RemoteSpeaker {
    line: Arc<Line>,
    statistics: Arc<Mutex<Statistics>>,
    loaded: Loaded,
    _watch: AbortOnDropHandle<()>,
}

impl RemoteSpeaker {
    /// Calls an instance that listens.
    pub(super) fn new(line: Line, loaded: Loaded) -> RemoteSpeaker {
        let line = Arc::new(line);
        let statistics = Arc::new(Mutex::new(Statistics::default()));
        let watch = tokio::spawn(watch(Arc::clone(&line), Arc::clone(&statistics)));
        RemoteSpeaker { line, statistics, loaded, _watch: AbortOnDropHandle::new(watch) }
    }
}

#[async_trait]
impl Speaker for RemoteSpeaker {
    async fn generate(&self, request: Generate, asker: Asker) -> Result<Pieces> {
        let response = self.line.call("/generate", &(request, asker)).await?;
        let refused = response.status() != StatusCode::OK;
        let mut pieces = Pieced { lines: Lines::new(response.into_body()), line: Arc::clone(&self.line), ended: false };
        if !refused {
            return Ok(Box::pin(pieces));
        }
        Err(pieces.next().await.and_then(Result::err).unwrap_or_else(|| self.line.crashed()))
    }

    async fn embed(&self, texts: Vec<Prompt>, asker: Asker) -> Result<Embedded> {
        self.line.ask("/embed", &(texts, asker)).await
    }

    async fn tokenize(&self, prompt: Prompt) -> Result<Vec<Token>> {
        self.line.ask("/tokenize", &prompt).await
    }

    async fn detokenize(&self, tokens: Vec<Token>) -> Result<Vec<u8>> {
        self.line.ask("/detokenize", &tokens).await
    }

    async fn save(&self) {
        // One that does not answer in time is ended all the same.
        let saved = tokio::time::timeout(SAVING, self.line.ask::<Statistics>("/save", &())).await;
        if let Ok(Ok(statistics)) = saved {
            *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
        }
    }
}

#[async_trait]
impl Instance for RemoteSpeaker {
    fn name(&self) -> &str {
        self.line.host.name()
    }

    fn is_alive(&self) -> bool {
        self.line.host.is_alive()
    }

    async fn is_well(&self) -> bool {
        self.line.is_well().await
    }

    fn resident_bytes(&self) -> u64 {
        self.loaded.resident_bytes
    }

    fn load_cpu_seconds(&self) -> f64 {
        self.loaded.cpu_seconds
    }

    fn limited_by(&self) -> Option<&'static str> {
        Some(self.line.host.limited_by())
    }

    fn statistics(&self) -> Statistics {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An answer's pieces as they come over the connection.
struct Pieced {
    lines: Lines<Result<Piece>>,
    line: Arc<Line>,
    ended: bool,
}

impl Stream for Pieced {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<Result<Piece>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = match self.lines.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(piece))) => piece,
            Poll::Ready(Some(Err(_)) | None) => Err(self.line.crashed()),
            Poll::Pending => return Poll::Pending,
        };
        self.ended = matches!(piece, Ok(Piece::Done(_)) | Err(_));
        Poll::Ready(Some(piece))
    }
}

/// Keeps what the process says that it has done.
async fn watch(line: Arc<Line>, statistics: Arc<Mutex<Statistics>>) {
    let Ok(response) = line.call("/statistics", &()).await else { return };
    // It must not keep the process alive.
    drop(line);
    let mut lines: Lines<Statistics> = Lines::new(response.into_body());
    while let Some(Ok(now)) = lines.next().await {
        *statistics.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}
