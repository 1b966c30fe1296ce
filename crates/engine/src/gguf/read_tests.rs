#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::gguf::{NewTensor, Writer, describe};

fn metadata() -> Vec<(String, Value)> {
    let number = |key: &str, value| (format!("llama.{key}"), Value::U32(value));
    vec![
        ("general.architecture".into(), "llama".into()),
        ("general.name".into(), "a small one".into()),
        number("block_count", 2),
        number("context_length", 512),
        number("embedding_length", 64),
        number("attention.head_count", 4),
        number("attention.head_count_kv", 2),
        ("tokenizer.ggml.tokens".into(), Value::texts(["a", "b", "Ġc"])),
        ("tokenizer.chat_template".into(), "{{ messages }}".into()),
        ("numbers".into(), Value::Array(Kind::F32, vec![Value::F32(0.5), Value::F32(-1.0)])),
        ("nested".into(), Value::Array(Kind::Array, vec![Value::Array(Kind::I8, vec![Value::I8(-3)])])),
    ]
}

fn tensors() -> Vec<NewTensor> {
    let tensor = |name: &str, shape: &[u64], kind| NewTensor { name: name.into(), shape: shape.to_vec(), kind };
    vec![
        tensor("token_embd.weight", &[64, 3], TensorKind::Q8_0),
        tensor("output_norm.weight", &[5], TensorKind::F32),
        tensor("output.weight", &[64, 3], TensorKind::F16),
    ]
}

fn file(metadata: &[(String, Value)], tensors: &[NewTensor]) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), metadata, tensors).unwrap();
    for tensor in tensors {
        writer.tensor(&vec![7; tensor.bytes().unwrap() as usize]).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<Gguf> {
    Gguf::read(bytes, bytes.len() as u64)
}

fn refusal(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read() {
    let bytes = file(&metadata(), &tensors());
    let header = read(&bytes).unwrap();
    assert_eq!(header.metadata, metadata());
    for (read, written) in header.tensors.iter().zip(tensors()) {
        assert_eq!((&read.name, &read.shape, read.kind), (&written.name, &written.shape, written.kind));
        assert_eq!(Some(read.bytes), written.bytes());
        let place = read.offset as usize;
        assert!(bytes[place..place + read.bytes as usize].iter().all(|byte| *byte == 7) && place.is_multiple_of(32));
    }
    assert_eq!(header.tensor("output.weight").unwrap().bytes, 64 * 3 * 2);
}

#[test]
fn a_file_tells_what_its_model_is() {
    let description = describe(&read(&file(&metadata(), &tensors())).unwrap()).unwrap();
    assert_eq!((description.architecture.as_str(), description.title.as_deref()), ("llama", Some("a small one")));
    assert_eq!((description.layers, description.width, description.context_tokens), (2, 64, 512));
    assert_eq!((description.parameters, description.weights.as_str()), (64 * 3 * 2 + 5, "F16"));
    // 2 layers of 2 heads with 16 keys and 16 values of 2 bytes.
    assert_eq!((description.vocabulary, description.cache_bytes_per_token), (3, 2 * 2 * 32 * 2));
    assert_eq!((description.embeds, description.chat_template.as_deref()), (false, Some("{{ messages }}")));
}

#[test]
fn an_encoder_embeds_and_keeps_nothing() {
    let mut metadata = metadata();
    metadata.push(("llama.attention.causal".into(), Value::Bool(false)));
    metadata.push(("llama.pooling_type".into(), Value::U32(1)));
    let description = describe(&read(&file(&metadata, &tensors())).unwrap()).unwrap();
    assert_eq!((description.embeds, description.cache_bytes_per_token), (true, 0));
}

#[test]
fn what_is_missing_is_named() {
    for key in ["general.architecture", "llama.block_count", "llama.context_length", "tokenizer.ggml.tokens"] {
        let without: Vec<(String, Value)> = metadata().into_iter().filter(|(known, _)| known != key).collect();
        let error = describe(&read(&file(&without, &tensors())).unwrap()).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let mut metadata = metadata();
    metadata[2].1 = Value::U32(0);
    let error = describe(&read(&file(&metadata, &tensors())).unwrap()).unwrap_err().to_string();
    assert!(error.contains("llama.block_count is no whole number from 1"), "{error}");
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let bytes = file(&metadata(), &tensors());
    for length in 0..bytes.len() - 32 {
        let error = refusal(&bytes[..length]);
        assert!(error.contains("cut off") || error.contains("does not begin with GGUF"), "{length}: {error}");
    }
}

#[test]
fn counts_that_lie_take_no_memory() {
    let mut bytes = file(&metadata(), &tensors());
    for (place, what) in [(8, "tensors"), (16, "keys")] {
        let before = bytes[place..place + 8].to_vec();
        bytes[place..place + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refusal(&bytes).contains(what));
        bytes[place..place + 8].copy_from_slice(&60_000_u64.to_le_bytes());
        assert!(refusal(&bytes).contains("cut off"));
        bytes[place..place + 8].copy_from_slice(&before);
    }
    // The length of the first key.
    bytes[24..32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    assert!(refusal(&bytes).contains("letters in a text"));
}

#[test]
fn versions_and_byte_orders_that_are_not_known_are_refused() {
    let mut bytes = file(&metadata(), &tensors());
    for (version, said) in [(1_u32, "version is 1"), (4, "version is 4"), (3_u32.swap_bytes(), "big-endian")] {
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(refusal(&bytes).contains(said), "{version}");
    }
    bytes[4..8].copy_from_slice(&2_u32.to_le_bytes());
    assert!(read(&bytes).is_ok(), "version 2 differs in nothing that is read");
}

#[test]
fn tensors_that_share_a_place_a_name_or_a_key_are_refused() {
    let twice = [tensors(), tensors()].concat();
    assert!(refusal(&file(&metadata(), &twice)).contains("is there twice"));
    let keys = [metadata(), metadata()].concat();
    assert!(refusal(&file(&keys, &tensors())).contains("is there twice"));
    let mut bytes = file(&metadata(), &tensors());
    let name = b"output_norm.weight";
    let place = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    // One dimension, its size, the type, and then the offset.
    let offset = place + 4 + 8 + 4;
    bytes[offset..offset + 8].copy_from_slice(&0_u64.to_le_bytes());
    assert!(refusal(&bytes).contains("lie in the same place"));
    bytes[offset..offset + 8].copy_from_slice(&33_u64.to_le_bytes());
    assert!(refusal(&bytes).contains("is not aligned"));
    bytes[offset..offset + 8].copy_from_slice(&(u64::MAX - 31).to_le_bytes());
    assert!(refusal(&bytes).contains("beyond the file's end"));
}

#[test]
fn rows_are_whole_blocks() {
    let odd = NewTensor { name: "odd".into(), shape: vec![33, 2], kind: TensorKind::Q8_0 };
    let error = Writer::begin(Vec::new(), &[], &[odd]).unwrap_err().to_string();
    assert!(error.contains("no whole number of Q8_0 blocks"), "{error}");
}

proptest! {
    #[test]
    fn fuzz_gguf_of_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = bytes;
        let _ = read(&bytes);
        bytes.splice(0..0, *b"GGUF\x03\0\0\0");
        if let Ok(header) = read(&bytes) {
            let _ = describe(&header);
        }
    }

    #[test]
    fn fuzz_gguf_that_is_damaged(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = file(&metadata(), &tensors());
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        match read(&bytes) {
            Ok(header) => {
                for tensor in &header.tensors {
                    prop_assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
                }
                let _ = describe(&header);
            }
            Err(error) => prop_assert!(matches!(error, Error::InvalidModel(_)), "{:?}", error),
        }
    }
}
