use axum::{Json, extract::State, http::StatusCode};
use wattle_core::Name;
use wattle_deploy::DeploymentRequest;
use wattle_serve::ReplicaStatus;
use wattle_store::{Deployment, DeploymentHistory};

use super::{
    App,
    extract::{self, FromPath},
};
use crate::Result;

pub(super) async fn create(
    State(app): State<App>,
    extract::Json(request): extract::Json<DeploymentRequest>,
) -> Result<(StatusCode, Json<Deployment>)> {
    Ok((StatusCode::CREATED, Json(app.service.deploy(request).await?)))
}

pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<ReplicaStatus>>> {
    Ok(Json(app.service.deployments().await?))
}

pub(super) async fn show(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<ReplicaStatus>> {
    // `find` has the words for a name that is not there.
    let replica = app.service.find(Some(&name))?;
    Ok(Json(replica.status()))
}

/// `POST /api/v1/deployments/{name}/load`: the answer comes when the model is in memory.
pub(super) async fn load(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<ReplicaStatus>> {
    app.service.load(name.clone()).await?;
    Ok(Json(app.service.find(Some(&name))?.status()))
}

pub(super) async fn unload(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<ReplicaStatus>> {
    app.service.unload(name.clone()).await?;
    Ok(Json(app.service.find(Some(&name))?.status()))
}

pub(super) async fn remove(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<StatusCode> {
    app.service.undeploy(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn promote(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Deployment>> {
    Ok(Json(app.service.promote(name).await?))
}

pub(super) async fn roll_back(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Deployment>> {
    Ok(Json(app.service.roll_back(name).await?))
}

pub(super) async fn history(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<DeploymentHistory>> {
    Ok(Json(app.service.deployment_history(name).await?))
}
