//! The language models that are deployed, as OpenAI lists models.

use axum::{Json, extract::State};
use serde_json::{Value, json};
use wattle_serve::{Context, Replica};

use super::error::Refusal;
use crate::http::{App, extract::FromPath, language::find};

/// `GET /v1/models`.
pub(in crate::http) async fn list(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    let mut models = Vec::new();
    for status in app.service.deployments().await? {
        // One that went between the two calls is not there.
        let Ok(replica) = app.service.find(Some(&status.deployment.name)) else { continue };
        if replica.language().is_some() {
            models.push(model(&replica));
        }
    }
    Ok(Json(json!({"object": "list", "data": models})))
}

/// `GET /v1/models/{name}`.
pub(in crate::http) async fn show(
    State(app): State<App>,
    name: crate::Result<FromPath<String>>,
) -> Result<Json<Value>, Refusal> {
    let FromPath(name) = name?;
    let (replica, _) = find(&app, &name, &Context::default()).map_err(Refusal::of_model)?;
    Ok(Json(model(&replica)))
}

fn model(replica: &Replica) -> Value {
    let context = replica.language().map(|model| model.context_tokens);
    json!({
        "id": replica.name(),
        "object": "model",
        "created": replica.deployment().created_at.timestamp(),
        "owned_by": "wattle",
        "max_model_len": context,
    })
}
