//! `POST /v1/chat/completions`.

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use wattle_core::LanguageModel;
use wattle_serve::{language::Generate, metrics::Protocol};

use super::{
    DONE,
    chat_answer::{Chunks, Whole},
    chat_request::Request,
    error::Refusal,
    event,
};
use crate::{
    Result,
    http::{
        App,
        context::FromHeaders,
        language::{counted, find, speak, sse},
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
    let (choices, logprobs) = (generate.choices, generate.logprobs.is_some());
    let mut pieces = speak(&app, &replica, context, Protocol::OpenAi, generate).await?;
    if !request.parameters.is_streamed() {
        let mut whole = Whole::new(&request.model, &reading, choices, logprobs);
        while let Some(piece) = pieces.next().await {
            whole.take(piece?);
        }
        return Ok(Json(whole.finish()).into_response());
    }
    let mut chunks = Chunks::new(&request.model, &reading, choices, logprobs, request.parameters.tells_usage());
    let events = pieces.streamed().flat_map(move |piece| {
        let events: Vec<_> = match piece {
            Ok(piece) => {
                let is_last = matches!(piece, wattle_serve::language::Piece::Done(_));
                let chunks = chunks.take(piece);
                chunks.iter().map(event).chain(is_last.then_some(DONE)).collect()
            }
            Err(error) => vec![event(&Refusal::from(error).json())],
        };
        stream::iter(events)
    });
    Ok(sse(events))
}

fn prepare(model: &LanguageModel, request: &Request) -> Result<(Generate, Reading)> {
    let conversation = request.conversation()?;
    let rendered = Template::of(model)?.render(&conversation)?;
    let logprobs = request.logprobs()?;
    let generate = request.parameters.generate(rendered.prompt, rendered.constraint, rendered.stop, logprobs)?;
    Ok((generate, rendered.reading))
}
