use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::sync::watch;
use wattle_core::Name;
use wattle_deploy::DeploymentRequest;
use wattle_serve::{LogLine, ReplicaStatus};
use wattle_store::{Deployment, DeploymentHistory};

use super::{
    App,
    extract::{self, FromPath, FromQuery},
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

/// How much of a log is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Tail {
    /// The last so many lines.
    #[serde(default = "usual_tail")]
    tail: usize,
}

fn usual_tail() -> usize {
    100
}

pub(super) async fn logs(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    FromQuery(Tail { tail }): FromQuery<Tail>,
) -> Result<Json<Vec<LogLine>>> {
    Ok(Json(last_lines(&app, &name, tail)?))
}

/// `GET /api/v1/deployments/{name}/logs/events`: the last lines, and each further one, until the server ends.
pub(super) async fn log_events(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    FromQuery(Tail { tail }): FromQuery<Tail>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let changes = app.service.logs().changes();
    // Read before the lines, so that none is missed that comes in between.
    let so_far = *changes.borrow();
    let lines = last_lines(&app, &name, tail)?;
    let last = lines.last().map_or(so_far, |line| line.number);
    let follow = Follow { app, name, changes, last };
    let new = stream::unfold(follow, |mut follow| async move { Some((stream::iter(follow.next().await?), follow)) });
    let event = |line: LogLine| {
        let event = Event::default().event("line");
        Ok(event.json_data(&line).unwrap_or_else(|_| Event::default().comment("a line that is not JSON")))
    };
    let events = stream::iter(lines).chain(new.flatten()).map(event);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// Where somebody is who follows a log.
struct Follow {
    app: App,
    name: Name,
    changes: watch::Receiver<u64>,
    last: u64,
}

impl Follow {
    /// The next lines; none when the server ends.
    async fn next(&mut self) -> Option<Vec<LogLine>> {
        let mut readiness = self.app.service.readiness();
        loop {
            let lines = self.app.service.logs().after(&self.name, self.last);
            if let Some(line) = lines.last() {
                self.last = line.number;
                return Some(lines);
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                _ = readiness.wait_for(|is_ready| !*is_ready) => return None,
            }
        }
    }
}

/// Of a deployment that is there nothing may have been said yet.
fn last_lines(app: &App, name: &Name, tail: usize) -> Result<Vec<LogLine>> {
    match app.service.logs().tail(name, tail) {
        Some(lines) => Ok(lines),
        None => app.service.find(Some(name)).map(|_| Vec::new()),
    }
}
