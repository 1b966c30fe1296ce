//! A connection's bytes, and how long they wait for a client that does not take them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::patience::Watch;

/// What carries a connection's bytes.
pub(super) enum Transport {
    /// As they are.
    Plain(TcpStream),
    /// Under TLS, whose state is large.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! with_transport {
    ($transport:expr, $stream:ident => $body:expr) => {
        match $transport {
            Transport::Plain($stream) => $body,
            Transport::Tls($stream) => $body,
        }
    };
}

/// What a connection is read from and written to. A write fails when the client takes nothing for too long.
pub(super) struct Stream {
    transport: Transport,
    watch: Arc<Watch>,
    write_timeout: Duration,
    /// Runs while bytes wait; there is none as long as they do not.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) fn new(transport: Transport, watch: Arc<Watch>, write_timeout: Duration) -> Stream {
        Stream { transport, watch, write_timeout, stalled: None }
    }

    fn bound<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = with_transport!(&mut self.transport, stream => Pin::new(stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.watch.hear();
        }
        outcome
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = with_transport!(&mut self.transport, stream => Pin::new(stream).poll_write(context, bytes));
        self.bound(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome =
            with_transport!(&mut self.transport, stream => Pin::new(stream).poll_write_vectored(context, parts));
        self.bound(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        with_transport!(&self.transport, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            // It holds nothing back, so that this says nothing of whether its client takes anything.
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => {
                let outcome = Pin::new(stream).poll_flush(context);
                self.bound(context, outcome)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = with_transport!(&mut self.transport, stream => Pin::new(stream).poll_shutdown(context));
        self.bound(context, outcome)
    }
}
