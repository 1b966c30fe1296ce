//! What llama.cpp asserts of a file's header instead of checking it, so that a wrong value would end the process.

use std::collections::HashSet;

use crate::{
    Error, Result,
    gguf::{Gguf, Value},
};

/// The most layers (`LLAMA_MAX_LAYERS`).
const MAX_LAYERS: u64 = 512;
/// The last of the ways to pool (`enum llama_pooling_type`), from none over mean, first and last to a score.
const MAX_POOLING: u64 = 4;

/// Whether the embeddings of a text's tokens become one of the text, which is also what it is about if it is well.
///
/// # Errors
/// [`Error::InvalidModel`] for what llama.cpp would die of.
pub(super) fn check(header: &Gguf) -> Result<bool> {
    let refuse = |why: String| Err(Error::InvalidModel(format!("the model cannot be used: {why}")));
    if header.metadata.iter().any(|(key, _)| key.is_empty()) {
        return refuse("its metadata has a value without a key".into());
    }
    let architecture = header.get("general.architecture").and_then(Value::as_text).unwrap_or_default();
    let own =
        |name: &str| header.get(&format!("{architecture}.{name}")).map(|value| value.as_u64().unwrap_or(u64::MAX));
    // llama.cpp itself says so where there is none.
    let layers = own("block_count").unwrap_or(1);
    if !(1..=MAX_LAYERS).contains(&layers) {
        return refuse(format!("its number of layers is none of 1 to {MAX_LAYERS}"));
    }
    if own("nextn_predict_layers").unwrap_or(0) > layers {
        return refuse("it has more layers to predict with than layers".into());
    }
    // One number for all layers, or one for each; without any head llama.cpp itself says so.
    let most = |name: &str| match header.get(&format!("{architecture}.{name}")) {
        Some(Value::Array(_, values)) => values.iter().map(|value| value.as_u64().unwrap_or(u64::MAX)).max(),
        value => value.map(|value| value.as_u64().unwrap_or(u64::MAX)),
    };
    if let (Some(shared), Some(heads)) = (most("attention.head_count_kv"), most("attention.head_count"))
        && (1..shared).contains(&heads)
    {
        return refuse(format!("it has {heads} heads, which cannot share {shared}"));
    }
    for key in ["pooling_type", "classifier.pooling_type"] {
        if own(key).unwrap_or(0) > MAX_POOLING {
            return refuse(format!("its {architecture}.{key} is not known"));
        }
    }
    for name in ["layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon"] {
        let key = format!("{architecture}.attention.{name}");
        if header.get(&key).is_some_and(|value| matches!(value, Value::F32(value) if !(0.0..1.0).contains(value))) {
            return refuse(format!("its {key} is no number from 0 to 1"));
        }
    }
    let tokens = header.get("tokenizer.ggml.tokens").and_then(Value::as_array).unwrap_or_default();
    let mut known = HashSet::with_capacity(tokens.len());
    for token in tokens {
        // What was no UTF-8 may have been different, and empty ones get names of their own.
        let text = token.as_text().unwrap_or_default();
        // Read as C reads texts.
        let text = text.split('\0').next().unwrap_or_default();
        if !known.insert(text) && !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) {
            return refuse(format!("its vocabulary has the token {text:?} twice"));
        }
    }
    // SentencePiece's tokenizer spells what it has no token for.
    if header.get("tokenizer.ggml.model").and_then(Value::as_text) == Some("llama") {
        let spelt = |byte: u8| {
            let letter = char::from(byte).to_string();
            known.contains(format!("<0x{byte:02X}>").as_str()) || (byte.is_ascii() && known.contains(letter.as_str()))
        };
        if let Some(byte) = (0..=255).find(|byte| !spelt(*byte)) {
            return refuse(format!("its vocabulary has no token <0x{byte:02X}> for texts that have such a byte"));
        }
    }
    Ok(own("pooling_type").unwrap_or(0) > 0)
}
