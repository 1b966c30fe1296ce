//! Traces, for whoever collects them: a span for each request and, of a call, one for each of its phases.
//!
//! They are sent by OTLP over HTTP, in batches, by a thread of the library's own. A collector that is slow or away costs
//! the spans that do not fit into its queue, and nothing else.
//!
//! Sources: W3C Trace Context; the OpenTelemetry specification and its semantic conventions for HTTP.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider, Span},
};
use wattle_core::Name;
use wattle_serve::metrics::Phases;

use crate::{ApiError, Result, request};

/// How long a collector may take for a batch.
const SENDING: Duration = Duration::from_secs(10);
/// How much of a collector's answer is read.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The most that the last spans of a server that ends may hold it up.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Sends traces to a collector.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// A request's trace, as far as it is known. One that is dropped ends there: its caller left.
pub(crate) struct Trace {
    span: Span,
}

/// Where a call's time went, which its answer tells to whoever traces it.
#[derive(Clone)]
pub(crate) struct Timing {
    pub(crate) deployment: Name,
    pub(crate) phases: Phases,
}

impl Traces {
    /// Sends to the collector at this base address, as in `http://127.0.0.1:4318`, under this name of a service or else
    /// that of the resource's attributes, or `wattle`; needs a Tokio runtime. Which traces are kept
    /// (`OTEL_TRACES_SAMPLER`), what else the sender is (`OTEL_RESOURCE_ATTRIBUTES`) and what the collector asks for
    /// (`OTEL_EXPORTER_OTLP_HEADERS`) are the library's settings.
    ///
    /// # Errors
    /// When the address is none.
    pub fn start(endpoint: &str, service_name: Option<&str>) -> Result<Traces> {
        let wrong = |what: &str| ApiError::invalid(format!("cannot send traces to {endpoint}: {what}"));
        if !endpoint.starts_with("http://") {
            return Err(wrong("the address must begin with http://, as in http://127.0.0.1:4318"));
        }
        // The client asks for a provider of TLS although it speaks none.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(SENDING).no_proxy().tls_certs_only([]);
        let http = http.build().map_err(ApiError::internal)?;
        let sender = Sender { http, runtime: tokio::runtime::Handle::current(), failing: AtomicBool::new(false) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(SENDING)
            .build()
            .map_err(|error| wrong(&error.to_string()))?;
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(service_name)).build();
        let tracer = provider.tracer("wattle");
        Ok(Traces { provider, tracer, propagator: TraceContextPropagator::new() })
    }

    /// Begins a request's trace, as a part of the one that its caller is in, if it says so.
    pub(crate) fn begin(&self, request: &Request) -> Trace {
        let parent = self.propagator.extract_with_context(&Context::new(), &HeaderExtractor(request.headers()));
        let method = request.method().as_str().to_owned();
        let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.clone()),
            KeyValue::new("url.path", request.uri().path().to_owned()),
        ];
        if let Some(id) = request::id() {
            attributes.push(KeyValue::new("wattle.request_id", id));
        }
        // Only addresses that exist become names, since whoever collects traces groups them by name.
        let name = match route {
            Some(route) => {
                attributes.push(KeyValue::new("http.route", route.clone()));
                format!("{method} {route}")
            }
            None => method,
        };
        let span = self.tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
        Trace { span: span.start_with_context(&self.tracer, &parent) }
    }

    /// Ends a request's trace with what its answer tells.
    pub(crate) fn end(&self, mut trace: Trace, response: &Response) {
        let span = &mut trace.span;
        if !span.is_recording() {
            return;
        }
        let ended = SystemTime::now();
        let status = response.status();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_u16().to_string()));
            span.set_status(Status::error(""));
        }
        if let Some(Timing { deployment, phases }) = response.extensions().get::<Timing>() {
            span.set_attribute(KeyValue::new("wattle.deployment", deployment.to_string()));
            for (attribute, header) in
                [("wattle.model", "x-wattle-model"), ("wattle.energy_label", "x-wattle-energy-label")]
            {
                if let Some(text) = header_text(response, header) {
                    span.set_attribute(KeyValue::new(attribute, text.to_owned()));
                }
            }
            for (attribute, header) in
                [("wattle.energy_joules", "x-wattle-energy-joules"), ("wattle.cpu_seconds", "x-wattle-cpu-seconds")]
            {
                if let Some(number) = header_text(response, header).and_then(|text| text.parse::<f64>().ok()) {
                    span.set_attribute(KeyValue::new(attribute, number));
                }
            }
            self.phases(span, phases, ended);
        }
        span.end_with_timestamp(ended);
    }

    /// Sends what is left, within a bound of time.
    pub async fn shutdown(&self) {
        let provider = self.provider.clone();
        let last = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS));
        if !matches!(last.await, Ok(Ok(()))) {
            tracing::warn!("the last traces could not be sent");
        }
    }

    /// A span for each phase; they follow each other without a gap, and the last one has just ended.
    fn phases(&self, span: &Span, phases: &Phases, ended: SystemTime) {
        let parent = Context::new().with_remote_span_context(span.span_context().clone());
        let lengths = phases.lengths();
        let mut at = ended.checked_sub(lengths.iter().sum()).unwrap_or(ended);
        for (name, length) in Phases::NAMES.into_iter().zip(lengths) {
            let phase = self.tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(at);
            let mut phase = phase.start_with_context(&self.tracer, &parent);
            at += length;
            phase.end_with_timestamp(at);
        }
    }
}

fn header_text<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Who sends the traces.
fn resource(service_name: Option<&str>) -> Resource {
    let named = Resource::builder().build();
    let name = named.get(&"service.name".into()).map(|name| name.to_string()).unwrap_or_default();
    let own = service_name.or_else(|| name.starts_with("unknown_service").then_some("wattle"));
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match own {
        Some(name) => resource.with_service_name(name.to_owned()).build(),
        None => resource.build(),
    }
}

/// Sends a batch from the server's runtime: the thread that asks for it has none.
#[derive(Debug)]
struct Sender {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move { send(&http, request).await });
        let result = sent.await.map_err(HttpError::from).and_then(|result| result);
        let problem = match &result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(response.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        // A line when it begins to fail and one when it is well again, not one for each batch.
        match problem {
            Some(problem) if !self.failing.swap(true, Relaxed) => {
                tracing::warn!(problem, "traces cannot be sent and are lost until the collector is there");
            }
            None if self.failing.swap(false, Relaxed) => tracing::info!("traces are sent again"),
            _ => {}
        }
        result
    }
}

async fn send(http: &reqwest::Client, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
    let mut response = http.execute(request.try_into()?).await?;
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > MAX_ANSWER_BYTES {
            return Err("the collector's answer is too long".into());
        }
        body.extend_from_slice(&piece);
    }
    let mut answer = http::Response::builder().status(response.status());
    if let Some(headers) = answer.headers_mut() {
        *headers = std::mem::take(response.headers_mut());
    }
    Ok(answer.body(Bytes::from(body))?)
}
