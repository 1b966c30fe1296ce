//! Texts as tokens, and tokens as text, with the fields of llama.cpp's server.

use std::{pin::pin, sync::Arc, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use wattle_core::LanguageModel;
use wattle_serve::{
    Context, Replica,
    language::Prompt,
    metrics::{Phases, Protocol},
};

use super::{App, context::FromHeaders, language::find, observe::observe};
use crate::{ApiError, Result};

/// The most tokens whose text is told at once.
const MAX_TOKENS: usize = 1 << 20;

#[derive(Debug, Deserialize)]
struct Tokenize {
    model: String,
    content: Option<String>,
    text: Option<String>,
    /// Whether the tokens that the model expects around a text are there.
    add_special: Option<bool>,
    /// Whether names of special tokens in the text mean these tokens; so when absent.
    parse_special: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Detokenize {
    model: String,
    tokens: Vec<u32>,
}

/// `POST /api/v1/tokenize`.
pub(super) async fn tokenize(
    State(app): State<App>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let request: Tokenize = app.bodies.read(body).await?.parse()?;
    let (replica, model) = find(&app, &request.model, &context)?;
    observe(&app, &replica, Protocol::Generate, pin!(tokens(&app, &replica, &model, context, request))).await
}

/// `POST /api/v1/detokenize`.
pub(super) async fn detokenize(
    State(app): State<App>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let request: Detokenize = app.bodies.read(body).await?.parse()?;
    let (replica, _) = find(&app, &request.model, &context)?;
    observe(&app, &replica, Protocol::Generate, pin!(text(&app, &replica, context, request.tokens))).await
}

async fn tokens(
    app: &App,
    replica: &Arc<Replica>,
    model: &LanguageModel,
    context: Context,
    request: Tokenize,
) -> Result<(Response, Phases)> {
    let text = request.read()?;
    let special = request.parse_special.unwrap_or(true);
    let begun = Instant::now();
    let encode = async |text: &str| -> Result<_> {
        let call = app.service.admit(Arc::clone(replica), context.clone())?;
        app.service.tokenize(call, Prompt::Text { text: text.to_owned(), special }).await
    };
    let mut tokens = encode(text).await?;
    if !request.add_special.unwrap_or(false) {
        // What stands around no text stands around every text, save one that brings it itself.
        let around = encode("").await?;
        let brings = |name: &Option<String>, is_there: fn(&str, &str) -> bool| {
            special && name.as_deref().is_some_and(|name| is_there(text, name))
        };
        if around.len() > 1 && tokens.last() == around.last() && !brings(&model.end, |text, end| text.ends_with(end)) {
            tokens.pop();
        }
        let begins = around.first().is_some_and(|first| tokens.first() == Some(first));
        if begins && !brings(&model.beginning, |text, beginning| text.starts_with(beginning)) {
            tokens.remove(0);
        }
    }
    let phases = Phases { compute: begun.elapsed(), ..Phases::default() };
    Ok((Json(json!({"tokens": tokens})).into_response(), phases))
}

async fn text(app: &App, replica: &Arc<Replica>, context: Context, tokens: Vec<u32>) -> Result<(Response, Phases)> {
    if tokens.len() > MAX_TOKENS {
        return Err(ApiError::invalid(format!("tokens has {MAX_TOKENS} tokens at most")));
    }
    let call = app.service.admit(Arc::clone(replica), context)?;
    let begun = Instant::now();
    let bytes = app.service.detokenize(call, tokens).await?;
    let phases = Phases { compute: begun.elapsed(), ..Phases::default() };
    Ok((Json(json!({"text": String::from_utf8_lossy(&bytes)})).into_response(), phases))
}

impl Tokenize {
    fn read(&self) -> Result<&str> {
        match (&self.content, &self.text) {
            (Some(text), None) | (None, Some(text)) => Ok(text),
            (None, None) => Err(ApiError::invalid("content is missing: send the text")),
            (Some(_), Some(_)) => Err(ApiError::invalid("content and text mean the same: send one of them")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_text_is_named_once() {
        let read = |body: serde_json::Value| {
            let request: Tokenize = serde_json::from_value(body).unwrap();
            request.read().map(str::to_owned)
        };
        assert_eq!(read(json!({"model": "m", "content": "a"})).unwrap(), "a");
        assert_eq!(read(json!({"model": "m", "text": ""})).unwrap(), "");
        assert!(read(json!({"model": "m"})).unwrap_err().message.contains("content"));
        assert!(read(json!({"model": "m", "text": "", "content": ""})).is_err());
    }
}
