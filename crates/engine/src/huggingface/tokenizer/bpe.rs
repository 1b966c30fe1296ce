//! Byte pair encoding: over bytes, as GPT-2's, or over characters with bytes for want of them, as SentencePiece's.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{TokenKind, Words, by_number};
use crate::{
    Error, Result,
    gguf::{Kind, Value},
};

/// How texts are split before they are encoded, told by a part of the expression that does it, and llama.cpp's name for it.
const SPLITS: [(&str, &str); 5] = [
    // Numbers in groups of three: Llama 3.
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    // Numbers digit by digit: Qwen 2 and 3.
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    // With the case of letters: GPT-4o.
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        "gpt-4o",
    ),
    // Mistral's Tekken.
    (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?", "tekken"),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt-2"),
];

pub(super) fn words(tokenizer: &Json) -> Result<Words> {
    let merges = merges(tokenizer)?;
    if tokenizer.pointer("/model/byte_fallback").and_then(Json::as_bool) == Some(true) {
        return over_characters(tokenizer, &merges);
    }
    let tokens = by_number(tokenizer, |_| TokenKind::Normal)?;
    let joined = merges.iter().map(|(left, right)| format!("{left} {right}"));
    let more = vec![
        ("tokenizer.ggml.pre".into(), Value::from(split(tokenizer)?)),
        ("tokenizer.ggml.merges".into(), Value::texts(joined)),
    ];
    Ok(Words { model: "gpt2", tokens, more })
}

/// A token's score says how early it is merged, since SentencePiece merges by scores.
fn over_characters(tokenizer: &Json, merges: &[(String, String)]) -> Result<Words> {
    let unknown = tokenizer.pointer("/model/unk_token").and_then(Json::as_str).unwrap_or("<unk>");
    let kind = |text: &str| match text {
        _ if text == unknown => TokenKind::Unknown,
        _ if is_byte(text) => TokenKind::Byte,
        _ => TokenKind::Normal,
    };
    let tokens = by_number(tokenizer, kind)?;
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |(number, (text, _)): (usize, &(String, TokenKind))| {
        // What no merge makes is never merged before what one does.
        let rank = ranks.get(text).copied().unwrap_or(merges.len() + number);
        Value::F32(-(rank as f32))
    };
    let scores = tokens.iter().enumerate().map(score).collect();
    let more = vec![
        ("tokenizer.ggml.pre".into(), Value::from("default")),
        ("tokenizer.ggml.scores".into(), Value::Array(Kind::F32, scores)),
        ("tokenizer.ggml.add_space_prefix".into(), Value::Bool(begins_with_space(tokenizer))),
    ];
    Ok(Words { model: "llama", tokens, more })
}

/// Merges in their order; older files write each as one text.
fn merges(tokenizer: &Json) -> Result<Vec<(String, String)>> {
    let merges = tokenizer.pointer("/model/merges").and_then(Json::as_array);
    let merges = merges.ok_or_else(|| Error::InvalidModel("tokenizer.json has no merges".into()))?;
    let pair = |merge: &Json| match merge {
        Json::String(text) => {
            let (left, right) = text.split_once(' ')?;
            Some((left.to_owned(), right.to_owned()))
        }
        Json::Array(parts) => match parts.as_slice() {
            [left, right] => Some((left.as_str()?.to_owned(), right.as_str()?.to_owned())),
            _ => None,
        },
        _ => None,
    };
    let pairs: Option<Vec<_>> = merges.iter().map(pair).collect();
    pairs.ok_or_else(|| Error::InvalidModel("tokenizer.json has a merge that is none of two tokens".into()))
}

/// llama.cpp's name for the way that texts are split.
fn split(tokenizer: &Json) -> Result<&'static str> {
    let pre = tokenizer.get("pre_tokenizer").filter(|pre| !pre.is_null());
    let parts: Vec<&Json> = match pre.and_then(|pre| pre.get("pretokenizers")).and_then(Json::as_array) {
        Some(parts) => parts.iter().collect(),
        None => pre.into_iter().collect(),
    };
    let kind = |part: &Json| part.get("type").and_then(Json::as_str).map(str::to_owned);
    let expressions: Vec<&str> =
        parts.iter().filter_map(|part| part.pointer("/pattern/Regex").and_then(Json::as_str)).collect();
    if let Some(expression) = expressions.first() {
        let known = SPLITS.iter().find(|(known, _)| expression.starts_with(known) || expression.contains(known));
        return known.map(|(_, name)| *name).ok_or_else(|| {
            Error::InvalidModel(format!(
                "the tokenizer splits texts by an expression that is not known: {}: convert the model with its makers' tools and import the GGUF file",
                expression.chars().take(80).collect::<String>()
            ))
        });
    }
    let has = |wanted: &str| parts.iter().any(|part| kind(part).as_deref() == Some(wanted));
    match (has("Digits"), has("ByteLevel")) {
        // Digits one by one, then as GPT-2.
        (true, true) => Ok("smollm"),
        (false, true) => Ok("gpt-2"),
        _ => Err(Error::InvalidModel("the tokenizer's way of splitting texts is not known".into())),
    }
}

/// Whether a space is put before a text, so that its first word is like all others.
fn begins_with_space(tokenizer: &Json) -> bool {
    let has = |part: &Json| {
        let kind = part.get("type").and_then(Json::as_str);
        let scheme = part.get("prepend_scheme").and_then(Json::as_str);
        match kind {
            Some("Prepend") => true,
            Some("Metaspace") => {
                scheme.map_or(part.get("add_prefix_space") != Some(&Json::Bool(false)), |s| s != "never")
            }
            _ => false,
        }
    };
    ["normalizer", "pre_tokenizer"].into_iter().filter_map(|key| tokenizer.get(key)).any(|part| {
        let inner = part.get("normalizers").or_else(|| part.get("pretokenizers")).and_then(Json::as_array);
        has(part) || inner.is_some_and(|inner| inner.iter().any(has))
    })
}

fn is_byte(text: &str) -> bool {
    let number = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    number.is_some_and(|number| number.len() == 2 && u8::from_str_radix(number, 16).is_ok())
}
