//! WordPiece, BERT's. llama.cpp marks what begins a word, where BERT marks what does not.

use serde_json::Value as Json;

use super::{TokenKind, Words, by_number};
use crate::Result;

pub(super) fn words(tokenizer: &Json) -> Result<Words> {
    let unknown = tokenizer.pointer("/model/unk_token").and_then(Json::as_str).unwrap_or("[UNK]");
    let kind = |text: &str| if text == unknown { TokenKind::Unknown } else { TokenKind::Normal };
    let marked = |(text, kind): (String, TokenKind)| {
        // What older files list among the words is special by its brackets.
        let is_special = text.len() > 2 && text.starts_with('[') && text.ends_with(']');
        match text.strip_prefix("##") {
            _ if kind == TokenKind::Unknown => (text, kind),
            _ if is_special => (text, TokenKind::Control),
            Some(rest) => (rest.to_owned(), kind),
            None if kind == TokenKind::Normal => (format!("\u{2581}{text}"), kind),
            None => (text, kind),
        }
    };
    let tokens = by_number(tokenizer, kind)?.into_iter().map(marked).collect();
    Ok(Words { model: "bert", tokens, more: Vec::new() })
}
