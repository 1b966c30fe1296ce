//! REST: thin adapters over [`Service`], one file per noun.

mod answer;
mod anthropic;
mod asked;
mod body;
mod connection;
mod context;
mod datasets;
mod deployments;
mod drain;
mod edge;
mod encoding;
mod entry;
mod error;
mod exposition;
mod extract;
mod generate;
mod infer;
mod jobs;
mod language;
mod metrics;
mod mlflow;
mod models;
mod observe;
mod oip;
mod openai;
mod openapi;
mod patience;
mod predict;
mod repository;
mod rerank;
mod server;
mod sites;
mod stream;
mod tls;
mod tokenize;
mod watch;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};

use watch::{Watch, WatchLayer};

pub(crate) use self::{
    body::{Bodies, Share, off_the_runtime},
    context::context,
};
pub use self::{
    edge::{ConnectionLimits, Edge, serve},
    tls::{Tls, TlsFiles},
};
use crate::{ApiError, Code, Service, grpc, traces::Traces};

/// What the server accepts at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A request's body, uploads excepted.
    pub max_body_bytes: usize,
    /// An uploaded data set or model.
    pub max_upload_bytes: u64,
    /// How long a body may take to come in; a large one has more time.
    pub body_timeout: Duration,
}

/// What every handler sees: cloned for every call, so that a clone is one count.
#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    service: Arc<dyn Service>,
    bodies: Bodies,
    max_upload_bytes: u64,
    watch: Arc<Watch>,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// All routes over this service; their traces go where `traces` sends them.
pub fn router(service: Arc<dyn Service>, limits: Limits, traces: Option<Arc<Traces>>) -> Router {
    let bodies = Bodies::new(limits.max_body_bytes, limits.body_timeout);
    let watch = Arc::new(Watch::new(traces));
    let grpc = grpc::router(&service, &bodies, watch.traces());
    let shared = Shared { service, bodies, max_upload_bytes: limits.max_upload_bytes, watch: Arc::clone(&watch) };
    let app = App(Arc::new(shared));
    Router::new()
        .route("/", get(server::welcome))
        .route("/metrics", get(metrics::show))
        .route("/openapi.json", get(openapi::show))
        .route("/docs", get(openapi::page))
        .route("/docs/page.js", get(openapi::script))
        .route("/docs/page.css", get(openapi::style))
        .route("/api/v1/server", get(server::info))
        .route("/api/v1/usage", get(server::usage))
        .route("/api/v1/gc", post(server::collect_garbage))
        .route("/api/v1/datasets", get(datasets::list))
        .route("/api/v1/datasets/{name}", put(datasets::add).get(datasets::show).delete(datasets::remove))
        .route("/api/v1/training-jobs", get(jobs::list).post(jobs::create))
        .route("/api/v1/training-jobs/{id}", get(jobs::show).delete(jobs::cancel))
        .route("/api/v1/training-jobs/{id}/events", get(jobs::events))
        .route("/api/v1/models", get(models::list))
        .route("/api/v1/models/{name}", get(models::show).delete(models::remove))
        // Uploads are bounded where they are staged, and all other bodies in `Bodies`.
        .route("/api/v1/models/{name}/versions", post(models::import).layer(DefaultBodyLimit::disable()))
        .route("/api/v1/models/{name}/versions/{version}", get(models::version).delete(models::remove_version))
        .route("/api/v1/models/{name}/versions/{version}/model.onnx", get(models::download))
        .route("/api/v1/models/{name}/aliases", get(models::alias_history))
        .route("/api/v1/models/{name}/aliases/{alias}", put(models::set_alias).delete(models::remove_alias))
        .route("/api/v1/deployments", get(deployments::list).post(deployments::create))
        .route("/api/v1/deployments/{name}", get(deployments::show))
        .route("/api/v1/deployments/{name}", delete(deployments::remove))
        .route("/api/v1/deployments/{name}/load", post(deployments::load))
        .route("/api/v1/deployments/{name}/unload", post(deployments::unload))
        .route("/api/v1/deployments/{name}/promote", post(deployments::promote))
        .route("/api/v1/deployments/{name}/rollback", post(deployments::roll_back))
        .route("/api/v1/deployments/{name}/history", get(deployments::history))
        .route("/api/v1/deployments/{name}/logs", get(deployments::logs))
        .route("/api/v1/deployments/{name}/logs/events", get(deployments::log_events))
        .route("/predict", post(predict::default))
        .route("/models/{deployment}/predict", post(predict::named))
        .route("/invocations", post(mlflow::default))
        .route("/models/{deployment}/invocations", post(mlflow::named))
        .route("/ping", get(mlflow::ping))
        .route("/health", get(mlflow::ping))
        .route("/version", get(mlflow::version))
        .route("/v2", get(oip::server))
        .route("/v2/health/live", get(oip::live))
        .route("/v2/health/ready", get(oip::ready))
        .route("/v2/models/{deployment}", get(oip::metadata))
        .route("/v2/models/{deployment}/ready", get(oip::model_ready))
        .route("/v2/models/{deployment}/infer", post(infer::infer))
        .route("/v2/models/{deployment}/versions/{version}", get(oip::version_metadata))
        .route("/v2/models/{deployment}/versions/{version}/ready", get(oip::version_ready))
        .route("/v2/models/{deployment}/versions/{version}/infer", post(infer::version_infer))
        .route("/v2/models/{deployment}/config", get(repository::config))
        .route("/v2/models/{deployment}/versions/{version}/config", get(repository::version_config))
        .route("/v2/models/stats", get(repository::all_statistics))
        .route("/v2/models/{deployment}/stats", get(repository::statistics))
        .route("/v2/models/{deployment}/versions/{version}/stats", get(repository::version_statistics))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{deployment}/load", post(repository::load))
        .route("/v2/repository/models/{deployment}/unload", post(repository::unload))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{name}", get(openai::model))
        .route("/v1/responses", post(openai::responses))
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/messages", post(anthropic::create))
        .route("/v1/messages/count_tokens", post(anthropic::count))
        .route("/v1/rerank", post(rerank::create))
        .route("/api/v1/tokenize", post(tokenize::tokenize))
        .route("/api/v1/detokenize", post(tokenize::detokenize))
        .route("/v2/models/{deployment}/generate", post(generate::whole))
        .route("/v2/models/{deployment}/generate_stream", post(generate::stream))
        .route("/v2/models/{deployment}/versions/{version}/generate", post(generate::version_whole))
        .route("/v2/models/{deployment}/versions/{version}/generate_stream", post(generate::version_stream))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .merge(grpc)
        .layer(WatchLayer(watch))
}

/// What the caller of a handler that panicked is told.
pub(crate) fn panic_error(payload: &(dyn std::any::Any + Send)) -> ApiError {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ApiError::internal(format!("panicked: {text}"))
}

async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    let error = ApiError::new(Code::NotFound, format!("there is nothing at {path}: GET / lists the addresses"));
    in_form_of(&uri, error)
}

async fn method_not_allowed(uri: Uri, State(_): State<App>) -> Response {
    let mut response = in_form_of(&uri, ApiError::invalid("this address does not take this method"));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// The error in the form that the clients of this address read.
fn in_form_of(uri: &Uri, error: ApiError) -> Response {
    if uri.path().starts_with("/v1/") { openai::Refusal::from(error).into_response() } else { error.into_response() }
}
