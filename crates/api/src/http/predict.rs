use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use wattle_core::Name;
use wattle_serve::Prediction;

use super::{
    App,
    extract::{AnyJson, FromPath},
};
use crate::{
    Result,
    predict::{inputs_from_json, outputs_to_json},
};

/// `POST /predict`: the default or only deployment.
pub(super) async fn default(State(app): State<App>, AnyJson(body): AnyJson<Value>) -> Result<(HeaderMap, Json<Value>)> {
    answer(&app, None, body).await
}

/// `POST /models/{deployment}/predict`.
pub(super) async fn named(
    State(app): State<App>,
    FromPath(deployment): FromPath<Name>,
    AnyJson(body): AnyJson<Value>,
) -> Result<(HeaderMap, Json<Value>)> {
    answer(&app, Some(&deployment), body).await
}

async fn answer(app: &App, deployment: Option<&Name>, body: Value) -> Result<(HeaderMap, Json<Value>)> {
    let model = app.service.find(deployment)?;
    let inputs = inputs_from_json(&model.signature, body)?;
    let prediction = app.service.predict(model.name, inputs).await?;
    Ok((cost_headers(&prediction), Json(outputs_to_json(prediction.outputs))))
}

/// What the call cost, and which version answered.
pub(super) fn cost_headers(prediction: &Prediction) -> HeaderMap {
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
