#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use wattle_core::Datatype;

use super::*;

fn signature() -> Signature {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        missing: true,
    };
    Signature {
        inputs: vec![spec("x", Datatype::Fp32, &[-1, 2]), spec("t", Datatype::Bytes, &[-1])],
        outputs: vec![spec("y", Datatype::Fp32, &[-1, 1]), spec("z", Datatype::Bytes, &[-1])],
    }
}

/// A body with both tensors behind its JSON, and how long that is.
fn body(rows: usize, texts: &[String]) -> (Vec<u8>, usize) {
    let x = Data::Fp32((0..rows * 2).map(|index| index as f32).collect()).into_le_bytes();
    let t = Data::Bytes(texts.to_vec()).into_le_bytes();
    let json = json!({
        "id": "7",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [rows, 2], "parameters": {"binary_data_size": x.len()}},
            {"name": "t", "datatype": "BYTES", "shape": [texts.len()], "parameters": {"binary_data_size": t.len()}},
        ],
        "parameters": {"binary_data_output": true},
        "outputs": [{"name": "z"}, {"name": "y", "parameters": {"binary_data": false}}],
    })
    .to_string();
    ([json.as_bytes(), &x, &t].concat(), json.len())
}

#[test]
fn tensors_behind_the_json_are_read_where_they_are() {
    let (bytes, json_length) = body(2, &["a".into(), "é".into()]);
    let read = read_body(&signature(), &Bytes::from(bytes), Some(json_length)).unwrap();
    assert_eq!(read.inputs[0].data, Data::Fp32(vec![0.0, 1.0, 2.0, 3.0].into()));
    assert_eq!(read.inputs[1].data, Data::Bytes(vec!["a".into(), "é".into()]));
    let wanted: Vec<(usize, bool)> = read.kept.outputs.iter().map(|wanted| (wanted.index, wanted.binary)).collect();
    assert_eq!((read.kept.id.as_deref(), wanted), (Some("7"), vec![(1, true), (0, false)]));
}

#[test]
fn a_raw_body_is_the_only_input() {
    let mut signature = signature();
    assert!(read_body(&signature, &Bytes::from_static(&[0; 8]), Some(0)).is_err());
    signature.inputs.truncate(1);
    let read = read_body(&signature, &Bytes::from_static(&[0; 16]), Some(0)).unwrap();
    assert_eq!((read.inputs[0].shape.as_slice(), read.inputs[0].data.len()), (&[2, 2][..], 4));
    let told = read_body(&signature, &Bytes::from_static(&[0; 12]), Some(0)).err().unwrap().message;
    assert!(told.contains("does not fill the shape"), "{told}");
}

#[test]
fn sizes_that_lie_are_told() {
    let refusal = |json: serde_json::Value, tail: &[u8]| {
        let json = json.to_string();
        let bytes = Bytes::from([json.as_bytes(), tail].concat());
        read_body(&signature(), &bytes, Some(json.len())).err().unwrap().message
    };
    let input = |parameters: serde_json::Value| json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": parameters}]});
    for (parameters, tail, words) in [
        (json!({"binary_data_size": 9}), &[0; 8][..], "no number of bytes that the body has (8 are left)"),
        (json!({"binary_data_size": -1}), &[0; 8][..], "no number of bytes"),
        (json!({"binary_data_size": 1e300}), &[0; 8][..], "no number of bytes"),
        (json!({"binary_data_size": 7}), &[0; 7][..], "no whole number of FP32"),
        (json!({"binary_data_size": 4}), &[0; 4][..], "needs 2 values, 1 were sent"),
        (json!({"binary_data_size": 8}), &[0; 9][..], "1 bytes at the end"),
        (json!({}), &[][..], "has no data"),
        (json!({"shared_memory_region": "r"}), &[][..], "shared memory"),
    ] {
        let told = refusal(input(parameters.clone()), tail);
        assert!(told.contains(words), "{parameters}: {told}");
    }
    let told = read_body(&signature(), &Bytes::from_static(b"{}"), Some(3)).err().unwrap().message;
    assert!(told.contains("says 3, and the body has only 2 bytes"), "{told}");
}

proptest! {
    /// Whatever a body is, reading it ends in tensors whose sizes agree, or in an error.
    #[test]
    fn fuzz_binary_bodies(
        rows in 0..4_usize,
        texts in proptest::collection::vec("[a-zé]{0,3}", 0..4),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        length in prop_oneof![3 => Just(None), 1 => (0..400_usize).prop_map(Some)],
    ) {
        let (mut bytes, json_length) = body(rows, &texts);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Ok(read) = read_body(&signature(), &Bytes::from(bytes), Some(length.unwrap_or(json_length))) {
            for tensor in &read.inputs {
                prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len());
            }
        }
    }

    #[test]
    fn fuzz_raw_bodies(bytes in proptest::collection::vec(any::<u8>(), 0..64), length in 0..64_usize) {
        let _ = read_body(&signature(), &Bytes::from(bytes), Some(length));
    }
}
