//! The command line's side of the API.

mod sse;

use std::{error::Error, ops::ControlFlow, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Certificate, Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::output::progress_is_watched;

/// A server, by its address.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

/// An answer that says no.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Client {
    /// A client of the server at `url`; the certificates in `ca_file` are trusted in place of the system's.
    pub(crate) fn new(url: &str, ca_file: Option<&Path>) -> Result<Client> {
        let is_secure = url.starts_with("https://");
        if !is_secure && !url.starts_with("http://") {
            bail!("cannot talk to {url}: the address must begin with http:// or https:// (set --url or WATTLE_URL)");
        }
        // Somebody else may have chosen already, and then that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("wattle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // What is meant for a server on this machine does not go through a proxy.
            .no_proxy();
        match ca_file {
            Some(path) => http = http.tls_certs_only(authorities(path)?),
            // The system's certificates are read, and missed, only where they are needed.
            None if !is_secure => http = http.tls_certs_only([]),
            None => {}
        }
        let http = http.build().context("cannot trust any server: name its authority with --ca-file")?;
        Ok(Client { http, url: url.trim_end_matches('/').to_owned() })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.answer(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.answer(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, path)).await.map(drop)
    }

    pub(crate) async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.answer(self.request(Method::DELETE, path)).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        response.json().await.context("the server's answer cannot be read")
    }

    /// Sends a request; an answer that is not a success becomes the error that it tells.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| {
            if let Some(reason) = distrust(&error) {
                anyhow!(
                    "the server at {} is not trusted: {reason}; name the authority of its certificate with --ca-file or \
                     WATTLE_CA_FILE",
                    self.url
                )
            } else if error.is_connect() {
                anyhow!(
                    "no server answers at {}: start one with `wattle serve`, or say where it is with --url or WATTLE_URL",
                    self.url
                )
            } else {
                anyhow!(error).context(format!("the call to {} failed", self.url))
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let told = serde_json::from_str::<Value>(&text).ok();
        // OpenAI's protocol tells an object where others tell a text.
        let told = told
            .as_ref()
            .and_then(|body| body.get("error"))
            .and_then(|error| error.as_str().or_else(|| error.get("message").and_then(Value::as_str)));
        let message = told.map_or_else(|| format!("the server answered {status}"), str::to_owned);
        Err(Refusal { status, message }.into())
    }

    /// The events of a stream, each handed to `seen` as JSON, until the stream ends.
    pub(crate) async fn events<T: DeserializeOwned>(&self, path: &str, mut seen: impl FnMut(T)) -> Result<()> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let end = follow(response, |data| {
            seen(serde_json::from_str(data).context("an event of the server cannot be read")?);
            Ok(ControlFlow::Continue(()))
        });
        end.await.map(drop)
    }

    /// Sends what is answered with server-sent events, and hands the data of each to `seen`, until that breaks or the
    /// stream ends. Tells whether it was broken off.
    pub(crate) async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
        seen: impl FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        follow(self.send(self.request(Method::POST, path).json(body)).await?, seen).await
    }
}

async fn follow(response: Response, mut seen: impl FnMut(&str) -> Result<ControlFlow<()>>) -> Result<ControlFlow<()>> {
    let mut pieces = response.bytes_stream();
    let mut events = sse::Events::default();
    while let Some(piece) = pieces.next().await {
        for data in events.take(&piece.context("the connection to the server was lost")?)? {
            if seen(&data)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn authorities(path: &Path) -> Result<Vec<Certificate>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let authorities = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if authorities.is_empty() {
        bail!("{} holds no certificate: it must be PEM, with a BEGIN CERTIFICATE", path.display());
    }
    Ok(authorities)
}

/// Why a server was not trusted, if that is what went wrong.
fn distrust(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(reason.to_string());
        }
        // An error of IO does not show what it wraps among its sources.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// A file on its way to the server.
pub(crate) struct Upload {
    body: Body,
    bar: ProgressBar,
}

impl Upload {
    /// Opens a file; `-` is the standard input. While a person watches, a bar shows how much was sent, and then, under
    /// the words `afterwards`, how long the server has been at work on it.
    pub(crate) async fn open(path: &Path, afterwards: &'static str) -> Result<Upload> {
        let bar = if progress_is_watched() { ProgressBar::no_length() } else { ProgressBar::hidden() };
        if path == Path::new("-") {
            bar.set_style(ProgressStyle::with_template("sending  {bytes}  {bytes_per_sec}")?);
            return Ok(Upload::of(tokio::io::stdin(), bar, afterwards));
        }
        let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?;
        let metadata = file.metadata().await?;
        if metadata.is_dir() {
            bail!("{} is a folder: name a file", path.display());
        }
        bar.set_length(metadata.len());
        bar.set_style(ProgressStyle::with_template(
            "sending  {bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
        )?);
        Ok(Upload::of(file, bar, afterwards))
    }

    fn of(reader: impl AsyncRead + Send + Unpin + 'static, bar: ProgressBar, afterwards: &'static str) -> Upload {
        let pieces = ReaderStream::with_capacity(bar.wrap_async_read(reader), 1 << 18);
        let sent = bar.clone();
        let end = futures::stream::poll_fn(move |_| {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
                sent.set_style(style);
                sent.set_message(afterwards);
                sent.enable_steady_tick(Duration::from_millis(200));
            }
            std::task::Poll::Ready(None)
        });
        Upload { body: Body::wrap_stream(pieces.chain(end)), bar }
    }

    /// Takes the body, and leaves what takes the bar off the terminal when it is dropped.
    pub(crate) fn start(self) -> (Body, Shown) {
        (self.body, Shown(self.bar))
    }
}

/// A bar on the terminal; gone when this is dropped.
pub(crate) struct Shown(ProgressBar);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
