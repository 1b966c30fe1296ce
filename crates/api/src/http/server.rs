use axum::{Json, extract::State};
use serde_json::{Value, json};
use wattle_meter::{UsageLine, UsageQuery};
use wattle_store::Collected;

use super::{App, extract::FromQuery};
use crate::{Result, service::ServerInfo};

/// `GET /`: where to go from here.
pub(super) async fn welcome(State(app): State<App>) -> Json<Value> {
    let info = app.service.info();
    Json(json!({
        "name": info.name,
        "version": info.version,
        "description": ["GET /openapi.json", "GET /docs"],
        "predict": ["POST /predict", "POST /models/{deployment}/predict"],
        "open_inference_protocol": ["GET /v2", "GET /v2/models/{deployment}", "POST /v2/models/{deployment}/infer"],
        "mlflow": ["POST /invocations", "POST /models/{deployment}/invocations", "GET /ping", "GET /version"],
        "management": [
            "/api/v1/datasets", "/api/v1/training-jobs", "/api/v1/models", "/api/v1/deployments", "/api/v1/usage",
            "/api/v1/gc", "/api/v1/server"
        ],
    }))
}

pub(super) async fn info(State(app): State<App>) -> Json<ServerInfo> {
    Json(app.service.info())
}

pub(super) async fn usage(
    State(app): State<App>,
    FromQuery(query): FromQuery<UsageQuery>,
) -> Result<Json<Vec<UsageLine>>> {
    Ok(Json(app.service.usage(query).await?))
}

pub(super) async fn collect_garbage(State(app): State<App>) -> Result<Json<Collected>> {
    Ok(Json(app.service.collect_garbage().await?))
}
