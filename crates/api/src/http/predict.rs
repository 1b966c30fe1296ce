use std::{
    borrow::Cow,
    collections::VecDeque,
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use http_body::{Frame, SizeHint};
use wattle_core::Name;
use wattle_engine::Tensor;
use wattle_serve::{
    Call, Context, Prediction, Replica,
    metrics::{Phases, Protocol},
};

use super::{
    App,
    body::{Held, off_the_runtime},
    context::FromHeaders,
    extract::FromPath,
    observe::observe,
};
use crate::{
    ApiError, Result,
    answer::{check_answer, cost},
    json::{Outputs, inputs_from_json},
};

/// `POST /predict`: the default or only deployment.
pub(super) async fn default(State(app): State<App>, FromHeaders(context): FromHeaders, body: Body) -> Result<Response> {
    let replica = app.service.find(None)?.route(context.key.as_deref());
    observe(&app, &replica, Protocol::Predict, pin!(predict(&app, &replica, context, body))).await
}

/// `POST /models/{deployment}/predict`.
pub(super) async fn named(
    State(app): State<App>,
    FromPath(deployment): FromPath<Name>,
    FromHeaders(context): FromHeaders,
    body: Body,
) -> Result<Response> {
    let replica = app.service.find(Some(&deployment))?.route(context.key.as_deref());
    observe(&app, &replica, Protocol::Predict, pin!(predict(&app, &replica, context, body))).await
}

async fn predict(app: &App, replica: &Arc<Replica>, context: Context, body: Body) -> Result<(Response, Phases)> {
    let body = app.bodies.read(body).await?;
    let read = |call: &mut Call, body: &Bytes| Ok((inputs_from_json(call.replica().signature(), body)?, ()));
    let write = |_: &Replica, prediction: Prediction, ()| {
        let text = serde_json::to_vec(&Outputs(prediction.outputs)).map_err(ApiError::internal)?;
        Ok(Written { content_type: JSON, headers: HeaderMap::new(), pieces: vec![text.into()] })
    };
    answer(app, Arc::clone(replica), context, body, read, write).await
}

/// The content type of JSON.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer's body, and what its protocol says beside it.
pub(super) struct Written {
    pub(super) content_type: HeaderValue,
    pub(super) headers: HeaderMap,
    pub(super) pieces: Vec<Bytes>,
}

/// The way of every call, whatever its protocol: its place is taken before the body is made tensors of, and what is
/// large is converted away from the threads that answer others.
///
/// `read` makes the inputs of the body, and what `write` needs besides the prediction to make the answer. Beside the
/// answer comes where its time went; [`observe`] counts it.
pub(super) async fn answer<K: Send + 'static>(
    app: &App,
    replica: Arc<Replica>,
    context: Context,
    body: Held,
    read: impl FnOnce(&mut Call, &Bytes) -> Result<(Vec<Tensor>, K)> + Send + 'static,
    write: impl FnOnce(&Replica, Prediction, K) -> Result<Written> + Send + 'static,
) -> Result<(Response, Phases)> {
    replica.check_tensors()?;
    let mut call = app.service.admit(Arc::clone(&replica), context)?;
    let bytes = body.work_bytes();
    let inputs = move || {
        let (inputs, kept) = read(&mut call, body.bytes())?;
        // The inputs are about as large as the body was, so its share stays taken.
        Ok((call, inputs, kept, body.into_share()))
    };
    let (call, inputs, kept, _share) = off_the_runtime(bytes, inputs).await?;
    check_answer(&replica, &inputs, app.bodies.max_answer_values())?;
    let prediction = app.service.predict(call, inputs).await?;
    let (computed, mut phases) = (Instant::now(), prediction.phases);
    let mut headers = cost_headers(&prediction);
    let values: usize = prediction.outputs.iter().map(|tensor| tensor.data.len()).sum();
    // A number is some eight bytes of text.
    let written = off_the_runtime(values * 8, move || write(&replica, prediction, kept)).await?;
    headers.extend(written.headers);
    headers.insert(header::CONTENT_TYPE, written.content_type);
    let mut response = Response::new(Body::new(Pieces(written.pieces.into())));
    *response.headers_mut() = headers;
    phases.reply += computed.elapsed();
    Ok((response, phases))
}

/// A body of known pieces, which are written without being joined.
struct Pieces(VecDeque<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

/// What the call cost, and which version answered; with room for the headers that others add.
fn cost_headers(prediction: &Prediction) -> HeaderMap {
    let cost = cost(prediction);
    let mut headers = HeaderMap::with_capacity(2 * cost.len());
    for (name, text) in cost {
        let value = match text {
            Cow::Borrowed(text) => Ok(HeaderValue::from_static(text)),
            Cow::Owned(text) => HeaderValue::from_maybe_shared(Bytes::from(text)),
        };
        if let Ok(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}
