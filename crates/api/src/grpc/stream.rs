//! Many calls over one stream.

use std::pin::Pin;

use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesOrdered, FuturesUnordered},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Status, Streaming};
use tracing::Instrument;
use wattle_serve::Context;

use super::{
    arrival::{Arrival, reading_failed},
    inference::{Delivery, Inference, context},
    proto::{
        InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
        infer_parameter::ParameterChoice,
    },
};
use crate::{ApiError, Result};

/// How many calls of one stream may be under way, or have answers that wait to be fetched; the next is not read then.
const MAX_UNDER_WAY: usize = 64;

/// The answers to the calls of a stream.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

/// Answers the calls of a stream until it ends, its deadline passes or the server shuts down. What has begun is answered
/// then, except after the deadline; when the caller leaves, it is dropped.
pub(super) fn answers(inference: Inference, request: Request<Streaming<ModelInferRequest>>) -> Result<Answers> {
    let context = context(request.metadata())?;
    let calls = Calls {
        // It is the whole stream's.
        deadline: context.deadline.map(Into::into),
        context: Context { deadline: None, ..context },
        arrival: request.extensions().get::<Arrival>().cloned(),
        incoming: Some(request.into_inner()),
        ready: inference.service.readiness(),
        inference,
        in_order: FuturesOrdered::new(),
        in_any_order: FuturesUnordered::new(),
        end: None,
    };
    Ok(stream::unfold(calls, |mut calls| async move { Some((calls.next().await?, calls)) }).boxed())
}

/// The calls of one stream.
struct Calls {
    inference: Inference,
    arrival: Option<Arrival>,
    context: Context,
    deadline: Option<Instant>,
    ready: watch::Receiver<bool>,
    /// Nothing more is read when absent.
    incoming: Option<Streaming<ModelInferRequest>>,
    /// Answers that nothing but their order tells apart.
    in_order: FuturesOrdered<BoxFuture<'static, ModelStreamInferResponse>>,
    /// Answers with an id.
    in_any_order: FuturesUnordered<BoxFuture<'static, ModelStreamInferResponse>>,
    /// What the stream ends with when all is answered.
    end: Option<Status>,
}

impl Calls {
    /// The next answer.
    async fn next(&mut self) -> Option<Result<ModelStreamInferResponse, Status>> {
        loop {
            if self.incoming.is_none() && self.in_order.is_empty() && self.in_any_order.is_empty() {
                return self.end.take().map(Err);
            }
            let has_room = self.in_order.len() + self.in_any_order.len() < MAX_UNDER_WAY;
            tokio::select! {
                biased;
                () = past(self.deadline), if self.deadline.is_some() => {
                    self.stop(Some(Status::deadline_exceeded("the deadline of the stream passed: allow more time")));
                    (self.in_order, self.in_any_order) = Default::default();
                }
                Some(answer) = self.in_order.next() => return Some(Ok(answer)),
                Some(answer) = self.in_any_order.next() => return Some(Ok(answer)),
                () = closed(&mut self.ready), if self.incoming.is_some() => {
                    self.stop(Some(Status::unavailable("the server is shutting down: call again when it is back")));
                }
                message = read(&mut self.incoming), if has_room && self.incoming.is_some() => match message {
                    Ok(Some(request)) => self.begin(request),
                    Ok(None) => self.stop(None),
                    Err(status) => {
                        let status = reading_failed(status, &self.inference.bodies);
                        self.stop(Some(status));
                    }
                },
            }
        }
    }

    fn stop(&mut self, end: Option<Status>) {
        self.incoming = None;
        self.end = end;
    }

    /// Starts a call. It goes on while its stream's reader is slow, so that it gives its place back.
    fn begin(&mut self, request: ModelInferRequest) {
        let asked = ModelInferResponse {
            model_name: request.model_name.clone(),
            model_version: request.model_version.clone(),
            id: request.id.clone(),
            ..ModelInferResponse::default()
        };
        let has_id = !request.id.is_empty();
        let share = self.arrival.as_ref().map(|arrival| arrival.take(&request)).transpose();
        let (inference, context) = (self.inference.clone(), self.context.clone());
        let call = async move {
            let answered = inference.infer(request, Delivery { context, share: share? }).await;
            answered.map(|(response, _)| response)
        };
        let call = AbortOnDropHandle::new(tokio::spawn(call.in_current_span()));
        let answer = call.map(|done| answer(done.map_err(ApiError::internal).flatten(), asked)).boxed();
        match has_id {
            true => self.in_any_order.push(answer),
            false => self.in_order.push_back(answer),
        }
    }
}

/// One answer, or what was wrong with the request, and with which.
fn answer(result: Result<ModelInferResponse>, asked: ModelInferResponse) -> ModelStreamInferResponse {
    let (mut infer_response, error_message) = match result {
        Ok(response) => (response, String::new()),
        Err(error) => (asked, error.message),
    };
    // Every request has one answer, so that no empty one follows it, whether the request wants to see such or not.
    let is_final = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    infer_response.parameters.insert("triton_final_response".into(), is_final);
    ModelStreamInferResponse { error_message, infer_response: Some(infer_response) }
}

async fn past(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn closed(ready: &mut watch::Receiver<bool>) {
    // Whoever told of it being gone means the same.
    let _ = ready.wait_for(|ready| !ready).await;
}

async fn read(incoming: &mut Option<Streaming<ModelInferRequest>>) -> Result<Option<ModelInferRequest>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => Ok(None),
    }
}
