//! Inference by the Open Inference Protocol v2 over REST, with tensors in JSON or in binary behind it.
//!
//! Sources: the protocol's specification (`open-inference-protocol`, inference_rest) and its binary tensor data extension as
//! Triton Inference Server documents it (`protocol/extension_binary_data.md`).

use std::{pin::pin, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use wattle_core::{Datatype, Name, Signature, TensorSpec};
use wattle_engine::{Data, Tensor};
use wattle_serve::{
    Call, Context, Prediction, Replica,
    metrics::{Phases, Protocol},
};

use super::{
    App,
    context::FromHeaders,
    extract::FromPath,
    observe::observe,
    predict::{JSON, Written, answer},
};
use crate::{
    ApiError, Result,
    answer::check_wanted,
    describe,
    json::{Flat, InferInput, InferRequest, RequestedOutput},
};

/// How many bytes of a body are JSON; the tensors stand behind them.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) async fn infer(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    FromHeaders(context): FromHeaders,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let replica = app.service.find(Some(&name))?.route(context.key.as_deref());
    observe(&app, &replica, Protocol::V2, pin!(infer_by(&app, &replica, context, &headers, body))).await
}

pub(super) async fn version_infer(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
    FromHeaders(context): FromHeaders,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let replica = describe::find(app.service.as_ref(), &name, &version)?;
    observe(&app, &replica, Protocol::V2, pin!(infer_by(&app, &replica, context, &headers, body))).await
}

async fn infer_by(
    app: &App,
    replica: &Arc<Replica>,
    context: Context,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Response, Phases)> {
    let json_length = json_length(headers)?;
    let mut body = app.bodies.read_aligned(body, json_length.unwrap_or(0)).await?;
    let has_texts = replica.signature().inputs.iter().any(|spec| spec.datatype == Datatype::Bytes);
    if let Some(json_length) = json_length
        && !has_texts
    {
        body = body.used_from(json_length);
    }
    answer(app, Arc::clone(replica), context, body, move |call, body| read(call, body, json_length), write).await
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>> {
    let Some(value) = headers.get(&HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        ApiError::invalid(format!("the header {HEADER_LENGTH} is no number: send how many bytes of the body are JSON"))
    })
}

/// What the answer needs of the request.
struct Kept {
    id: Option<String>,
    outputs: Vec<Wanted>,
}

/// An output's place among the model's, and whether it is wanted in binary.
struct Wanted {
    index: usize,
    binary: bool,
}

/// What a body says.
struct Read {
    inputs: Vec<Tensor>,
    kept: Kept,
    parameters: Map<String, Value>,
}

fn read(call: &mut Call, body: &Bytes, json_length: Option<usize>) -> Result<(Vec<Tensor>, Kept)> {
    let Read { inputs, kept, parameters } = read_body(call.replica().signature(), body, json_length)?;
    apply(&parameters, call.context_mut())?;
    Ok((inputs, kept))
}

/// The inputs of a body of which `json_length` bytes are JSON; all of them when that is absent, and none when it is 0:
/// then the body is the model's only input as it is.
fn read_body(signature: &Signature, body: &Bytes, json_length: Option<usize>) -> Result<Read> {
    if json_length == Some(0) {
        let outputs = (0..signature.outputs.len()).map(|index| Wanted { index, binary: true }).collect();
        let inputs = vec![raw_input(signature, body)?];
        return Ok(Read { inputs, kept: Kept { id: None, outputs }, parameters: Map::new() });
    }
    let (json, mut tail) = match json_length {
        None => (&body[..], Bytes::new()),
        Some(length) if length <= body.len() => (&body[..length], body.slice(length..)),
        Some(length) => {
            let have = body.len();
            let message = format!("the header {HEADER_LENGTH} says {length}, and the body has only {have} bytes");
            return Err(ApiError::invalid(message));
        }
    };
    let InferRequest { id, parameters, inputs, outputs } = InferRequest::from_json(json)?;
    let outputs = wanted_outputs(signature, &parameters, &outputs)?;
    let inputs = inputs.into_iter().map(|input| tensor(input, &mut tail)).collect::<Result<Vec<Tensor>>>()?;
    if !tail.is_empty() {
        let message = format!("{} bytes at the end of the body belong to no input", tail.len());
        return Err(ApiError::invalid(message));
    }
    Ok(Read { inputs, kept: Kept { id, outputs }, parameters })
}

/// Triton's own parameters of a request: `priority`, 1 for the highest, and `timeout` in microseconds; 0 leaves either
/// open.
fn apply(parameters: &Map<String, Value>, context: &mut Context) -> Result<()> {
    let number = |name: &str| match parameters.get(name) {
        None => Ok(0),
        Some(value) => value
            .as_u64()
            .ok_or_else(|| ApiError::invalid(format!("the parameter {name} must be a whole number, at least 0"))),
    };
    context.apply_triton(number("priority")?, number("timeout")?);
    Ok(())
}

/// An input with its data out of the JSON, or off the front of what stands behind it.
fn tensor(mut input: InferInput, tail: &mut Bytes) -> Result<Tensor> {
    if input.parameters.contains_key("shared_memory_region") {
        let message = format!("input {:?} is in shared memory, which is not supported: send its data", input.name);
        return Err(ApiError::invalid(message));
    }
    if let Some(size) = input.parameters.get("binary_data_size") {
        let name = &input.name;
        if input.data.is_some() {
            return Err(ApiError::invalid(format!("input {name:?} has both data and binary_data_size: send one")));
        }
        let size = size.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= tail.len());
        let Some(size) = size else {
            let have = tail.len();
            let message =
                format!("input {name:?}: binary_data_size is no number of bytes that the body has ({have} are left)");
            return Err(ApiError::invalid(message));
        };
        let data = Data::from_le_bytes(input.datatype, tail.split_to(size));
        input.data = Some(data.map_err(|error| ApiError::invalid(format!("input {name:?}: {error}")))?);
    }
    input.into_tensor()
}

/// The only input, whose bytes are the body.
fn raw_input(signature: &Signature, body: &Bytes) -> Result<Tensor> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(ApiError::invalid(
            "a raw body is one input, and the model takes several: send them with JSON before",
        ));
    };
    let data = Data::from_le_bytes(spec.datatype, body.clone())?;
    let shape = raw_shape(spec, data.len()).ok_or_else(|| {
        ApiError::invalid(format!(
            "a raw body of {} values does not fill the shape {:?}: send JSON before it that says its shape",
            data.len(),
            spec.shape
        ))
    })?;
    Ok(Tensor::new(spec.name.clone(), shape, data)?)
}

/// The input's shape, its one free dimension as large as the values make it.
fn raw_shape(spec: &TensorSpec, count: usize) -> Option<Vec<usize>> {
    let known = |dimension: &i64| usize::try_from(*dimension).ok();
    let fixed = spec.shape.iter().filter_map(known).try_fold(1_usize, usize::checked_mul)?;
    let free = spec.shape.iter().filter(|dimension| **dimension < 0).count();
    if fixed == 0 || free > 1 || !count.is_multiple_of(fixed) {
        return None;
    }
    Some(spec.shape.iter().map(|dimension| known(dimension).unwrap_or(count / fixed)).collect())
}

fn wanted_outputs(
    signature: &Signature,
    parameters: &Map<String, Value>,
    requested: &[RequestedOutput],
) -> Result<Vec<Wanted>> {
    let all_binary = flag(parameters, "binary_data_output")?.unwrap_or(false);
    if requested.is_empty() {
        return Ok((0..signature.outputs.len()).map(|index| Wanted { index, binary: all_binary }).collect());
    }
    let wanted = |output: &RequestedOutput| {
        let name = &output.name;
        let index = signature.outputs.iter().position(|spec| spec.name == *name).ok_or_else(|| {
            let known: Vec<&str> = signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
            ApiError::invalid(format!("unknown output {name:?}: the model has {}", known.join(", ")))
        })?;
        for unsupported in ["classification", "shared_memory_region"] {
            if output.parameters.contains_key(unsupported) {
                let message = format!("output {name:?}: {unsupported} is not supported: ask for the output as it is");
                return Err(ApiError::invalid(message));
            }
        }
        Ok(Wanted { index, binary: flag(&output.parameters, "binary_data")?.unwrap_or(all_binary) })
    };
    check_wanted(requested.iter().map(|output| output.name.as_str()))?;
    requested.iter().map(wanted).collect()
}

fn flag(parameters: &Map<String, Value>, name: &str) -> Result<Option<bool>> {
    let value = |value: &Value| {
        value.as_bool().ok_or_else(|| ApiError::invalid(format!("the parameter {name} must be true or false")))
    };
    parameters.get(name).map(value).transpose()
}

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a Name,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<OutputTensor>,
}

#[derive(Serialize)]
struct OutputTensor {
    name: String,
    shape: Vec<usize>,
    datatype: wattle_core::Datatype,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Flat>,
}

fn write(replica: &Replica, prediction: Prediction, kept: Kept) -> Result<Written> {
    let mut computed: Vec<Option<Tensor>> = prediction.outputs.into_iter().map(Some).collect();
    let (mut outputs, mut blobs) = (Vec::with_capacity(kept.outputs.len()), Vec::new());
    for Wanted { index, binary } in &kept.outputs {
        let tensor = computed.get_mut(*index).and_then(Option::take);
        let Tensor { name, shape, data } = tensor.ok_or_else(|| ApiError::internal("an output is absent"))?;
        let datatype = data.datatype();
        let (parameters, data) = if *binary {
            let blob = data.into_le_bytes();
            let parameters = json!({ "binary_data_size": blob.len() });
            blobs.push(blob);
            (Some(parameters), None)
        } else {
            (None, Some(Flat(data)))
        };
        outputs.push(OutputTensor { name, shape, datatype, parameters, data });
    }
    let response = InferResponse {
        model_name: replica.name(),
        model_version: prediction.model.version.to_string(),
        id: kept.id,
        outputs,
    };
    let text = serde_json::to_vec(&response).map_err(ApiError::internal)?;
    if blobs.is_empty() {
        return Ok(Written { content_type: JSON, headers: HeaderMap::new(), pieces: vec![text.into()] });
    }
    let headers = HeaderMap::from_iter([(HEADER_LENGTH, HeaderValue::from(text.len()))]);
    blobs.insert(0, text.into());
    Ok(Written { content_type: HeaderValue::from_static("application/octet-stream"), headers, pieces: blobs })
}

#[cfg(test)]
#[path = "infer_tests.rs"]
mod tests;
