use std::{fs, path::Path};

use wattle_engine::{
    Error,
    gguf::Value,
    llama::{LlamaEngine, LlamaVocabulary},
};

use crate::{
    models::{self, Decoder},
    settings, small,
};

#[track_caller]
fn refused(path: &Path, why: &str) {
    let error = LlamaEngine::load(path, &settings()).unwrap_err();
    assert!(matches!(error, Error::InvalidModel(_)), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn files_that_are_no_models_are_errors() {
    let (_engine, folder) = small();
    let whole = fs::read(folder.path().join("small.gguf")).unwrap();
    let path = folder.path().join("file");

    let error = LlamaEngine::load(&path, &settings()).unwrap_err();
    assert!(matches!(error, Error::Io(_)), "{error}");
    assert!(matches!(LlamaEngine::load(folder.path(), &settings()).unwrap_err(), Error::Io(_)));

    fs::write(&path, b"").unwrap();
    refused(&path, "it ends within its header");
    fs::write(&path, b"not a model at all").unwrap();
    refused(&path, "it does not begin with GGUF");
    for length in [5, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(&path, "the file was cut off");
    }
}

#[test]
fn headers_that_llama_cpp_does_not_know_or_believe_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.gguf");
    let decoder = Decoder::SMALL;
    let with = |key: &str, value: Option<Value>| {
        let mut metadata = decoder.metadata();
        metadata.retain(|(known, _)| known != key);
        metadata.extend(value.map(|value| (key.to_owned(), value)));
        models::write(&path, &metadata, &decoder.tensors(), 1);
    };
    // What llama.cpp would die of.
    with("", Some(Value::U32(1)));
    refused(&path, "without a key");
    for layers in [0, 513, 1 << 31] {
        with("llama.block_count", Some(Value::U32(layers)));
        refused(&path, "none of 1 to 512");
    }
    with("llama.nextn_predict_layers", Some(Value::U32(3)));
    refused(&path, "more layers to predict with");
    with("llama.pooling_type", Some(Value::I32(-7)));
    refused(&path, "llama.pooling_type is not known");
    with("llama.attention.head_count_kv", Some(Value::U32(5)));
    refused(&path, "4 heads, which cannot share 5");
    with("tokenizer.ggml.tokens", Some(Value::texts(["a", "b", "a\0c"])));
    refused(&path, "the token \"a\" twice");
    for epsilon in [-1e-5, f32::NAN] {
        with("llama.attention.layer_norm_rms_epsilon", Some(Value::F32(epsilon)));
        refused(&path, "no number from 0 to 1");
    }
    with("tokenizer.ggml.tokens", Some(Value::texts(["a", "b", "a"])));
    refused(&path, "the token \"a\" twice");
    with("tokenizer.ggml.model", Some(Value::from("llama")));
    refused(&path, "no token <0x00>");

    // What it says itself.
    with("general.architecture", Some(Value::from("nonsuch")));
    refused(&path, "unknown model architecture: 'nonsuch'");
    with("general.architecture", None);
    refused(&path, "llama.cpp cannot load the model");
    with("llama.embedding_length", None);
    refused(&path, "llama.embedding_length");
    with("llama.embedding_length", Some(Value::U32(128)));
    refused(&path, "invalid n_rot");
    with("llama.block_count", Some(Value::U32(3)));
    refused(&path, "tensor 'blk.2.attn_norm.weight' not found");
    with("llama.attention.head_count", Some(Value::U32(0)));
    refused(&path, "llama.cpp cannot load the model");
    with("llama.feed_forward_length", Some(Value::from("many")));
    refused(&path, "llama.feed_forward_length");
    with("tokenizer.ggml.tokens", None);
    refused(&path, "cannot find tokenizer");
    with("tokenizer.ggml.merges", None);
    refused(&path, "merges");
    with("tokenizer.ggml.model", Some(Value::from("nonsuch")));
    refused(&path, "unknown tokenizer: 'nonsuch'");
    with("tokenizer.ggml.model", Some(Value::from("no_vocab")));
    refused(&path, "token_embd.weight");
    assert!(LlamaVocabulary::open(&path).unwrap_err().to_string().contains("no vocabulary"));

    let mut tensors = decoder.tensors();
    tensors.retain(|tensor| tensor.name != "output_norm.weight");
    models::write(&path, &decoder.metadata(), &tensors, 1);
    refused(&path, "tensor 'output_norm.weight' not found");
}
