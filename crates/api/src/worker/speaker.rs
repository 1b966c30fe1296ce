//! A language model in a process of its own, as the server calls it.

use std::{
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use wattle_core::Name;
use wattle_deploy::process::Process;
use wattle_engine::tokens::Token;
use wattle_serve::{
    Error, Result,
    language::{Embedded, Generate, Piece, Pieces, Prompt},
    speaker::{Asker, Speaker},
    tokens::Statistics,
};

use super::lines::Lines;

/// How long a process may take to write its prefixes when its model goes.
const SAVING: Duration = Duration::from_secs(20);

/// The server's end of a process that has a language model.
pub(super) struct RemoteSpeaker {
    line: Arc<Line>,
    statistics: Arc<Mutex<Statistics>>,
    resident_bytes: u64,
    load_cpu_seconds: f64,
    _watch: AbortOnDropHandle<()>,
}

/// The way to the process, which ends with the last who needs it.
struct Line {
    deployment: Name,
    process: Process,
    sender: SendRequest<Body>,
}

impl RemoteSpeaker {
    /// Calls a process that listens.
    pub(super) async fn connect(
        deployment: Name,
        process: Process,
        resident_bytes: u64,
        load_cpu_seconds: f64,
    ) -> std::result::Result<RemoteSpeaker, String> {
        let sender = connect(process.socket()).await?;
        let line = Arc::new(Line { deployment, process, sender });
        let statistics = Arc::new(Mutex::new(Statistics::default()));
        let watch = tokio::spawn(watch(Arc::clone(&line), Arc::clone(&statistics)));
        Ok(RemoteSpeaker { line, statistics, resident_bytes, load_cpu_seconds, _watch: AbortOnDropHandle::new(watch) })
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

    fn statistics(&self) -> Statistics {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn save(&self) {
        // One that does not answer in time is ended all the same.
        let saved = tokio::time::timeout(SAVING, self.line.ask::<Statistics>("/save", &())).await;
        if let Ok(Ok(statistics)) = saved {
            *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
        }
    }

    fn is_alive(&self) -> bool {
        self.line.process.is_alive()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn load_cpu_seconds(&self) -> f64 {
        self.load_cpu_seconds
    }

    fn limited_by(&self) -> Option<&'static str> {
        Some(self.line.process.enforced().as_str())
    }
}

impl Line {
    fn crashed(&self) -> Error {
        Error::Crashed { deployment: self.deployment.to_string() }
    }

    /// Sends a question; the answer's body is still to come.
    async fn call(&self, path: &str, question: &impl Serialize) -> Result<Response<Incoming>> {
        let body = serde_json::to_vec(question).map_err(|error| Error::Internal(error.to_string()))?;
        let request = Request::post(format!("http://worker{path}")).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body));
        let request = request.map_err(|error| Error::Internal(error.to_string()))?;
        let mut sender = self.sender.clone();
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        tokio::select! {
            answer = answer => answer.map_err(|_| self.crashed()),
            // A connection whose other end was killed may take its time to notice.
            () = self.process.ended() => Err(self.crashed()),
        }
    }

    /// Asks a question that has one answer.
    async fn ask<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T> {
        let body = self.call(path, question).await?.into_body();
        let body: Bytes = tokio::select! {
            body = body.collect() => body.map_err(|_| self.crashed())?.to_bytes(),
            () = self.process.ended() => return Err(self.crashed()),
        };
        let answer: Result<T> = serde_json::from_slice(&body).map_err(|error| Error::Internal(error.to_string()))?;
        answer
    }
}

/// An answer's pieces as they come over the socket.
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

async fn connect(socket: &Path) -> std::result::Result<SendRequest<Body>, String> {
    let told = |error: &dyn std::fmt::Display| format!("its process cannot be reached: {error}");
    let stream = UnixStream::connect(socket).await.map_err(|error| told(&error))?;
    let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = connected.await.map_err(|error| told(&error))?;
    tokio::spawn(connection);
    Ok(sender)
}
