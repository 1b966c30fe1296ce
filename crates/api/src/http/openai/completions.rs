//! `POST /v1/completions`: what a model makes of a text as it is, without a template.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, future::try_join_all, stream};
use serde::Deserialize;
use serde_json::Value;
use wattle_serve::{
    language::{Generate, Prompt},
    metrics::Protocol,
};

use super::{
    DONE, chat_request, completion_answer::Completion, embeddings::Input, error::Refusal, event, parameters::Parameters,
};
use crate::{
    ApiError, Result,
    http::{
        App,
        context::FromHeaders,
        language::{counted, find, speak, sse},
    },
    language::Template,
};

/// The most answers of one call, over all prompts.
const MAX_ANSWERS: usize = 128;
/// How many tokens an answer has where nothing is said, OpenAI's.
const PLAIN_TOKENS: u32 = 16;

/// The body. Fields that are not here have no effect and are passed over.
#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    prompt: Input,
    echo: Option<bool>,
    suffix: Option<String>,
    logprobs: Option<u32>,
    response_format: Option<Value>,
    #[serde(flatten)]
    parameters: Parameters,
}

pub(in crate::http) async fn create(
    State(app): State<App>,
    context: Result<FromHeaders>,
    body: Body,
) -> Result<Response, Refusal> {
    let FromHeaders(context) = context?;
    let request: Request = app.bodies.read(body).await?.parse()?;
    let (replica, _) = find(&app, &request.model, &context).map_err(Refusal::of_model)?;
    let (model, is_streamed, tells_usage) =
        (request.model.clone(), request.parameters.is_streamed(), request.parameters.tells_usage());
    let (generates, echoes) = counted(&replica, Protocol::OpenAi, prepare(request))?;
    let choices = generates.first().map_or(1, |generate| generate.choices);
    let mut completion = Completion::new(&model, choices, echoes, is_streamed && tells_usage);
    let speak = |generate| speak(&app, &replica, context.clone(), Protocol::OpenAi, generate);
    let all = try_join_all(generates.into_iter().map(speak)).await?;
    let all = all.into_iter().enumerate().map(|(prompt, pieces)| {
        let pieces = if is_streamed { pieces.streamed().boxed() } else { pieces.boxed() };
        pieces.map(move |piece| (prompt, piece))
    });
    let mut pieces = stream::select_all(all);
    if !is_streamed {
        while let Some((prompt, piece)) = pieces.next().await {
            completion.gather(prompt, piece?);
        }
        return Ok(Json(completion.whole()).into_response());
    }
    let mut has_failed = false;
    let events = pieces.flat_map(move |(prompt, piece)| {
        let events: Vec<_> = match piece {
            _ if has_failed => Vec::new(),
            Ok(piece) => {
                let chunks = completion.chunks(prompt, piece);
                chunks.iter().map(event).chain(completion.is_done().then_some(DONE)).collect()
            }
            Err(error) => {
                has_failed = true;
                vec![event(&Refusal::from(error).json())]
            }
        };
        stream::iter(events)
    });
    Ok(sse(events))
}

/// What each prompt asks for, and what is told before its answers.
fn prepare(request: Request) -> Result<(Vec<Generate>, Vec<String>)> {
    if request.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::invalid(
            "suffix is not supported: write the prompt in the model's own form for infilling",
        ));
    }
    let is_echoed = request.echo.unwrap_or(false);
    if is_echoed && request.logprobs.is_some() {
        return Err(ApiError::invalid("echo cannot stand beside logprobs: those of a prompt are not computed"));
    }
    let mut parameters = request.parameters;
    parameters.max_tokens = parameters.max_completion_tokens.or(parameters.max_tokens).or(Some(PLAIN_TOKENS));
    let constraint = Template::constraint(&chat_request::format(
        "response_format",
        request.response_format.as_ref(),
        "/json_schema/schema",
        &parameters,
    )?);
    let prompts = request.prompt.prompts();
    let answers = prompts.len().saturating_mul(parameters.n.unwrap_or(1).max(1) as usize);
    if prompts.is_empty() || answers > MAX_ANSWERS {
        return Err(ApiError::invalid(format!("prompt and n must make 1 to {MAX_ANSWERS} answers")));
    }
    let (mut generates, mut echoes) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let (prompt, echo) = match prompt {
            // Whoever completes a text may have rendered a template, as with other servers.
            Prompt::Text { text, .. } => {
                let echo = if is_echoed { text.clone() } else { String::new() };
                (Prompt::Text { text, special: true }, echo)
            }
            Prompt::Tokens(_) if is_echoed => {
                return Err(ApiError::invalid("echo needs a prompt of text, not of tokens"));
            }
            tokens @ Prompt::Tokens(_) => (tokens, String::new()),
        };
        generates.push(parameters.generate(prompt, constraint.clone(), Vec::new(), request.logprobs)?);
        echoes.push(echo);
    }
    Ok((generates, echoes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn prepared(mut body: Value) -> Result<(Vec<Generate>, Vec<String>)> {
        body["model"] = "m".into();
        prepare(serde_json::from_value(body).unwrap())
    }

    #[test]
    fn each_prompt_is_asked_for() {
        let (generates, echoes) = prepared(json!({"prompt": ["a", "b"], "n": 2, "echo": true})).unwrap();
        assert_eq!(generates.len(), 2);
        assert_eq!(generates[0].max_tokens, Some(16));
        assert_eq!(echoes, ["a", "b"]);
        let (generates, _) = prepared(json!({"prompt": [[1, 2]], "logprobs": 3})).unwrap();
        assert_eq!((&generates[0].prompt, generates[0].logprobs), (&Prompt::Tokens(vec![1, 2]), Some(3)));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for (body, word) in [
            (json!({"prompt": "a", "suffix": "b"}), "suffix"),
            (json!({"prompt": "a", "echo": true, "logprobs": 1}), "echo"),
            (json!({"prompt": [1], "echo": true}), "echo"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": ["a", "b"], "n": 100}), "answers"),
        ] {
            let error = prepared(body.clone()).unwrap_err();
            assert!(error.message.contains(word), "{body}: {error}");
        }
    }
}
