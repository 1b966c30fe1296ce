//! `POST /v1/embeddings`.

use std::{pin::pin, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use wattle_core::LanguageModel;
use wattle_serve::{
    Context, Replica,
    language::{Embedded, Prompt},
    metrics::{Phases, Protocol},
};

use super::error::Refusal;
use crate::{
    ApiError, Result,
    http::{
        App,
        context::FromHeaders,
        language::{embedded_usage, find},
        observe::observe,
    },
};

/// The most texts of one call, OpenAI's.
const MAX_TEXTS: usize = 2048;

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    input: Input,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
}

/// What is embedded, or completed: the same forms.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "must be a string, an array of strings, an array of tokens, or an array of such arrays")]
pub(super) enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Several(Vec<Vec<u32>>),
}

impl Input {
    /// One prompt for each text.
    pub(super) fn prompts(self) -> Vec<Prompt> {
        let text = |text| Prompt::Text { text, special: false };
        match self {
            Input::Text(one) => vec![text(one)],
            Input::Texts(all) => all.into_iter().map(text).collect(),
            Input::Tokens(one) => vec![Prompt::Tokens(one)],
            Input::Several(all) => all.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

pub(in crate::http) async fn create(
    State(app): State<App>,
    context: Result<FromHeaders>,
    body: Body,
) -> Result<Response, Refusal> {
    let FromHeaders(context) = context?;
    let request: Request = app.bodies.read(body).await?.parse()?;
    let (replica, model) = find(&app, &request.model, &context).map_err(Refusal::of_model)?;
    let call = pin!(embed(&app, &replica, &model, context, request));
    Ok(observe(&app, &replica, Protocol::OpenAi, call).await?)
}

async fn embed(
    app: &App,
    replica: &Arc<Replica>,
    model: &LanguageModel,
    context: Context,
    request: Request,
) -> Result<(Response, Phases)> {
    let name = request.model.clone();
    let (texts, is_base64) = read(request, model)?;
    let call = app.service.admit(Arc::clone(replica), context)?;
    let begun = std::time::Instant::now();
    let embedded = app.service.embed(call, texts).await?;
    let phases = Phases { compute: begun.elapsed(), ..Phases::default() };
    Ok((Json(answer(&name, &embedded, is_base64)).into_response(), phases))
}

/// The texts, and whether their vectors are told in base64.
fn read(request: Request, model: &LanguageModel) -> Result<(Vec<Prompt>, bool)> {
    let is_base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(ApiError::invalid("encoding_format must be float or base64")),
    };
    if request.dimensions.is_some_and(|dimensions| dimensions != model.width) {
        let width = model.width;
        return Err(ApiError::invalid(format!("the model's embeddings have {width} dimensions: leave dimensions out")));
    }
    let texts = request.input.prompts();
    if texts.is_empty() || texts.len() > MAX_TEXTS {
        return Err(ApiError::invalid(format!("input must have 1 to {MAX_TEXTS} texts")));
    }
    let is_empty = |prompt: &Prompt| match prompt {
        Prompt::Text { text, .. } => text.is_empty(),
        Prompt::Tokens(tokens) => tokens.is_empty(),
    };
    if texts.iter().any(is_empty) {
        return Err(ApiError::invalid("input must have no empty text"));
    }
    Ok((texts, is_base64))
}

fn answer(model: &str, embedded: &Embedded, is_base64: bool) -> Value {
    let data = embedded.vectors.iter().enumerate().map(|(index, vector)| {
        let vector = match is_base64 {
            true => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Value::String(STANDARD.encode(bytes))
            }
            false => json!(vector),
        };
        json!({"object": "embedding", "index": index, "embedding": vector})
    });
    let usage = embedded_usage(embedded);
    json!({"object": "list", "data": data.collect::<Value>(), "model": model, "usage": usage})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_input_is_read() {
        for (input, count) in [(json!("a"), 1), (json!(["a", "b"]), 2), (json!([1, 2]), 1), (json!([[1], [2, 3]]), 2)] {
            let input: Input = serde_json::from_value(input).unwrap();
            assert_eq!(input.prompts().len(), count);
        }
        assert!(serde_json::from_value::<Input>(json!([1, "a"])).is_err());
    }

    #[test]
    fn base64_is_of_little_endian_floats() {
        let embedded = Embedded { vectors: vec![vec![1.0, -2.0]], tokens: vec![3], ..Embedded::default() };
        let told = answer("e", &embedded, true);
        assert_eq!(told["data"][0]["embedding"], "AACAPwAAAMA=");
        assert_eq!(told["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
        assert_eq!(answer("e", &embedded, false)["data"][0]["embedding"], json!([1.0, -2.0]));
    }
}
