//! `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::{pin::pin, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde_json::json;
use wattle_core::LanguageModel;
use wattle_serve::{
    language::Generate,
    metrics::{Phases, Protocol},
};

use super::{error::Refusal, request::Request, writer::Writer};
use crate::{
    ApiError, Result,
    http::{
        App,
        context::FromHeaders,
        language::{counted, find, speak, sse, typed_event},
        observe::observe,
    },
    language::{Reading, Template},
};

pub(in crate::http) async fn create(
    State(app): State<App>,
    context: Result<FromHeaders>,
    body: Body,
) -> Result<Response, Refusal> {
    let FromHeaders(context) = context?;
    let request: Request = app.bodies.read(body).await?.parse()?;
    let (replica, model) = find(&app, &request.model, &context)?;
    let (generate, reading) = counted(&replica, Protocol::Anthropic, prepare(&model, &request))?;
    let mut writer = Writer::new(&request.model, &reading, request.stops());
    let mut pieces = speak(&app, &replica, context, Protocol::Anthropic, generate).await?;
    if !request.is_streamed() {
        while let Some(piece) = pieces.next().await {
            writer.take(piece?);
        }
        return Ok(Json(writer.message()).into_response());
    }
    let events = pieces.streamed().flat_map(move |piece| {
        let events = match piece {
            Ok(piece) => writer.take(piece),
            Err(error) => vec![Refusal::from(error).json()],
        };
        stream::iter(events.into_iter().map(|value| typed_event(&value)))
    });
    Ok(sse(events))
}

pub(in crate::http) async fn count(
    State(app): State<App>,
    context: Result<FromHeaders>,
    body: Body,
) -> Result<Response, Refusal> {
    let FromHeaders(context) = context?;
    let request: Request = app.bodies.read(body).await?.parse()?;
    let (replica, model) = find(&app, &request.model, &context)?;
    let call = pin!(async {
        let prompt = Template::of(&model)?.render(&request.conversation()?)?.prompt;
        let call = app.service.admit(replica.clone(), context)?;
        let begun = Instant::now();
        let tokens = app.service.tokenize(call, prompt).await?;
        let phases = Phases { compute: begun.elapsed(), ..Phases::default() };
        Ok((Json(json!({"input_tokens": tokens.len()})).into_response(), phases))
    });
    Ok(observe(&app, &replica, Protocol::Anthropic, call).await?)
}

fn prepare(model: &LanguageModel, request: &Request) -> Result<(Generate, Reading)> {
    let asked = request.asked();
    if asked.max_tokens.is_none() {
        return Err(ApiError::invalid("max_tokens is missing: send how many tokens the answer may have"));
    }
    let rendered = Template::of(model)?.render(&request.conversation()?)?;
    let generate = asked.generate(rendered.prompt, rendered.constraint, rendered.stop)?;
    Ok((generate, rendered.reading))
}
