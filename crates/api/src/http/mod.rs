//! REST: thin adapters over [`Service`], one file per noun.

mod body;
mod context;
mod datasets;
mod deployments;
mod drain;
mod error;
mod exposition;
mod extract;
mod infer;
mod jobs;
mod metrics;
mod mlflow;
mod models;
mod observe;
mod oip;
mod openapi;
mod predict;
mod repository;
mod server;
mod watch;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use tokio::net::TcpListener;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};

use watch::{Watch, WatchLayer};

pub(crate) use self::{
    body::{Bodies, Share, TIME_LIMIT, off_the_runtime},
    context::context,
};
use crate::{ApiError, Code, Service, grpc, traces::Traces};

/// What the server accepts at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A request's body, uploads excepted.
    pub max_body_bytes: usize,
    /// An uploaded data set or model.
    pub max_upload_bytes: u64,
    /// The names under which this server may be called, ports aside; any name when absent.
    ///
    /// A server on loopback has only loopback's own: otherwise a page of another site, whose name its owner lets point
    /// to this machine, could call it as its own server.
    pub hosts: Option<Vec<String>>,
}

/// What every handler sees.
#[derive(Clone)]
struct App {
    service: Arc<dyn Service>,
    bodies: Bodies,
    max_upload_bytes: u64,
    watch: Arc<Watch>,
}

/// All routes over this service; their traces go where `traces` sends them.
pub fn router(service: Arc<dyn Service>, limits: Limits, traces: Option<Arc<Traces>>) -> Router {
    let bodies = Bodies::new(limits.max_body_bytes);
    let hosts: Arc<Option<Vec<String>>> = Arc::new(limits.hosts);
    let watch = Arc::new(Watch::new(traces));
    let grpc = grpc::router(&service, &bodies);
    let app = App { service, bodies, max_upload_bytes: limits.max_upload_bytes, watch: Arc::clone(&watch) };
    let request_id = HeaderName::from_static("x-request-id");
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
        .route("/api/v1/models/{name}/versions", post(models::import))
        .route("/api/v1/models/{name}/versions/{version}", get(models::version).delete(models::remove_version))
        .route("/api/v1/models/{name}/versions/{version}/model.onnx", get(models::download))
        .route("/api/v1/models/{name}/aliases", get(models::alias_history))
        .route("/api/v1/models/{name}/aliases/{alias}", put(models::set_alias).delete(models::remove_alias))
        .route("/api/v1/deployments", get(deployments::list).post(deployments::create))
        .route("/api/v1/deployments/{name}", get(deployments::show))
        .route("/api/v1/deployments/{name}", delete(deployments::remove))
        .route("/api/v1/deployments/{name}/load", post(deployments::load))
        .route("/api/v1/deployments/{name}/unload", post(deployments::unload))
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
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .merge(grpc)
        // Uploads are bounded where they are staged, and all other bodies in `Bodies`.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(hosts, refuse_other_sites))
        .layer(middleware::from_fn(drain::hear_out))
        .layer(CatchPanicLayer::custom(|payload: Box<dyn std::any::Any + Send>| {
            panic_error(payload.as_ref()).into_response()
        }))
        .layer(WatchLayer(watch))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_request(()).on_response(()).on_failure(()))
        .layer(PropagateRequestIdLayer::new(request_id.clone()))
        .layer(SetRequestIdLayer::new(request_id, UuidRequestId))
}

/// Serves until `shutdown` completes; then refuses new connections, answers what has begun for at most `grace`, and
/// returns.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) -> std::io::Result<()> {
    let (closing, closed) = tokio::sync::oneshot::channel();
    let signal = async move {
        shutdown.await;
        let _ = closing.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(signal);
    let deadline = async move {
        // A sender dropped without a word means that serving ended by itself.
        if closed.await.is_ok() {
            tokio::time::sleep(grace).await;
            tracing::warn!(grace_seconds = grace.as_secs(), "some calls did not end within the grace period");
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = async { serving.await } => result,
        () = deadline => Ok(()),
    }
}

async fn refuse_other_sites(State(hosts): State<Arc<Option<Vec<String>>>>, request: Request, next: Next) -> Response {
    match other_site(&request, (*hosts).as_deref()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

/// A page of another site, open in a browser on this machine, could otherwise send requests to a server on loopback.
fn other_site(request: &Request, hosts: Option<&[String]>) -> Option<ApiError> {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let authority = header(header::HOST).or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if let (Some(hosts), Some(authority)) = (hosts, authority) {
        let name = host_name(authority);
        if !hosts.iter().any(|host| host.eq_ignore_ascii_case(name)) {
            let shown: String = name.chars().take(100).collect();
            let message =
                format!("this server is not called {shown}: if it should be, start it with --allow-host {shown}");
            return Some(ApiError::new(Code::Forbidden, message));
        }
    }
    let origin = request.headers().get(header::ORIGIN)?;
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    (origin.as_ref().and_then(Uri::authority).map(|origin| origin.as_str()) != authority)
        .then(|| ApiError::new(Code::Forbidden, "requests from pages of other sites are refused"))
}

/// The host of `host:port`, without its port.
fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// What the log says of a request has the id that its answer carries.
fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    tracing::error_span!("request", id, method = %request.method(), path = request.uri().path())
}

/// What the caller of a handler that panicked is told.
pub(crate) fn panic_error(payload: &(dyn std::any::Any + Send)) -> ApiError {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ApiError::internal(format!("panicked: {text}"))
}

async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::new(Code::NotFound, format!("there is nothing at {path}: GET / lists the addresses"))
}

async fn method_not_allowed(State(_): State<App>) -> Response {
    let body = axum::Json(serde_json::json!({ "error": "this address does not take this method" }));
    (StatusCode::METHOD_NOT_ALLOWED, body).into_response()
}

#[derive(Clone, Copy)]
struct UuidRequestId;

impl MakeRequestId for UuidRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()).ok().map(RequestId::new)
    }
}
