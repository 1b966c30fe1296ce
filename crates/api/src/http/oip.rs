//! The Open Inference Protocol v2 over REST, with JSON tensors.
//!
//! Source: the protocol's specification, `open-inference-protocol`, inference_rest.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use wattle_core::{Datatype, Name, Signature, TensorSpec};
use wattle_engine::{Tensor, tensor::Data};
use wattle_serve::{Prediction, Replica};

use super::{
    App,
    extract::FromPath,
    predict::{Answer, answer},
};
use crate::{
    ApiError, Code, Result,
    predict::{Elements, flatten, typed},
};

/// An inference request. `parameters` are accepted, as the protocol asks, and have no effect.
#[derive(Deserialize)]
pub(super) struct InferRequest {
    #[serde(default)]
    id: Option<String>,
    inputs: Vec<InputTensor>,
    #[serde(default)]
    outputs: Option<Vec<RequestedOutput>>,
}

#[derive(Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    data: Value,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
}

#[derive(Serialize)]
pub(super) struct InferResponse {
    model_name: Name,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<OutputTensor>,
}

#[derive(Serialize)]
struct OutputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: Datatype,
    data: Flat,
}

/// The elements in row-major order, whatever the shape.
struct Flat(Data);

impl Serialize for Flat {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Elements { data: &self.0, shape: &[self.0.len()], first: 0 }.serialize(serializer)
    }
}

pub(super) async fn server(State(app): State<App>) -> Json<Value> {
    let info = app.service.info();
    Json(json!({ "name": info.name, "version": info.version, "extensions": [] }))
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

pub(super) async fn infer(State(app): State<App>, FromPath(name): FromPath<Name>, body: Body) -> Result<Answer> {
    let replica = app.service.find(Some(&name))?;
    answer(&app, replica, body, read, write).await
}

pub(super) async fn version_infer(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
    body: Body,
) -> Result<Answer> {
    let replica = find_version(&app, &name, &version)?;
    answer(&app, replica, body, read, write).await
}

/// What the answer needs of the request: its id, and the names of the wanted outputs.
type Kept = (Option<String>, Vec<String>);

fn read(replica: &Replica, request: InferRequest) -> Result<(Vec<Tensor>, Kept)> {
    let wanted = wanted_outputs(replica.signature(), request.outputs)?;
    let inputs = request.inputs.into_iter().map(tensor).collect::<Result<Vec<Tensor>>>()?;
    Ok((inputs, (request.id, wanted)))
}

fn write(replica: &Replica, prediction: Prediction, (id, wanted): Kept) -> InferResponse {
    let outputs = prediction.outputs.into_iter().filter(|tensor| wanted.contains(&tensor.name));
    let outputs = outputs.map(|tensor| OutputTensor {
        datatype: tensor.data.datatype(),
        name: tensor.name,
        shape: tensor.shape,
        data: Flat(tensor.data),
    });
    InferResponse {
        model_name: replica.name().clone(),
        model_version: prediction.model.version.to_string(),
        id,
        outputs: outputs.collect(),
    }
}

fn tensor(input: InputTensor) -> Result<Tensor> {
    let datatype: Datatype = input.datatype.parse()?;
    let mut flat = Vec::new();
    let nested = flatten(input.data, &mut flat);
    // Data may be nested as the shape says, or flat.
    if !nested.is_some_and(|nested| nested.len() == 1 || nested == input.shape) {
        return Err(ApiError::invalid(format!(
            "input {:?}: the data is neither flat nor nested as its shape {:?} says",
            input.name, input.shape
        )));
    }
    let data = typed(&input.name, datatype, flat)?;
    Ok(Tensor::new(input.name, input.shape, data)?)
}

fn wanted_outputs(signature: &Signature, requested: Option<Vec<RequestedOutput>>) -> Result<Vec<String>> {
    let known: Vec<&str> = signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
    match requested {
        None => Ok(known.into_iter().map(str::to_owned).collect()),
        Some(requested) if requested.is_empty() => Ok(known.into_iter().map(str::to_owned).collect()),
        Some(requested) => requested
            .into_iter()
            .map(|output| {
                known.contains(&output.name.as_str()).then_some(()).ok_or_else(|| {
                    ApiError::invalid(format!("unknown output {:?}: the model has {}", output.name, known.join(", ")))
                })?;
                Ok(output.name)
            })
            .collect(),
    }
}

fn find_version(app: &App, name: &Name, version: &str) -> Result<Arc<Replica>> {
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
