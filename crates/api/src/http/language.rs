//! What the protocols of language models share: finding the deployment, following an answer to its end, and events.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use wattle_core::{Energy, LanguageModel, Name};
use wattle_serve::{
    Context, Replica,
    language::{Embedded, Generate, Piece, Pieces},
    metrics::{Observation, Phases, Protocol},
};

use super::App;
use crate::{ApiError, Code, Result, failures};

/// How long nothing is sent at most, so that nobody on the way takes a connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long an answer's status waits for the first piece, by which most of what can go wrong has.
const PATIENCE: Duration = Duration::from_secs(5);

/// The deployment of this name, which must be of a language model.
///
/// # Errors
/// If there is none, or it is of another model.
pub(super) fn find(app: &App, name: &str, context: &Context) -> Result<(Arc<Replica>, LanguageModel)> {
    let name: Name = name.parse().map_err(|_| {
        let shown: String = name.chars().take(100).collect();
        ApiError::new(Code::NotFound, format!("there is no deployment {shown}: `wattle ps` lists them"))
    })?;
    let replica = app.service.find(Some(&name))?.route(context.key.as_deref());
    match replica.language().cloned() {
        Some(model) => Ok((replica, model)),
        None => {
            let message = format!("{name} is no language model: call it at /models/{name}/predict");
            Err(ApiError::invalid(message))
        }
    }
}

/// Counts a call that failed before it reached the model.
pub(super) fn counted<T>(replica: &Replica, protocol: Protocol, outcome: Result<T>) -> Result<T> {
    outcome.inspect_err(|error| replica.observe(protocol).failed(error.code.status().as_u16()))
}

/// Pieces of one call, which is observed to its end: answered, failed, or given up when this is dropped.
pub(super) struct Speaking {
    first: Option<Result<Piece>>,
    pieces: Pieces,
    observation: Option<Observation>,
    begun: Instant,
}

/// Has the model answer. What fails within the first seconds fails here, so that it has its status.
///
/// # Errors
/// If the call gets no place, or the model does not take the request.
pub(super) async fn speak(
    app: &App,
    replica: &Arc<Replica>,
    context: Context,
    protocol: Protocol,
    generate: Generate,
) -> Result<Speaking> {
    let observation = replica.observe(protocol);
    let begun = Instant::now();
    let speaking = async || -> Result<_> {
        let call = app.service.admit(Arc::clone(replica), context)?;
        let mut pieces = app.service.generate(call, generate).await?;
        let first = match tokio::time::timeout(PATIENCE, pieces.next()).await {
            Ok(Some(Err(error))) => return Err(error.into()),
            Ok(Some(Ok(piece))) => Some(Ok(piece)),
            Ok(None) => Some(Err(cut_off())),
            Err(_) => None,
        };
        Ok((first, pieces))
    };
    match speaking().await {
        Ok((first, pieces)) => Ok(Speaking { first, pieces, observation: Some(observation), begun }),
        Err(error) => {
            observation.failed(error.code.status().as_u16());
            Err(error)
        }
    }
}

impl Speaking {
    /// The pieces for a stream of events. Its status is sent before they come, so that what fails among them has its line
    /// of the log here.
    pub(super) fn streamed(self) -> impl Stream<Item = Result<Piece>> + Send {
        self.inspect(|piece| {
            if let Err(error) = piece {
                failures::note(error);
            }
        })
    }
}

impl Stream for Speaking {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<Result<Piece>>> {
        if self.observation.is_none() {
            return Poll::Ready(None);
        }
        let piece = match self.first.take() {
            Some(piece) => piece,
            None => match task::ready!(self.pieces.poll_next_unpin(context)) {
                Some(piece) => piece.map_err(ApiError::from),
                None => Err(cut_off()),
            },
        };
        match &piece {
            Ok(Piece::Done(_)) => {
                let phases = Phases { compute: self.begun.elapsed(), ..Phases::default() };
                if let Some(observation) = self.observation.take() {
                    observation.answered(200, phases);
                }
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(observation) = self.observation.take() {
                    observation.failed(error.code.status().as_u16());
                }
            }
        }
        Poll::Ready(Some(piece))
    }
}

/// What is told when pieces end before their end.
fn cut_off() -> ApiError {
    ApiError::internal("a language model's pieces ended before they were done")
}

/// An answer of server-sent events, whole ones as they are, with comments between them while nothing comes. A client who
/// leaves takes `events` away.
pub(super) fn sse(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let lines = stream::unfold(Box::pin(events), |mut events| async move {
        let line = match tokio::time::timeout(KEEP_ALIVE, events.next()).await {
            Ok(event) => event?,
            Err(_) => Bytes::from_static(b": keep-alive\n\n"),
        };
        Some((Ok::<_, std::convert::Infallible>(line), events))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that follow nginx keep events back otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// An event that has the name of its JSON's type.
pub(super) fn typed_event(value: &Value) -> Bytes {
    let name = value["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {value}\n\n").into()
}

/// A field of a part of a request, which `name` names.
///
/// # Errors
/// If it is no string.
pub(super) fn string<'a>(name: &str, part: &'a Value, key: &str) -> Result<&'a str> {
    part[key].as_str().ok_or_else(|| ApiError::invalid(format!("{name}.{key} must be a string")))
}

/// What embedding took, in OpenAI's form.
pub(super) fn embedded_usage(embedded: &Embedded) -> Value {
    let tokens: u64 = embedded.tokens.iter().map(|tokens| u64::from(*tokens)).sum();
    let mut usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    if embedded.energy.is_some() {
        usage["energy"] = energy_json(embedded.energy.as_ref());
    }
    usage
}

/// What a call took, as every protocol tells it: `{"joules": {"low", "mid", "high"}, "label", "source"}`; `null` if it is
/// not known.
pub(super) fn energy_json(energy: Option<&Energy>) -> Value {
    energy.map_or(Value::Null, |energy| {
        json!({
            "joules": {"low": energy.joules_low, "mid": energy.joules, "high": energy.joules_high},
            "label": energy.label,
            "source": energy.source,
        })
    })
}
