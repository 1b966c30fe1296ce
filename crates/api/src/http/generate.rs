//! Generation by the Open Inference Protocol: `generate`, and `generate_stream` in server-sent events.
//!
//! Source: the protocol's `open-inference-protocol/specification/protocol/generate_rest.yaml`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use wattle_core::Name;
use wattle_serve::{
    Context, Replica,
    language::{Constraint, FinishReason, Generate, Piece, Prompt, TokenUsage},
    metrics::Protocol,
};

use super::{
    App,
    asked::Asked,
    context::FromHeaders,
    extract::FromPath,
    language::{Speaking, counted, energy_json, speak, sse},
};
use crate::{ApiError, Result, describe};

#[derive(Debug, Deserialize)]
struct Request {
    text_input: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Debug, Default, Deserialize)]
struct Parameters {
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    /// Whether the answer tells why it ended, and what it took.
    details: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "must be a string, or an array of strings")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

pub(super) async fn whole(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let replica = app.service.find(Some(&name))?.route(context.key.as_deref());
    gather(begin(&app, &replica, context, body).await?).await
}

pub(super) async fn version_whole(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let replica = describe::find(app.service.as_ref(), &name, &version)?;
    gather(begin(&app, &replica, context, body).await?).await
}

pub(super) async fn stream(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let replica = app.service.find(Some(&name))?.route(context.key.as_deref());
    Ok(events(begin(&app, &replica, context, body).await?))
}

pub(super) async fn version_stream(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let replica = describe::find(app.service.as_ref(), &name, &version)?;
    Ok(events(begin(&app, &replica, context, body).await?))
}

async fn begin(app: &App, replica: &Arc<Replica>, context: Context, body: Body) -> Result<(Speaking, Writer)> {
    if replica.language().is_none() {
        let message = format!("{} is no language model: call it at /v2/models/{0}/infer", replica.name());
        return Err(ApiError::invalid(message));
    }
    let request: Request = app.bodies.read(body).await?.parse()?;
    let generate = counted(replica, Protocol::Generate, request.generate())?;
    let details = request.parameters.details.unwrap_or(false);
    let version = replica.model_version().version.to_string();
    let writer = Writer { model: replica.name().to_string(), version, details, reason: None };
    let speaking = speak(app, replica, context, Protocol::Generate, generate).await?;
    Ok((speaking, writer))
}

async fn gather((mut pieces, mut writer): (Speaking, Writer)) -> Result<Response> {
    let (mut all, mut last) = (String::new(), Value::Null);
    while let Some(piece) = pieces.next().await {
        let Some(told) = writer.take(piece?) else { continue };
        all += told["text_output"].as_str().unwrap_or_default();
        last = told;
    }
    last["text_output"] = all.into();
    Ok(Json(last).into_response())
}

fn events((pieces, mut writer): (Speaking, Writer)) -> Response {
    sse(pieces.streamed().flat_map(move |piece| {
        let told = match piece {
            Ok(piece) => writer.take(piece),
            Err(error) => Some(json!({"error": error.message})),
        };
        stream::iter(told.map(|value| Bytes::from(format!("data: {value}\n\n"))))
    }))
}

impl Request {
    fn generate(&self) -> Result<Generate> {
        let parameters = &self.parameters;
        let stop = match parameters.stop.clone() {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text],
            Some(Stop::Several(texts)) => texts,
        };
        let asked = Asked {
            max_tokens: parameters.max_tokens,
            temperature: parameters.temperature,
            top_p: parameters.top_p,
            top_k: parameters.top_k,
            seed: parameters.seed,
            stop,
        };
        let prompt = Prompt::Text { text: self.text_input.clone(), special: true };
        asked.generate(prompt, Constraint::None, Vec::new())
    }
}

/// Makes answers of pieces, one for each that grew the text, and the last one.
struct Writer {
    model: String,
    version: String,
    details: bool,
    reason: Option<FinishReason>,
}

impl Writer {
    fn take(&mut self, piece: Piece) -> Option<Value> {
        match piece {
            Piece::Begun { .. } => None,
            Piece::Text { text, .. } => Some(self.answer(&text)),
            Piece::Ended { reason, .. } => {
                self.reason = Some(reason);
                None
            }
            Piece::Done(usage) => {
                let mut last = self.answer("");
                if self.details {
                    last["details"] = self.details(&usage);
                }
                Some(last)
            }
        }
    }

    fn answer(&self, text: &str) -> Value {
        json!({"model_name": self.model, "model_version": self.version, "text_output": text})
    }

    fn details(&self, usage: &TokenUsage) -> Value {
        let reason = match &self.reason {
            Some(FinishReason::End) => "eos_token",
            Some(FinishReason::Stop(_)) => "stop_sequence",
            Some(FinishReason::Length) => "length",
            None => "",
        };
        json!({
            "finish_reason": reason,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "energy": energy_json(usage.energy.as_ref()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(body: Value) -> Request {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn parameters_are_read() {
        let parameters = json!({"max_tokens": 3, "temperature": 0, "stop": "x", "unknown": 1});
        let generate = request(json!({"text_input": "a", "parameters": parameters})).generate().unwrap();
        assert_eq!((generate.max_tokens, &generate.stop[..]), (Some(3), &["x".to_owned()][..]));
        assert!(request(json!({"text_input": "a"})).generate().is_ok());
        let missing = serde_json::from_value::<Request>(json!({})).unwrap_err();
        assert!(missing.to_string().contains("text_input"));
    }

    #[test]
    fn the_last_answer_tells_what_it_took() {
        let mut writer = Writer { model: "m".into(), version: "1".into(), details: true, reason: None };
        let text = Piece::Text { choice: 0, text: "a".into(), tokens: Vec::new(), count: 1 };
        let told = json!({"model_name": "m", "model_version": "1", "text_output": "a"});
        assert_eq!(writer.take(text), Some(told));
        assert_eq!(writer.take(Piece::Ended { choice: 0, reason: FinishReason::Length }), None);
        let usage = TokenUsage { prompt_tokens: 2, completion_tokens: 1, ..TokenUsage::default() };
        let last = writer.take(Piece::Done(usage)).unwrap();
        assert_eq!((&last["text_output"], &last["details"]["finish_reason"]), (&json!(""), &json!("length")));
    }
}
