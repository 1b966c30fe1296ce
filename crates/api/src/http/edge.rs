//! The server's edge: who is let in, how many at once, and how it closes.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::task::TaskTracker;

use super::{
    answer::Streams,
    connection::{self, part_with},
    tls::Tls,
};

/// How long to wait when there is no file descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many of those who are too many are told so at once; the others find the door shut.
const MOST_REFUSALS: usize = 64;
/// The log tells of the same trouble at most once in so long.
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// An HTTP/2 client that has sent nothing for so long is asked whether it is still there, and has as long to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// What one stream of HTTP/2 may have waiting to be sent.
const STREAM_BUFFER_BYTES: usize = 128 << 10;

/// What stands between the network and the router.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The names under which this server may be called, ports aside; any name when absent.
    ///
    /// A server on loopback has only loopback's own: otherwise a page of another site, whose name its owner lets point
    /// to this machine, could call it as its own server.
    pub hosts: Option<Vec<String>>,
    /// The certificate; without one connections are in the clear.
    pub tls: Option<Tls>,
    /// What a connection may cost.
    pub limits: ConnectionLimits,
    /// How long calls that have begun are given to end when the server closes.
    pub grace: Duration,
}

/// What a connection may cost, so that nobody who is slow or hostile holds what others need.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Open connections; more are refused at once.
    pub max_connections: usize,
    /// The head of a request: its first line and its headers.
    pub max_header_bytes: usize,
    /// How long the head of a request may take to come in; for the first one, from the connection's beginning.
    pub header_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// How long an answer may wait for its client to take more of it.
    pub write_timeout: Duration,
    /// Requests at once on one connection of HTTP/2.
    pub max_http2_streams: u32,
}

/// What all connections share.
pub(super) struct Door {
    pub(super) router: Router,
    pub(super) hosts: Option<Vec<String>>,
    pub(super) certificate: Option<watch::Receiver<Arc<ServerConfig>>>,
    pub(super) limits: ConnectionLimits,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
    pub(super) closing: Closing,
}

/// Whether the server closes.
#[derive(Default)]
pub(super) struct Closing {
    begun: AtomicBool,
    pub(super) bell: Notify,
}

impl Closing {
    fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.bell.notify_waiters();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits until the server closes.
    pub(super) async fn wait(&self) {
        let rung = self.bell.notified();
        if !self.has_begun() {
            rung.await;
        }
    }
}

/// Serves HTTP/1.1 and HTTP/2 until `shutdown` completes; then refuses new connections, answers what has begun for at
/// most the edge's grace, and returns.
pub async fn serve(listener: TcpListener, router: Router, edge: Edge, shutdown: impl Future<Output = ()> + Send) {
    let max_connections = edge.limits.max_connections;
    let (certificate, _following) = edge.tls.map(Tls::follow).unzip();
    let door = Arc::new(Door::new(router, edge.hosts, certificate, edge.limits));
    let connections = TaskTracker::new();
    let refusals = Arc::new(Semaphore::new(MOST_REFUSALS));
    let mut log = Seldom::default();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < max_connections => {
                connections.spawn(connection::attend(Arc::clone(&door), stream));
            }
            Ok((stream, peer)) => {
                log.warn(|| tracing::warn!(max_connections, %peer, "too many connections: more are refused"));
                // Under TLS there are no words without a handshake, which would cost more than it is worth.
                if door.certificate.is_none()
                    && let Ok(place) = Arc::clone(&refusals).try_acquire_owned()
                {
                    tokio::spawn(refuse(stream, place));
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                log.warn(|| tracing::warn!(%error, "a connection cannot be accepted"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    door.closing.begin();
    connections.close();
    if timeout(edge.grace, connections.wait()).await.is_err() {
        tracing::warn!(grace_seconds = edge.grace.as_secs(), "some calls did not end within the grace period");
    }
}

impl Door {
    fn new(
        router: Router,
        hosts: Option<Vec<String>>,
        certificate: Option<watch::Receiver<Arc<ServerConfig>>>,
        limits: ConnectionLimits,
    ) -> Door {
        let mut http1 = http1::Builder::new();
        // Time is kept by `Patience`, which does not set a timer for every request.
        http1.max_header_size(limits.max_header_bytes);
        let mut http2 = http2::Builder::new(Streams::new(limits.write_timeout));
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(limits.max_http2_streams)
            .max_send_buf_size(STREAM_BUFFER_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        // The handlers are bound to their state here and not at every request.
        let (router, closing) = (router.with_state(()), Closing::default());
        Door { router, hosts, certificate, limits, http1, http2, closing }
    }
}

/// Tells somebody who is too many.
async fn refuse(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    part_with(&mut stream, "503 Service Unavailable", "too many connections: try again in 1 s").await;
}

/// Whether a failure to accept is that of one connection, which was gone before it was looked at.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// Warnings that would come as often as a hostile client likes.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn warn(&mut self, warning: impl FnOnce()) {
        if self.0.is_none_or(|last| last.elapsed() >= LOG_PAUSE) {
            self.0 = Some(Instant::now());
            warning();
        }
    }
}
