use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use serde::Serialize;
use serde_json::Value;
use wattle_core::{Name, TensorSpec};
use wattle_engine::Tensor;
use wattle_serve::{Prediction, Replica};

use super::{App, body::off_the_runtime, extract::FromPath};
use crate::{
    ApiError, Code, Result,
    predict::{Outputs, inputs_from_json},
};

/// A call's answer in JSON, with what it cost.
pub(super) type Answer = (HeaderMap, Bytes);

/// `POST /predict`: the default or only deployment.
pub(super) async fn default(State(app): State<App>, body: Body) -> Result<Answer> {
    let replica = app.service.find(None)?;
    predict(&app, replica, body).await
}

/// `POST /models/{deployment}/predict`.
pub(super) async fn named(State(app): State<App>, FromPath(deployment): FromPath<Name>, body: Body) -> Result<Answer> {
    let replica = app.service.find(Some(&deployment))?;
    predict(&app, replica, body).await
}

async fn predict(app: &App, replica: Arc<Replica>, body: Body) -> Result<Answer> {
    let read = |replica: &Replica, body: Value| Ok((inputs_from_json(replica.signature(), body)?, ()));
    answer(app, replica, body, read, |_, prediction, ()| Outputs(prediction.outputs)).await
}

/// The way of every call, whatever its protocol: the deployment is found and its place taken before the body is made
/// tensors of, and what is large is converted away from the threads that answer others.
///
/// `read` makes the inputs of the body, and what `write` needs besides the prediction to make the answer.
pub(super) async fn answer<Q, K, A>(
    app: &App,
    replica: Arc<Replica>,
    body: Body,
    read: impl FnOnce(&Replica, Q) -> Result<(Vec<Tensor>, K)> + Send + 'static,
    write: impl FnOnce(&Replica, Prediction, K) -> A + Send + 'static,
) -> Result<Answer>
where
    Q: serde::de::DeserializeOwned,
    K: Send + 'static,
    A: Serialize,
{
    let body = app.bodies.read(body).await?;
    let call = app.service.admit(Arc::clone(&replica))?;
    let bytes = body.len();
    let inputs = move || {
        let (inputs, kept) = read(call.replica(), body.parse()?)?;
        // The inputs are about as large as the body was, so its share stays taken.
        Ok((call, inputs, kept, body.into_share()))
    };
    let (call, inputs, kept, _share) = off_the_runtime(bytes, inputs).await?;
    check_answer(&replica, &inputs, app.bodies.max_answer_values())?;
    let prediction = app.service.predict(call, inputs).await?;
    let mut headers = cost_headers(&prediction);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let values: usize = prediction.outputs.iter().map(|tensor| tensor.data.len()).sum();
    let text = move || serde_json::to_vec(&write(&replica, prediction, kept)).map_err(ApiError::internal);
    // A number is some eight bytes of text.
    let text = off_the_runtime(values * 8, text).await?;
    Ok((headers, Bytes::from(text)))
}

/// A small body can have a large answer; one that would be too large is refused before it is computed.
fn check_answer(replica: &Replica, inputs: &[Tensor], max_values: usize) -> Result<()> {
    let rows = inputs.iter().map(Tensor::rows).max().unwrap_or(0);
    let width = |spec: &TensorSpec| {
        spec.shape.iter().skip(1).fold(1_usize, |width, size| width.saturating_mul(usize::try_from(*size).unwrap_or(1)))
    };
    let widths = replica.signature().outputs.iter().map(width).fold(0_usize, usize::saturating_add);
    let values = rows.saturating_mul(widths);
    if values <= max_values {
        return Ok(());
    }
    let message =
        format!("the answer would have {values} values, and {max_values} is the most: send fewer rows in a call");
    Err(ApiError::new(Code::TooLarge, message))
}

/// What the call cost, and which version answered.
fn cost_headers(prediction: &Prediction) -> HeaderMap {
    let energy = &prediction.usage.energy;
    let texts = [
        ("x-wattle-model", prediction.model.to_string()),
        ("x-wattle-cpu-seconds", format!("{:.9}", prediction.usage.cpu_seconds)),
        ("x-wattle-energy-joules", format!("{:.9}", energy.joules)),
        ("x-wattle-energy-joules-low", format!("{:.9}", energy.joules_low)),
        ("x-wattle-energy-joules-high", format!("{:.9}", energy.joules_high)),
        ("x-wattle-energy-label", energy.label.to_string()),
        ("x-wattle-energy-source", energy.source.clone()),
    ];
    let header = |(name, text): (&'static str, String)| {
        HeaderValue::from_str(&text).ok().map(|value| (HeaderName::from_static(name), value))
    };
    texts.into_iter().filter_map(header).collect()
}
