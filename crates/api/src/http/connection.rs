//! One connection, from its first byte to its end.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{body::Body, extract::Request, http::header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    answer::Answer,
    drain::Leftover,
    edge::{Closing, Door},
    patience::{Patience, Turn, Wait, Watch},
    stream::{Stream, Transport},
};

/// How HTTP/2 begins where both sides know that they speak it (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often to look whether the rest of a preface that came in parts is there.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// How long the last words on a connection may take, and how long it is listened to after them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves one connection.
pub(super) async fn attend(door: Arc<Door>, stream: TcpStream) {
    let begun = Instant::now();
    // An answer is written at once; to wait for more to send with it only delays it.
    let _ = stream.set_nodelay(true);
    let opened = tokio::select! {
        biased;
        opened = timeout(door.limits.header_timeout, open(&door, stream)) => opened,
        () = door.closing.wait() => return,
    };
    let Ok(Some((transport, speaks_http2))) = opened else { return };
    let watch = Arc::new(Watch::default());
    let stream = Stream::new(transport, Arc::clone(&watch), door.limits.write_timeout);
    match speaks_http2 {
        true => serve_http2(door, stream, watch).await,
        false => serve_http1(door, stream, watch, begun).await,
    }
}

/// Finds out what a connection speaks, and whether that is HTTP/2; nothing that is served when absent.
async fn open(door: &Door, mut stream: TcpStream) -> Option<(Transport, bool)> {
    let Some(certificate) = &door.certificate else {
        let speaks_http2 = speaks_http2(&stream).await.ok()?;
        return Some((Transport::Plain(stream), speaks_http2));
    };
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? > 0 && first[0].is_ascii_uppercase() {
        part_with(&mut stream, "400 Bad Request", "this address speaks TLS: call it with https://").await;
        return None;
    }
    let config = Arc::clone(&certificate.borrow());
    match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => {
            let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Some((Transport::Tls(Box::new(stream)), speaks_http2))
        }
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

async fn serve_http1(door: Arc<Door>, stream: Stream, watch: Arc<Watch>, begun: Instant) {
    let patience = Patience::for_a_head(&door.limits, Arc::clone(&watch), begun);
    let (header_timeout, shared) = (door.limits.header_timeout, Arc::clone(&door));
    let service = service_fn(move |request: Request<Incoming>| {
        let (door, turn) = (Arc::clone(&shared), Turn::begin(&watch));
        async move {
            let asks_first = request.headers().contains_key(header::EXPECT);
            let request = request.map(|body| Leftover::lend(turn.watch(), body, asks_first));
            let answer = door.answer(request, Some(&turn.watch().leftover)).await;
            Ok::<_, Infallible>(answer.map(|body| Answer::whole(body, turn)))
        }
    });
    let mut connection = door.http1.serve_connection(TokioIo::new(stream), service);
    if let End::Late = see_out(Pin::new(&mut connection), patience, &door.closing).await {
        let mut stream = connection.into_parts().io.into_inner();
        let message = format!("the head of the request did not come in within {} s", header_timeout.as_secs());
        part_with(&mut stream, "408 Request Timeout", &message).await;
    }
}

async fn serve_http2(door: Arc<Door>, stream: Stream, watch: Arc<Watch>) {
    let patience = Patience::when_idle(&door.limits, Arc::clone(&watch));
    let shared = Arc::clone(&door);
    let service = service_fn(move |request: Request<Incoming>| {
        let (door, turn) = (Arc::clone(&shared), Turn::begin(&watch));
        async move {
            let answer = door.answer(request.map(Body::new), None).await;
            Ok::<_, Infallible>(answer.map(|body| Answer::in_pieces(body, turn)))
        }
    });
    let connection = pin!(door.http2.serve_connection(TokioIo::new(stream), service));
    see_out(connection, patience, &door.closing).await;
}

/// How a connection ends.
enum End {
    /// By itself, or after a time without requests.
    Over,
    /// While the head of a request is still incomplete.
    Late,
}

/// Drives a connection to its end: its own, that of its patience, or the server's.
///
/// The future must be polled by one task alone, as a spawned one is, since the server's end wakes the task that polled
/// it first: to register again at each step would take a lock that all connections share.
async fn see_out<C: GracefulConnection>(mut connection: Pin<&mut C>, mut patience: Patience, closing: &Closing) -> End {
    let mut rung = pin!(closing.bell.notified());
    let (mut registered, mut ending) = (false, false);
    poll_fn(|context| {
        if !registered {
            registered = true;
            let _ = rung.as_mut().poll(context);
        }
        loop {
            if connection.as_mut().poll(context).is_ready() {
                return Poll::Ready(End::Over);
            }
            let waited = match closing.has_begun() && !ending {
                true => Wait::ForRequest,
                false => match patience.poll(context) {
                    Poll::Ready(waited) => waited,
                    Poll::Pending => return Poll::Pending,
                },
            };
            match waited {
                Wait::ForHead => return Poll::Ready(End::Late),
                Wait::ForRequest if !ending => {
                    ending = true;
                    patience.hurry();
                    connection.as_mut().graceful_shutdown();
                }
                Wait::ForRequest => return Poll::Ready(End::Over),
            }
        }
    })
    .await
}

/// Whether a connection begins as HTTP/2 does. Nothing of it is taken.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 || seen[..count] != PREFACE[..count] {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

/// Answers on a connection from which no request was read, and ends it.
///
/// It is listened to for a moment more: a connection that is closed while bytes arrive is reset, and the answer lost.
pub(super) async fn part_with(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), status: &str, message: &str) {
    let body = json!({ "error": message }).to_string();
    let length = body.len();
    let later = if status.starts_with("503") { "Retry-After: 1\r\n" } else { "" };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{later}Connection: close\r\n\r\n{body}"
    );
    let _ = timeout(LAST_WORDS, async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        while stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}
