//! The bodies of the requests: what was given, the rows of a file in turn, or zeros by the deployment's signature.

use std::iter::zip;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};
use wattle_api::json::{InferInput, InferRequest};
use wattle_core::{Datatype, Name};

use crate::{
    client::Client,
    commands::predict::{read_json, rows::Rows},
    flags::{BenchFlags, BenchProtocol},
};

/// The most bytes of bodies that are kept ready; a file with more rows is sent from its beginning until there.
const MOST_BYTES: usize = 64 << 20;
/// The most bodies that are kept ready.
const MOST_BODIES: usize = 10_000;

/// A body and the headers that tell what it is.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) headers: HeaderMap,
    pub(super) bytes: Bytes,
}

/// Everything that is sent, in turn; at least one.
pub(super) async fn bodies(client: &Client, flags: &BenchFlags) -> Result<Vec<Body>> {
    let protocol = flags.protocol;
    // Asked also where the body is given, so that an unknown deployment is told before anything is sent.
    let metadata: Metadata = client.get(&format!("/v2/models/{}", flags.name)).await?;
    if let Some(json) = &flags.input.json {
        return Ok(vec![dress(protocol, &read_json(json)?)?]);
    }
    let batch = flags.batch.unwrap_or(1);
    if let Some(path) = &flags.input.csv {
        let rows = Rows::open(client, &flags.name, path, &flags.rows).await?;
        let (mut bodies, mut bytes) = (Vec::new(), 0);
        for call in rows.calls(batch)? {
            let inputs = zip(&metadata.inputs, call?).map(|(input, values)| input.of(values));
            let body = dress(protocol, &write(protocol, &inputs.collect::<Result<Vec<_>>>()?))?;
            bytes += body.bytes.len();
            if bodies.len() == MOST_BODIES || (bytes > MOST_BYTES && !bodies.is_empty()) {
                break;
            }
            bodies.push(body);
        }
        if bodies.is_empty() {
            bail!("{} has no rows: give a file with at least one", path.display());
        }
        return Ok(bodies);
    }
    let inputs: Vec<Tensor> = metadata.inputs.iter().map(|input| input.zeros(batch)).collect();
    Ok(vec![dress(protocol, &write(protocol, &inputs))?])
}

/// The address that takes them.
pub(super) fn path(protocol: BenchProtocol, deployment: &Name) -> String {
    match protocol {
        BenchProtocol::Predict => format!("/models/{deployment}/predict"),
        BenchProtocol::V2 | BenchProtocol::V2Binary => format!("/v2/models/{deployment}/infer"),
    }
}

/// What the protocol says of a model.
#[derive(Deserialize)]
struct Metadata {
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
}

/// An input with its values, in row-major order.
struct Tensor<'a> {
    name: &'a str,
    datatype: Datatype,
    shape: Vec<usize>,
    values: Vec<Value>,
}

impl Input {
    /// The shape with so many rows; other dimensions that may have any size have 1.
    fn shape(&self, rows: usize) -> Vec<usize> {
        let sizes = self.shape.iter().enumerate();
        sizes.map(|(axis, size)| usize::try_from(*size).unwrap_or(if axis == 0 { rows } else { 1 })).collect()
    }

    fn zeros(&self, rows: usize) -> Tensor<'_> {
        let zero = match self.datatype {
            Datatype::Bytes => json!("0"),
            Datatype::Bool => json!(false),
            _ => json!(0),
        };
        let shape = self.shape(rows);
        let values = vec![zero; shape.iter().product()];
        Tensor { name: &self.name, datatype: self.datatype, shape, values }
    }

    fn of(&self, values: Vec<Value>) -> Result<Tensor<'_>> {
        let shape = self.shape(values.len());
        if shape.iter().product::<usize>() != values.len() {
            bail!("input {:?} has shape {:?}, and a file has one value a row for it", self.name, self.shape);
        }
        Ok(Tensor { name: &self.name, datatype: self.datatype, shape, values })
    }
}

/// The inputs in the protocol's JSON.
fn write(protocol: BenchProtocol, inputs: &[Tensor<'_>]) -> Value {
    match protocol {
        BenchProtocol::Predict => {
            inputs.iter().map(|input| (input.name.to_owned(), nested(&input.shape, &input.values))).collect()
        }
        BenchProtocol::V2 | BenchProtocol::V2Binary => {
            let tensor = |input: &Tensor<'_>| {
                let Tensor { name, datatype, shape, values } = input;
                json!({ "name": name, "datatype": datatype, "shape": shape, "data": values })
            };
            json!({ "inputs": inputs.iter().map(tensor).collect::<Vec<_>>() })
        }
    }
}

/// The body as it is sent; for binary tensors the data moves out of the JSON and behind it.
fn dress(protocol: BenchProtocol, json: &Value) -> Result<Body> {
    let text = serde_json::to_vec(json)?;
    let kind = |kind: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
    if protocol != BenchProtocol::V2Binary {
        return Ok(Body { headers: kind("application/json"), bytes: text.into() });
    }
    let request = InferRequest::from_json(&text).map_err(|error| anyhow!(error.message))?;
    let (mut tensors, mut tail) = (Vec::new(), Vec::new());
    for InferInput { name, shape, datatype, data, .. } in request.inputs {
        let data = data.with_context(|| format!("input {name:?} has no data"))?.into_le_bytes();
        let size = data.len();
        tensors.push(json!({
            "name": name, "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": size }
        }));
        tail.extend_from_slice(&data);
    }
    let mut bytes = serde_json::to_vec(&json!({ "inputs": tensors, "parameters": { "binary_data_output": true } }))?;
    let mut headers = kind("application/octet-stream");
    headers.insert(HeaderName::from_static("inference-header-content-length"), bytes.len().into());
    bytes.append(&mut tail);
    Ok(Body { headers, bytes: bytes.into() })
}

/// Values as arrays within arrays.
fn nested(shape: &[usize], values: &[Value]) -> Value {
    match shape {
        [] => values.first().cloned().unwrap_or_default(),
        [_] => json!(values),
        [length, inner @ ..] => {
            let width: usize = inner.iter().product();
            (0..*length).map(|index| nested(inner, &values[index * width..(index + 1) * width])).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn inputs() -> Vec<Input> {
        let input = |name: &str, datatype, shape: &[i64]| Input { name: name.into(), datatype, shape: shape.into() };
        vec![
            input("x", Datatype::Fp32, &[-1, 2]),
            input("n", Datatype::Int16, &[-1]),
            input("t", Datatype::Bytes, &[-1, 1]),
        ]
    }

    #[test]
    fn zeros_have_the_shapes_of_the_signature() {
        let inputs = inputs();
        let zeros: Vec<Tensor> = inputs.iter().map(|input| input.zeros(2)).collect();
        let body = write(BenchProtocol::Predict, &zeros);
        assert_eq!(body, json!({ "x": [[0, 0], [0, 0]], "n": [0, 0], "t": [["0"], ["0"]] }));
        let body = write(BenchProtocol::V2, &zeros[..1]);
        let tensor = json!({ "name": "x", "datatype": "FP32", "shape": [2, 2], "data": [0, 0, 0, 0] });
        assert_eq!(body, json!({ "inputs": [tensor] }));
    }

    #[test]
    fn binary_tensors_follow_their_description() {
        let inputs = inputs();
        let rows = [inputs[1].of(vec![json!(-2.0), json!(7)]), inputs[2].of(vec![json!("ab"), json!(null)])];
        let rows = rows.map(Result::unwrap);
        let body = dress(BenchProtocol::V2Binary, &write(BenchProtocol::V2Binary, &rows)).unwrap();
        let length: usize = body.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let told: Value = serde_json::from_slice(&body.bytes[..length]).unwrap();
        assert_eq!(told["inputs"][0]["parameters"]["binary_data_size"], 4);
        assert_eq!(told["inputs"][1]["parameters"]["binary_data_size"], 10);
        assert_eq!(body.bytes[length..], *b"\xfe\xff\x07\x00\x02\0\0\0ab\0\0\0\0");
    }

    #[test]
    fn rows_that_do_not_fit_are_told() {
        let told = inputs()[0].of(vec![json!(1)]).err().unwrap().to_string();
        assert_eq!(told, "input \"x\" has shape [-1, 2], and a file has one value a row for it");
    }
}
