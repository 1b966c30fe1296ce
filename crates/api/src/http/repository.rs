//! Triton's additions to the Open Inference Protocol over REST: configuration, statistics and the model repository.
//!
//! Source: Triton Inference Server's documentation, `protocol/extension_{model_configuration,statistics,model_repository}.md`.

use axum::{Json, body::Body, extract::State};
use serde::de::DeserializeOwned;
use wattle_core::Name;

use super::{App, extract::FromPath};
use crate::{
    Result,
    describe::{self, AllStatistics, Change, Config, IndexEntry, IndexQuery, Statistics},
};

pub(super) async fn config(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Config>> {
    Ok(Json(Config::of(describe::find(app.service.as_ref(), &name, "")?.as_ref())))
}

pub(super) async fn version_config(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<Config>> {
    Ok(Json(Config::of(describe::find(app.service.as_ref(), &name, &version)?.as_ref())))
}

pub(super) async fn all_statistics(State(app): State<App>) -> Result<Json<AllStatistics>> {
    Ok(Json(AllStatistics { model_stats: describe::all_statistics(app.service.as_ref()).await? }))
}

pub(super) async fn statistics(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<AllStatistics>> {
    one_statistics(&app, &name, "")
}

pub(super) async fn version_statistics(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<AllStatistics>> {
    one_statistics(&app, &name, &version)
}

fn one_statistics(app: &App, name: &Name, version: &str) -> Result<Json<AllStatistics>> {
    let replica = describe::find(app.service.as_ref(), name, version)?;
    Ok(Json(AllStatistics { model_stats: vec![Statistics::of(&replica)] }))
}

pub(super) async fn index(State(app): State<App>, body: Body) -> Result<Json<Vec<IndexEntry>>> {
    let IndexQuery { ready } = optional(&app, body).await?;
    Ok(Json(describe::index(app.service.as_ref(), ready).await?))
}

/// The answer comes when the model is in memory.
pub(super) async fn load(State(app): State<App>, FromPath(name): FromPath<Name>, body: Body) -> Result<()> {
    let Change { parameters } = optional(&app, body).await?;
    Change::check(parameters.keys())?;
    app.service.load(name).await
}

pub(super) async fn unload(State(app): State<App>, FromPath(name): FromPath<Name>, body: Body) -> Result<()> {
    let Change { .. } = optional(&app, body).await?;
    app.service.unload(name).await
}

/// A body that may be left out. Triton's clients send it without a content type.
async fn optional<T: Default + DeserializeOwned>(app: &App, body: Body) -> Result<T> {
    let body = app.bodies.read(body).await?;
    match body.bytes().is_empty() {
        true => Ok(T::default()),
        false => body.parse(),
    }
}
