//! The tokenizer of a folder, in the form that GGUF has for it.

mod bpe;
mod wordpiece;

use serde_json::Value as Json;

use super::{
    config::{Config, Folder},
    family::Family,
};
use crate::{
    Error, Result,
    gguf::{Kind, Value},
};

/// What a token is, by llama.cpp's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// A vocabulary as GGUF has it.
pub(super) struct Words {
    /// The tokenizer's kind: `gpt2`, `llama`, `bert`.
    pub(super) model: &'static str,
    /// Each token and what it is, by its number.
    pub(super) tokens: Vec<(String, TokenKind)>,
    /// What else the kind needs.
    pub(super) more: Vec<(String, Value)>,
}

/// The metadata of the tokenizer, for a model that has so many rows of embeddings.
pub(super) fn metadata(folder: &Folder, config: &Config, family: Family, rows: u64) -> Result<Vec<(String, Value)>> {
    let tokenizer = folder.json("tokenizer.json")?.ok_or_else(|| {
        Error::InvalidModel("the folder has no tokenizer.json: save the tokenizer with the fast tokenizers".into())
    })?;
    let mut words = of(&tokenizer)?;
    if words.tokens.len() as u64 > rows {
        let count = words.tokens.len();
        return Err(Error::InvalidModel(format!("the tokenizer has {count} tokens, and the model {rows} embeddings")));
    }
    // Matrices are often padded to round sizes.
    for number in words.tokens.len() as u64..rows {
        words.tokens.push((format!("[PAD{number}]"), TokenKind::Unused));
    }
    let kinds = words.tokens.iter().map(|(_, kind)| Value::I32(*kind as i32)).collect();
    let mut metadata = vec![
        ("tokenizer.ggml.model".to_owned(), Value::from(words.model)),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Kind::I32, kinds)),
    ];
    metadata.extend(special(folder, config, family, &tokenizer, &words)?);
    metadata.push(("tokenizer.ggml.tokens".into(), Value::texts(words.tokens.into_iter().map(|(text, _)| text))));
    metadata.extend(words.more);
    Ok(metadata)
}

/// The vocabulary of a tokenizer.
pub(super) fn of(tokenizer: &Json) -> Result<Words> {
    match tokenizer.pointer("/model/type").and_then(Json::as_str).unwrap_or("BPE") {
        "BPE" => bpe::words(tokenizer),
        "WordPiece" => wordpiece::words(tokenizer),
        other => Err(Error::InvalidModel(format!(
            "the tokenizer is of the kind {other}: BPE and WordPiece can be converted"
        ))),
    }
}

/// The tokens that mean something of their own.
fn special(
    folder: &Folder,
    config: &Config,
    family: Family,
    tokenizer: &Json,
    words: &Words,
) -> Result<Vec<(String, Value)>> {
    let settings = folder.json("tokenizer_config.json")?.unwrap_or_default();
    let generation = folder.json("generation_config.json")?.unwrap_or_default();
    let find = |text: &str| words.tokens.iter().position(|(token, _)| token == text).map(|number| number as u64);
    let named = |key: &str| {
        let token = settings.get(key)?;
        find(token.as_str().or_else(|| token.get("content")?.as_str())?)
    };
    // Some models end in several ways.
    let numbers = |value: Option<&Json>| -> Vec<u64> {
        match value {
            Some(Json::Array(numbers)) => numbers.iter().filter_map(Json::as_u64).collect(),
            Some(number) => number.as_u64().into_iter().collect(),
            None => Vec::new(),
        }
    };
    let mut metadata = Vec::new();
    let mut put = |name: &str, number: Option<u64>| {
        let known = number.filter(|number| *number < words.tokens.len() as u64);
        if let Some(number) = known {
            metadata.push((format!("tokenizer.ggml.{name}"), Value::U32(number as u32)));
        }
    };
    if family == Family::Bert {
        let bert = |key: &str, usual: &str| named(key).or_else(|| find(usual));
        put("bos_token_id", bert("cls_token", "[CLS]"));
        put("eos_token_id", bert("sep_token", "[SEP]"));
        put("unknown_token_id", bert("unk_token", "[UNK]"));
        put("seperator_token_id", bert("sep_token", "[SEP]"));
        put("padding_token_id", bert("pad_token", "[PAD]"));
        put("cls_token_id", bert("cls_token", "[CLS]"));
        put("mask_token_id", bert("mask_token", "[MASK]"));
        let types = config.optional_count("type_vocab_size")?.unwrap_or(2);
        metadata.push(("tokenizer.ggml.token_type_count".into(), Value::U32(types)));
        return Ok(metadata);
    }
    let beginning = named("bos_token").or_else(|| numbers(config.get("bos_token_id")).first().copied());
    let mut ends = numbers(generation.get("eos_token_id"));
    ends.extend(numbers(config.get("eos_token_id")));
    let end = named("eos_token").or_else(|| ends.first().copied());
    put("bos_token_id", beginning);
    put("eos_token_id", end);
    put("unknown_token_id", named("unk_token"));
    put("padding_token_id", named("pad_token").or_else(|| numbers(config.get("pad_token_id")).first().copied()));
    // A turn's end beside the text's.
    put("eot_token_id", ends.into_iter().find(|other| Some(*other) != end));
    let said = settings.get("add_bos_token").and_then(Json::as_bool);
    let adds = said.unwrap_or_else(|| beginning.is_some_and(|beginning| puts_first(tokenizer, beginning, words)));
    metadata.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(adds && beginning.is_some())));
    Ok(metadata)
}

/// Whether the tokenizer puts this token before every text.
fn puts_first(tokenizer: &Json, beginning: u64, words: &Words) -> bool {
    let Some(post) = tokenizer.get("post_processor").filter(|post| !post.is_null()) else { return false };
    let parts: Vec<&Json> = match post.get("processors").and_then(Json::as_array) {
        Some(parts) => parts.iter().collect(),
        None => vec![post],
    };
    let text = words.tokens.get(beginning as usize).map(|(text, _)| text.as_str());
    parts
        .into_iter()
        .any(|part| part.pointer("/single/0/SpecialToken/id").and_then(Json::as_str) == text && text.is_some())
}

/// The tokens of a vocabulary by their numbers, and those that were added to it.
pub(super) fn by_number(tokenizer: &Json, kind_of: impl Fn(&str) -> TokenKind) -> Result<Vec<(String, TokenKind)>> {
    let vocabulary = tokenizer.pointer("/model/vocab").and_then(Json::as_object);
    let vocabulary = vocabulary.ok_or_else(|| Error::InvalidModel("tokenizer.json has no vocabulary".into()))?;
    let added = tokenizer.get("added_tokens").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let most = vocabulary.len() + added.len();
    let mut tokens: Vec<Option<(String, TokenKind)>> = Vec::new();
    let mut put = |text: &str, number: Option<u64>, kind: TokenKind| {
        let number = number.and_then(|number| usize::try_from(number).ok()).filter(|number| *number < 4 * most + 1024);
        let number = number.ok_or_else(|| {
            Error::InvalidModel(format!("tokenizer.json gives the token {text:?} a number that cannot be"))
        })?;
        if tokens.len() <= number {
            tokens.resize(number + 1, None);
        }
        tokens[number] = Some((text.to_owned(), kind));
        Ok::<(), Error>(())
    };
    for (text, number) in vocabulary {
        put(text, number.as_u64(), kind_of(text))?;
    }
    for token in added {
        let text = token.get("content").and_then(Json::as_str).unwrap_or_default();
        let is_special = token.get("special").and_then(Json::as_bool) == Some(true);
        let kind = match kind_of(text) {
            TokenKind::Unknown => TokenKind::Unknown,
            _ if is_special => TokenKind::Control,
            _ => TokenKind::UserDefined,
        };
        put(text, token.get("id").and_then(Json::as_u64), kind)?;
    }
    let name = |(number, token): (usize, Option<(String, TokenKind)>)| {
        token.unwrap_or_else(|| (format!("[PAD{number}]"), TokenKind::Unused))
    };
    Ok(tokens.into_iter().enumerate().map(name).collect())
}
