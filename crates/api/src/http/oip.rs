//! The Open Inference Protocol v2 over REST: what there is, and whether it is ready.
//!
//! Source: the protocol's specification, `open-inference-protocol`, inference_rest.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Map, Value, json};
use wattle_core::{Name, TensorSpec};
use wattle_serve::Replica;

use super::{App, extract::FromPath};
use crate::{ApiError, Code, Result};

/// What this server does beyond the protocol's core.
const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

pub(super) async fn server(State(app): State<App>) -> Json<Value> {
    let info = app.service.info();
    Json(json!({ "name": info.name, "version": info.version, "extensions": EXTENSIONS }))
}

pub(super) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

pub(super) async fn ready(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let ready = app.service.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready })))
}

pub(super) async fn metadata(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Value>> {
    Ok(Json(describe(app.service.find(Some(&name))?.as_ref())))
}

pub(super) async fn version_metadata(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<Value>> {
    Ok(Json(describe(find_version(&app, &name, &version)?.as_ref())))
}

pub(super) async fn model_ready(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Value>> {
    let model = app.service.find(Some(&name))?;
    readiness(&app, &model)
}

pub(super) async fn version_ready(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<Value>> {
    let model = find_version(&app, &name, &version)?;
    readiness(&app, &model)
}

pub(super) fn find_version(app: &App, name: &Name, version: &str) -> Result<Arc<Replica>> {
    let model = app.service.find(Some(name))?;
    if model.deployment().version.to_string() == version {
        return Ok(model);
    }
    Err(ApiError::new(
        Code::NotFound,
        format!(
            "deployment {name} serves version {}, not {}",
            model.deployment().version,
            version.chars().take(20).collect::<String>()
        ),
    ))
}

/// A model that is not in memory is ready all the same: its first call loads it.
fn readiness(app: &App, model: &Replica) -> Result<Json<Value>> {
    match app.service.is_ready() {
        true => Ok(Json(json!({ "name": model.name(), "ready": true }))),
        false => Err(ApiError::new(Code::Unavailable, "the server is shutting down")),
    }
}

fn describe(model: &Replica) -> Value {
    let tensors = |specs: &[TensorSpec]| -> Vec<Value> {
        specs
            .iter()
            .map(|spec| {
                let mut tensor = Map::new();
                tensor.insert("name".into(), json!(spec.name));
                tensor.insert("datatype".into(), json!(spec.datatype));
                tensor.insert("shape".into(), json!(spec.shape));
                Value::Object(tensor)
            })
            .collect()
    };
    json!({
        "name": model.name(),
        "versions": [model.deployment().version.to_string()],
        "platform": "onnx_onnxruntime",
        "inputs": tensors(&model.signature().inputs),
        "outputs": tensors(&model.signature().outputs),
    })
}
