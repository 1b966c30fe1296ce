//! MLflow's scoring protocol.

use std::{pin::pin, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;
use wattle_core::{ModelReference, Name, Selector};
use wattle_serve::{
    Call, Context, Prediction, Replica,
    metrics::{Phases, Protocol},
};
use wattle_store::table::Frame;

use super::{
    App,
    context::FromHeaders,
    extract::FromPath,
    observe::observe,
    predict::{JSON, Written, answer},
};
use crate::{
    ApiError, Code, Result,
    mlflow::{Form, Predictions, inputs_from_json, inputs_from_table},
};

/// `GET /ping` and `GET /health`: an empty line, as the containers that wait for it expect.
pub(super) async fn ping(State(app): State<App>) -> (StatusCode, &'static str) {
    let status = if app.service.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, "\n")
}

/// `GET /version`: of the software that answers.
pub(super) async fn version(State(app): State<App>) -> String {
    app.service.info().version
}

/// `POST /invocations`: the default or only deployment.
pub(super) async fn default(
    State(app): State<App>,
    context: Result<FromHeaders>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let FromHeaders(context) = context?;
    Ok(invoke(&app, None, context, &headers, body).await?)
}

/// `POST /models/{deployment}/invocations`.
pub(super) async fn named(
    State(app): State<App>,
    deployment: Result<FromPath<Name>>,
    context: Result<FromHeaders>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (FromPath(deployment), FromHeaders(context)) = (deployment?, context?);
    Ok(invoke(&app, Some(&deployment), context, &headers, body).await?)
}

async fn invoke(
    app: &App,
    deployment: Option<&Name>,
    context: Context,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response> {
    let replica = app.service.find(deployment)?.route(context.key.as_deref());
    observe(app, &replica, Protocol::Mlflow, pin!(call(app, &replica, context, headers, body))).await
}

async fn call(
    app: &App,
    replica: &Arc<Replica>,
    context: Context,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Response, Phases)> {
    let kind = kind(headers)?;
    let missing = match kind {
        Kind::Json => Vec::new(),
        Kind::Csv | Kind::Parquet => missing(app, replica).await?,
    };
    let body = app.bodies.read(body).await?;
    let body = if kind == Kind::Parquet { body.packed() } else { body };
    let mut share = app.bodies.share();
    let read = move |call: &mut Call, body: &Bytes| {
        let signature = call.replica().signature();
        let mut reserve = |bytes| share.grow(bytes);
        let (inputs, form) = match kind {
            Kind::Json => inputs_from_json(signature, body)?,
            Kind::Csv => {
                let frame = Frame::csv(body.clone())?;
                (inputs_from_table(signature, frame, &missing, &mut reserve)?, Form::Table)
            }
            Kind::Parquet => {
                let frame = Frame::parquet(body.clone(), &mut reserve)?;
                (inputs_from_table(signature, frame, &missing, &mut reserve)?, Form::Table)
            }
        };
        Ok((inputs, (form, share)))
    };
    let write = |_: &Replica, Prediction { outputs, .. }: Prediction, (form, _share)| {
        let text = serde_json::to_vec(&Predictions { outputs, form }).map_err(ApiError::internal)?;
        Ok(Written { content_type: JSON, headers: HeaderMap::new(), pieces: vec![text.into()] })
    };
    answer(app, Arc::clone(replica), context, body, read, write).await
}

/// What meant a missing value in the file that the model was trained on means it here.
async fn missing(app: &App, replica: &Replica) -> Result<Vec<String>> {
    let id = replica.model_version();
    let reference = ModelReference { model: id.model.clone(), selector: Selector::Version(id.version) };
    let version = app.service.resolve(reference).await?;
    Ok(version.manifest.data.map(|data| data.reading.missing).unwrap_or_default())
}

/// How inputs are written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Json,
    Csv,
    Parquet,
}

fn kind(headers: &HeaderMap) -> Result<Kind> {
    let refuse = |message: String| Err(ApiError::new(Code::Unsupported, message));
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let kind = match essence.as_str() {
        "application/json" => Kind::Json,
        "text/csv" => Kind::Csv,
        "application/vnd.apache.parquet" | "application/x-parquet" => Kind::Parquet,
        _ => {
            return refuse(
                "send the inputs with the header Content-Type: application/json, text/csv or application/vnd.apache.parquet".into(),
            );
        }
    };
    for parameter in parts.filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !name.trim().eq_ignore_ascii_case("charset") {
            let name: String = name.chars().take(64).collect();
            return refuse(format!("the content type's parameter {name:?} is unknown: send charset=utf-8 or none"));
        }
        if !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") {
            return refuse("the inputs must be UTF-8: write them so, and send charset=utf-8 or none".into());
        }
    }
    Ok(kind)
}

/// An error under the names that MLflow's clients read, beside our own.
pub(super) struct Refusal(ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal(error) = self;
        let (error_code, message) = (error_code(error.code), error.message.clone());
        let body = Json(json!({ "error_code": error_code, "message": message, "error": message }));
        error.into_response().map(|_| body.into_response().into_body())
    }
}

/// MLflow's name of a code.
fn error_code(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument | Code::TooLarge | Code::Unsupported => "BAD_REQUEST",
        Code::NotFound => "RESOURCE_DOES_NOT_EXIST",
        Code::Conflict => "RESOURCE_CONFLICT",
        Code::Forbidden => "PERMISSION_DENIED",
        Code::Timeout | Code::Expired => "DEADLINE_EXCEEDED",
        Code::TooMany => "REQUEST_LIMIT_EXCEEDED",
        Code::Unavailable => "TEMPORARILY_UNAVAILABLE",
        Code::OutOfSpace => "RESOURCE_EXHAUSTED",
        Code::Internal => "INTERNAL_ERROR",
    }
}
