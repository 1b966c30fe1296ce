//! Bodies from outside, random ones and nearly right ones: whatever comes, the answer is tensors that fit or an error.
//!
//! `make fuzz` runs these for long; `PROPTEST_CASES` says how many cases each has.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use serde_json::{Value, json};
use wattle_api::{
    json::{InferRequest, Outputs, inputs_from_json},
    mlflow,
};
use wattle_core::{Datatype, Signature, TensorSpec};
use wattle_engine::{Data, Tensor, in_order};

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), missing: true }
}

fn signatures() -> [Signature; 4] {
    let outputs = vec![spec("y", Datatype::Fp64, &[-1, 1])];
    [
        Signature { inputs: vec![spec("x", Datatype::Fp64, &[-1, 1])], outputs: outputs.clone() },
        Signature {
            inputs: vec![
                spec("number", Datatype::Fp32, &[-1, 1]),
                spec("text", Datatype::Bytes, &[-1, 1]),
                spec("flag", Datatype::Bool, &[-1, 1]),
                spec("count", Datatype::Uint8, &[-1, 1]),
            ],
            outputs: outputs.clone(),
        },
        Signature { inputs: vec![spec("image", Datatype::Fp16, &[-1, 2, 3])], outputs: outputs.clone() },
        Signature { inputs: vec![spec("X", Datatype::Int32, &[-1, 2])], outputs },
    ]
}

/// JSON of any kind, with the keys that mean something among others.
fn value() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 18] = [
        "dataframe_split",
        "dataframe_records",
        "instances",
        "columns",
        "x",
        "rows",
        "number",
        "text",
        "flag",
        "count",
        "image",
        "inputs",
        "name",
        "shape",
        "datatype",
        "data",
        "parameters",
        "outputs",
    ];
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..4_i64).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 64, 8, move |inner| {
        let key = prop_oneof![9 => prop::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => text()];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter)
}

/// A text with some of its bytes lost, changed or doubled.
fn damaged(text: String) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 0..4);
    changes.prop_map(move |changes| {
        let mut bytes = text.clone().into_bytes();
        for (place, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match kind {
                0 => bytes.truncate(place),
                1 => bytes[place] = byte,
                2 => bytes.insert(place, byte),
                _ => bytes.insert(place, bytes[place]),
            }
        }
        bytes
    })
}

fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let right = [
        json!({"x": [[1.5], [2.0]]}),
        json!([{"number": 1, "text": "a", "flag": true, "count": 255}]),
        json!({"rows": [{"number": null, "text": "é", "flag": 0, "count": 1}]}),
        json!([[1.0, "a", false, 3], [2.5, "b", true, 4]]),
        json!({"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1, 2], "parameters": {"a": 1}}]}),
        json!({"inputs": [{"data": [["a"], ["b"]], "name": "t", "datatype": "BYTES", "shape": [2, 1]}], "id": "7"}),
        json!({"image": [[[1, 2, 3], [4, 5, 6]]]}),
        json!({"dataframe_split": {"index": [0], "columns": ["x", "more"], "data": [[1.5, []], [2, {}]]}}),
        json!({"dataframe_split": {"data": [[1, "a", true, 3]]}, "params": {}}),
        json!({"dataframe_records": [{"number": 1, "text": "a", "flag": true, "count": 255}, {"flag": 0, "count": 1}]}),
        json!({"dataframe_records": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}),
        json!({"instances": [{"x": 1.5}, {"x": 2}]}),
        json!({"inputs": {"image": [[[1, 2, 3], [4, 5, 6]]]}}),
    ];
    prop::sample::select(right.to_vec()).prop_flat_map(|value| damaged(value.to_string()))
}

fn check(body: &[u8]) -> Result<(), TestCaseError> {
    for signature in signatures() {
        check_inputs(&signature, inputs_from_json(&signature, body))?;
        check_inputs(&signature, mlflow::inputs_from_json(&signature, body).map(|(inputs, _)| inputs))?;
    }
    if let Ok(request) = InferRequest::from_json(body) {
        for input in request.inputs {
            if let Ok(tensor) = input.into_tensor() {
                prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len());
            }
        }
    }
    Ok(())
}

fn check_inputs(signature: &Signature, read: wattle_api::Result<Vec<Tensor>>) -> Result<(), TestCaseError> {
    match read {
        Ok(inputs) => {
            let names: Vec<&str> = inputs.iter().map(|tensor| tensor.name.as_str()).collect();
            let wanted: Vec<&str> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
            prop_assert_eq!(names, wanted);
            for (tensor, spec) in inputs.iter().zip(&signature.inputs) {
                prop_assert_eq!(tensor.data.datatype(), spec.datatype);
                prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len());
            }
            // What has rows fits the model as it is.
            if inputs.iter().all(|tensor| !tensor.data.is_empty()) {
                prop_assert!(in_order(signature, inputs).is_ok());
            }
        }
        Err(error) => prop_assert!(!error.message.is_empty() && error.message.len() < 4096),
    }
    Ok(())
}

proptest! {
    #[test]
    fn fuzz_json_of_any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&body)?;
    }

    #[test]
    fn fuzz_json_of_any_kind(body in value().prop_flat_map(|value| damaged(value.to_string()))) {
        check(&body)?;
    }

    #[test]
    fn fuzz_json_that_is_nearly_right(body in nearly_right()) {
        check(&body)?;
    }

    /// What a model answers can be sent back to one that takes it, number for number.
    #[test]
    fn fuzz_numbers_survive_json(values in proptest::collection::vec(any::<f64>(), 1..40)) {
        let x: Vec<f64> = values.iter().map(|value| if value.is_finite() { *value } else { f64::NAN }).collect();
        let tensor = Tensor::new("x", vec![x.len(), 1], Data::Fp64(x.clone().into())).unwrap();
        let body = serde_json::to_vec(&Outputs(vec![tensor])).unwrap();
        let read = inputs_from_json(&signatures()[0], &body).unwrap();
        let Data::Fp64(read) = &read[0].data else { panic!("another type") };
        let same = |(read, sent): (&f64, &f64)| read.to_bits() == sent.to_bits() || (read.is_nan() && sent.is_nan());
        prop_assert!(read.iter().zip(&x).all(same));
    }
}
