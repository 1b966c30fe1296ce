//! `POST /v1/responses`.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use wattle_core::LanguageModel;
use wattle_serve::{language::Generate, metrics::Protocol};

use super::{error::Refusal, response_answer::Writer, response_request::Request};
use crate::{
    Result,
    http::{
        App,
        context::FromHeaders,
        language::{counted, find, speak, sse, typed_event},
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
    let (replica, model) = find(&app, &request.model, &context).map_err(Refusal::of_model)?;
    let (generate, reading) = counted(&replica, Protocol::OpenAi, prepare(&model, &request))?;
    let mut writer = Writer::new(request.told(), &reading);
    let is_streamed = request.parameters.is_streamed();
    let mut pieces = speak(&app, &replica, context, Protocol::OpenAi, generate).await?;
    if !is_streamed {
        while let Some(piece) = pieces.next().await {
            writer.take(piece?);
        }
        return Ok(Json(writer.response()).into_response());
    }
    let events = pieces.streamed().flat_map(move |piece| {
        let events = match piece {
            Ok(piece) => writer.take(piece),
            Err(error) => writer.fail(&error),
        };
        stream::iter(events.into_iter().map(|value| typed_event(&value)))
    });
    Ok(sse(events))
}

fn prepare(model: &LanguageModel, request: &Request) -> Result<(Generate, Reading)> {
    let rendered = Template::of(model)?.render(&request.conversation()?)?;
    let parameters = request.parameters()?;
    let generate = parameters.generate(rendered.prompt, rendered.constraint, rendered.stop, request.logprobs())?;
    Ok((generate, rendered.reading))
}
