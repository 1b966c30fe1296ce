//! One connection that is kept from request to request, as a client's pool would.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use reqwest::{
    Method, StatusCode, Url,
    header::{HOST, HeaderMap, HeaderValue, USER_AGENT},
};
use tokio::net::TcpStream;

use super::{body::Body, tally::Fault};

/// Where the requests go, and all of them as they are sent.
pub(super) struct Target {
    addresses: Vec<SocketAddr>,
    uri: hyper::Uri,
    requests: Vec<Body>,
}

impl Target {
    /// Requests with these bodies to an address.
    pub(super) async fn new(url: &str, bodies: Vec<Body>) -> Result<Target> {
        let url = Url::parse(url).with_context(|| format!("{url} is not an address"))?;
        let host = url.host_str().with_context(|| format!("{url} names no host"))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((bare, port)).await;
        let addresses = found.with_context(|| format!("cannot find the host {host}"))?.collect();
        let authority = HeaderValue::from_str(&format!("{host}:{port}"))?;
        let dressed = |mut body: Body| {
            body.headers.insert(HOST, authority.clone());
            body.headers.insert(USER_AGENT, HeaderValue::from_static(concat!("wattle/", env!("CARGO_PKG_VERSION"))));
            body
        };
        Ok(Target { addresses, uri: url.path().parse()?, requests: bodies.into_iter().map(dressed).collect() })
    }

    /// The size of a request's body; requests are sent in turn.
    pub(super) fn bytes(&self, index: usize) -> usize {
        self.body(index).bytes.len()
    }

    fn body(&self, index: usize) -> &Body {
        &self.requests[index % self.requests.len()]
    }

    fn request(&self, index: usize) -> Request<Full<Bytes>> {
        let body = self.body(index);
        let mut request = Request::new(Full::new(body.bytes.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = body.headers.clone();
        request
    }
}

/// A connection to a server.
pub(super) struct Connection(http1::SendRequest<Full<Bytes>>);

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) bytes: u64,
}

impl Connection {
    /// Connects within a time.
    pub(super) async fn open(target: &Target, limit: Duration) -> Result<Connection> {
        let connect = TcpStream::connect(target.addresses.as_slice());
        let stream = tokio::time::timeout(limit, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|error| match error.raw_os_error() {
            Some(number) if number == rustix::io::Errno::MFILE.raw_os_error() => {
                anyhow!("too many files are open for one more connection: raise `ulimit -n`, or lower --concurrency")
            }
            _ => anyhow!(error),
        })?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; why it ended, the sender tells as well.
        tokio::spawn(connection);
        Ok(Connection(sender))
    }

    /// Whether another request can be sent; a server may close a connection that is idle.
    pub(super) async fn is_open(&mut self) -> bool {
        self.0.ready().await.is_ok()
    }

    /// Sends a request and reads the whole answer within a time. A connection that lost one is of no further use.
    pub(super) async fn call(&mut self, target: &Target, index: usize, limit: Duration) -> Result<Answer, Fault> {
        let call = async {
            let (head, mut body) = self.0.send_request(target.request(index)).await?.into_parts();
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            Ok::<_, hyper::Error>(Answer { status: head.status, headers: head.headers, bytes })
        };
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|_| Fault::Connection),
            Err(_) => Err(Fault::TimedOut),
        }
    }
}
