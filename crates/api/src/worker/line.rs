//! The way to an instance: one connection, over which all calls of its model go.

use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tower_service::Service as TowerService;
use wattle_core::Name;
use wattle_deploy::{docker::Container, process::Process};
use wattle_serve::{Error, Result};

/// How much of a message may be on its way before the other side has read it, in bytes: most messages whole.
const WINDOW_BYTES: u32 = 16 << 20;
/// What stands for an instance in addresses, since its connection decides where calls go.
pub(super) const ORIGIN: &str = "http://worker";
/// How long it may take to be connected to a machine that is there.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);

/// Where an instance is.
pub(super) enum Host {
    /// In a process that this server started.
    Process(Process),
    /// In a container that this server started.
    Container(Container),
}

/// The connection to an instance, which ends with the last who needs it.
pub(super) struct Line {
    pub(super) deployment: Name,
    pub(super) host: Host,
    /// What the addresses of calls in language begin with.
    prefix: String,
    sender: Mutex<SendRequest<Body>>,
}

impl Host {
    pub(super) fn name(&self) -> &str {
        match self {
            Host::Process(_) => "process",
            Host::Container(container) => container.name(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        match self {
            Host::Process(process) => process.is_alive(),
            Host::Container(container) => container.is_alive(),
        }
    }

    pub(super) fn limited_by(&self) -> &'static str {
        match self {
            Host::Process(process) => process.enforced().as_str(),
            Host::Container(_) => "container",
        }
    }

    async fn ended(&self) {
        match self {
            Host::Process(process) => process.ended().await,
            Host::Container(container) => container.ended().await,
        }
    }

    async fn connect(&self) -> std::result::Result<SendRequest<Body>, String> {
        match self {
            Host::Process(process) => connect_to_socket(process.socket()).await,
            Host::Container(container) => connect_to_port(container.address()).await,
        }
    }
}

impl Line {
    /// Calls an instance that listens.
    ///
    /// # Errors
    /// Why it cannot be reached, for people.
    pub(super) async fn open(deployment: Name, host: Host, prefix: String) -> std::result::Result<Line, String> {
        let sender = host.connect().await?;
        Ok(Line { deployment, host, prefix, sender: Mutex::new(sender) })
    }

    pub(super) fn crashed(&self) -> Error {
        Error::Crashed { deployment: self.deployment.to_string() }
    }

    fn unreached(&self) -> Error {
        Error::Unreached { deployment: self.deployment.to_string() }
    }

    /// Whether the instance says that it is ready; a connection that ended is made anew for that.
    pub(super) async fn is_well(&self) -> bool {
        if !self.host.is_alive() {
            return false;
        }
        if self.sender().is_closed() {
            let Ok(connected) = self.host.connect().await else { return false };
            if !is_ready(connected.clone()).await {
                return false;
            }
            *self.sender() = connected;
            return true;
        }
        let sender = self.sender().clone();
        is_ready(sender).await
    }

    /// Sends a request; the answer's body is still to come.
    ///
    /// # Errors
    /// [`Error::Unreached`] when it was never sent, and [`Error::Crashed`] when it was.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let mut sender = self.sender().clone();
        let answer = async {
            sender.ready().await.map_err(|_| self.unreached())?;
            sender.try_send_request(request).await.map_err(|error| match error.message() {
                Some(_) => self.unreached(),
                None => self.crashed(),
            })
        };
        tokio::select! {
            answer = answer => answer,
            // A connection whose other end was killed may take its time to notice.
            () = self.host.ended() => Err(self.crashed()),
        }
    }

    /// Asks a question in language; the answer's body is still to come.
    pub(super) async fn call(&self, path: &str, question: &impl Serialize) -> Result<Response<Incoming>> {
        let body = serde_json::to_vec(question).map_err(|error| Error::Internal(error.to_string()))?;
        let address = format!("{ORIGIN}{}{path}", self.prefix);
        let request = Request::post(address).header(header::CONTENT_TYPE, "application/json").body(Body::from(body));
        self.send(request.map_err(|error| Error::Internal(error.to_string()))?).await
    }

    /// Asks a question that has one answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T> {
        let body = self.call(path, question).await?.into_body();
        let body: Bytes = self.until_ended(body.collect()).await?.map_err(|_| self.crashed())?.to_bytes();
        let answer: Result<T> = serde_json::from_slice(&body).map_err(|error| Error::Internal(error.to_string()))?;
        answer
    }

    /// Waits for something of the instance's as long as it is there.
    pub(super) async fn until_ended<T>(&self, what: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            what = what => Ok(what),
            () = self.host.ended() => Err(self.crashed()),
        }
    }

    fn sender(&self) -> MutexGuard<'_, SendRequest<Body>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`Line`] as gRPC's clients want it.
#[derive(Clone)]
pub(super) struct GrpcLine(pub(super) Arc<Line>);

impl TowerService<Request<tonic::body::Body>> for GrpcLine {
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let line = Arc::clone(&self.0);
        async move { line.send(request.map(Body::new)).await }.boxed()
    }
}

async fn is_ready(mut sender: SendRequest<Body>) -> bool {
    let Ok(request) = Request::get(format!("{ORIGIN}/v2/health/ready")).body(Body::empty()) else { return false };
    if sender.ready().await.is_err() {
        return false;
    }
    sender.send_request(request).await.is_ok_and(|response| response.status() == StatusCode::OK)
}

async fn connect_to_socket(socket: &Path) -> std::result::Result<SendRequest<Body>, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable_because(&error))?;
    shake_hands(stream).await
}

async fn connect_to_port(address: SocketAddr) -> std::result::Result<SendRequest<Body>, String> {
    let connected = tokio::time::timeout(CONNECTED_WITHIN, TcpStream::connect(address)).await;
    let stream =
        connected.map_err(|error| unreachable_because(&error))?.map_err(|error| unreachable_because(&error))?;
    // A call is sent at once; to wait for more to send with it only delays it.
    let _ = stream.set_nodelay(true);
    shake_hands(stream).await
}

async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> std::result::Result<SendRequest<Body>, String> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable_because(&error))?;
    tokio::spawn(connection);
    Ok(sender)
}

fn unreachable_because(error: &dyn std::fmt::Display) -> String {
    format!("it cannot be reached: {error}")
}

/// Whether an instance answers at this address, and says that it is ready.
pub(super) async fn is_ready_at(address: SocketAddr) -> bool {
    let asked = async {
        match connect_to_port(address).await {
            Ok(sender) => is_ready(sender).await,
            Err(_) => false,
        }
    };
    tokio::time::timeout(CONNECTED_WITHIN, asked).await.unwrap_or(false)
}
