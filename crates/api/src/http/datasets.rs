use axum::{Json, body::Body, extract::State, http::StatusCode};
use serde::Deserialize;
use wattle_core::Name;
use wattle_store::Dataset;

use super::{
    App,
    body::stage,
    extract::{FromPath, FromQuery},
};
use crate::{
    ApiError, Result,
    service::{AddDataset, AddedDataset, OnConflict},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddQuery {
    /// The file's name.
    #[serde(default)]
    source: String,
    /// [`wattle_store::table::Overrides`] as JSON.
    #[serde(default)]
    overrides: Option<String>,
    #[serde(default)]
    conflict: OnConflict,
}

/// `PUT /api/v1/datasets/{name}`: the body is the file.
pub(super) async fn add(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    FromQuery(query): FromQuery<AddQuery>,
    body: Body,
) -> Result<(StatusCode, Json<AddedDataset>)> {
    let overrides = match query.overrides {
        None => Default::default(),
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| ApiError::invalid(format!("the query's overrides cannot be read: {error}")))?,
    };
    let file = stage(&app, body).await?;
    let options = AddDataset { source: query.source, overrides, conflict: query.conflict };
    Ok((StatusCode::CREATED, Json(app.service.add_dataset(name, file, options).await?)))
}

pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<Dataset>>> {
    Ok(Json(app.service.datasets().await?))
}

pub(super) async fn show(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Dataset>> {
    Ok(Json(app.service.dataset(name).await?))
}

pub(super) async fn remove(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<StatusCode> {
    app.service.remove_dataset(name).await?;
    Ok(StatusCode::NO_CONTENT)
}
