use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio_stream::wrappers::WatchStream;
use uuid::Uuid;
use wattle_store::Job;
use wattle_train::spec::TrainingSpec;

use super::{
    App,
    extract::{self, FromPath},
};
use crate::{ApiError, Result};

pub(super) async fn create(
    State(app): State<App>,
    extract::Json(keys): extract::Json<Value>,
) -> Result<(StatusCode, Json<Job>)> {
    let spec = TrainingSpec::from_value(keys)?;
    Ok((StatusCode::CREATED, Json(app.service.create_job(spec).await?)))
}

pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<Job>>> {
    Ok(Json(app.service.jobs().await?))
}

pub(super) async fn show(State(app): State<App>, FromPath(id): FromPath<String>) -> Result<Json<Job>> {
    Ok(Json(app.service.job(job_id(&id)?).await?))
}

pub(super) async fn cancel(State(app): State<App>, FromPath(id): FromPath<String>) -> Result<Json<Job>> {
    Ok(Json(app.service.cancel_job(job_id(&id)?).await?))
}

/// The job as it is now and at each change, each as one server-sent event named `job`; the stream ends with the job.
/// A client that reads slowly gets the latest state, not a backlog.
pub(super) async fn events(
    State(app): State<App>,
    FromPath(id): FromPath<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let changes = WatchStream::new(app.service.watch_job(job_id(&id)?).await?);
    let mut ended = false;
    let until_final = changes.take_while(move |job| {
        let go_on = !ended;
        ended = job.state.is_final();
        std::future::ready(go_on)
    });
    let events = until_final.map(|job| {
        let event = Event::default().event("job");
        Ok(event.json_data(&job).unwrap_or_else(|_| Event::default().comment("a job that is not JSON")))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

fn job_id(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| ApiError::invalid(format!("{text} is not a job's id: `wattle jobs list` lists them")))
}
