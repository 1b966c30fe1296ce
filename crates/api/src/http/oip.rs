//! The Open Inference Protocol v2 over REST: what there is, and whether it is ready.
//!
//! Source: the protocol's specification, `open-inference-protocol`, inference_rest.

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};
use wattle_core::Name;
use wattle_serve::Replica;

use super::{App, extract::FromPath};
use crate::{
    ApiError, Code, Result,
    describe::{self, Metadata},
};

pub(super) async fn server(State(app): State<App>) -> Json<Value> {
    let info = app.service.info();
    Json(json!({ "name": info.name, "version": info.version, "extensions": describe::EXTENSIONS }))
}

pub(super) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

pub(super) async fn ready(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let ready = app.service.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready })))
}

pub(super) async fn metadata(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Metadata>> {
    Ok(Json(Metadata::of(app.service.find(Some(&name))?.as_ref())))
}

pub(super) async fn version_metadata(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<Metadata>> {
    Ok(Json(Metadata::of(describe::find(app.service.as_ref(), &name, &version)?.as_ref())))
}

pub(super) async fn model_ready(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Value>> {
    let model = app.service.find(Some(&name))?;
    readiness(&app, &model)
}

pub(super) async fn version_ready(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<Value>> {
    let model = describe::find(app.service.as_ref(), &name, &version)?;
    readiness(&app, &model)
}

/// A model that is not in memory is ready all the same: its first call loads it.
fn readiness(app: &App, model: &Replica) -> Result<Json<Value>> {
    match app.service.is_ready() {
        true => Ok(Json(json!({ "name": model.name(), "ready": true }))),
        false => Err(ApiError::new(Code::Unavailable, "the server is shutting down")),
    }
}
