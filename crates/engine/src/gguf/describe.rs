use std::collections::HashMap;

use wattle_core::LanguageModel;

use super::{Gguf, TensorKind, Value};
use crate::{Error, Result};

/// Bytes of a number in the cache of keys and values.
const CACHE_BYTES: u64 = 2;

/// What a file's header says of its model.
///
/// # Errors
/// [`Error::InvalidModel`] naming the key that is missing or makes no sense.
pub fn describe(header: &Gguf) -> Result<LanguageModel> {
    let architecture = header
        .get("general.architecture")
        .and_then(Value::as_text)
        .filter(|name| !name.is_empty() && name.len() <= 64)
        .ok_or_else(|| missing("general.architecture"))?
        .to_owned();
    let own = Own { header, architecture: &architecture };
    let layers = own.number("block_count", 1..=4096)?;
    let width = own.number("embedding_length", 1..=1 << 20)?;
    let context_tokens = own.number("context_length", 1..=1 << 30)?;
    let vocabulary = header
        .get("tokenizer.ggml.tokens")
        .and_then(Value::as_array)
        .map(|tokens| tokens.len() as u64)
        .ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let pooling = own.get("pooling_type").and_then(Value::as_u64).unwrap_or(0);
    // Encoders see a whole text at once, and keep nothing of it.
    let is_encoder = own.get("attention.causal") == Some(&Value::Bool(false));
    let token = |key: &str| {
        let tokens = header.get("tokenizer.ggml.tokens")?.as_array()?;
        let token = usize::try_from(header.get(key)?.as_u64()?).ok()?;
        tokens.get(token)?.as_text().map(str::to_owned)
    };
    let text = |key: &str| header.get(key).and_then(Value::as_text).map(str::to_owned);
    Ok(LanguageModel {
        title: text("general.name"),
        parameters: header.tensors.iter().fold(0, |sum, tensor| tensor.values().saturating_add(sum)),
        weights: main_kind(header)
            .ok_or_else(|| Error::InvalidModel("the GGUF file has no tensors".into()))?
            .name()
            .to_owned(),
        context_tokens,
        width,
        layers,
        vocabulary,
        cache_bytes_per_token: if is_encoder { 0 } else { own.cache_bytes(layers, width)? },
        embeds: is_encoder || pooling > 0,
        chat_template: text("tokenizer.chat_template"),
        beginning: token("tokenizer.ggml.bos_token_id"),
        end: token("tokenizer.ggml.eos_token_id"),
        architecture,
    })
}

/// The keys that begin with the architecture's name.
struct Own<'a> {
    header: &'a Gguf,
    architecture: &'a str,
}

impl Own<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.header.get(&self.key(name))
    }

    fn number(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        let value = self.get(name).ok_or_else(|| missing(&self.key(name)))?;
        value.as_u64().filter(|value| range.contains(value)).ok_or_else(|| {
            let key = self.key(name);
            let (least, most) = (range.start(), range.end());
            Error::InvalidModel(format!("the GGUF file's {key} is no whole number from {least} to {most}"))
        })
    }

    /// What a token takes in the cache of all layers. Heads may be shared by some layers only.
    fn cache_bytes(&self, layers: u64, width: u64) -> Result<u64> {
        let heads = match self.get("attention.head_count") {
            // Families without attention keep a state instead.
            None => return Ok(0),
            // Each layer has its own number, and they are the same in all families that are known.
            Some(Value::Array(_, heads)) => heads.iter().filter_map(Value::as_u64).max().unwrap_or(1),
            Some(_) => self.number("attention.head_count", 1..=1 << 16)?,
        };
        let own = |name: &str| self.get(name).and_then(Value::as_u64).filter(|length| *length <= 1 << 16);
        let length = |name: &str| own(name).unwrap_or(width / heads.max(1));
        let cached = match self.get("attention.head_count_kv") {
            None => heads.saturating_mul(layers),
            Some(Value::Array(_, counts)) => counts.iter().filter_map(Value::as_u64).fold(0, u64::saturating_add),
            Some(count) => count.as_u64().unwrap_or(heads).saturating_mul(layers),
        };
        let head = length("attention.key_length") + length("attention.value_length");
        Ok(cached.saturating_mul(head).saturating_mul(CACHE_BYTES))
    }
}

/// The type that most bytes of tensors have.
fn main_kind(header: &Gguf) -> Option<TensorKind> {
    let mut bytes: HashMap<TensorKind, u64> = HashMap::new();
    for tensor in &header.tensors {
        let sum = bytes.entry(tensor.kind).or_default();
        *sum = sum.saturating_add(tensor.bytes);
    }
    bytes.into_iter().max_by_key(|(kind, bytes)| (*bytes, *kind)).map(|(kind, _)| kind)
}

fn missing(key: &str) -> Error {
    Error::InvalidModel(format!("the GGUF file has no usable {key}: it is not a whole language model"))
}
