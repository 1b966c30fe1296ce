use std::{fmt, path::Path, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;
use wattle_core::{Digest, Energy, ModelVersionId, Name};

use super::{Columns, models, now, time_text, to_json};
use crate::{Error, Manifest, ModelVersion, Result, Store};

/// A training job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id; ids sort by time.
    pub id: Uuid,
    /// What was asked for.
    pub spec: Value,
    /// The model that gets a version when it succeeds.
    pub model: Name,
    /// How far it is.
    pub state: JobState,
    /// What it said last of its progress.
    pub progress: Option<Value>,
    /// Why it ended without a version.
    pub error: Option<String>,
    /// The version that it made.
    pub result: Option<ModelVersionId>,
    /// Processor time so far, in seconds.
    pub cpu_seconds: f64,
    /// Energy so far; absent before the job's first word.
    pub energy: Option<Energy>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// How far a job is. A final state never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It is at work.
    Running,
    /// It made a version.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// Somebody stopped it.
    Cancelled,
    /// The server stopped before it ended.
    Interrupted,
}

impl JobState {
    const ALL: [JobState; 6] = [
        JobState::Queued,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Interrupted,
    ];

    /// The state as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Interrupted => "interrupted",
        }
    }

    /// Whether the job has ended.
    pub fn is_final(self) -> bool {
        !matches!(self, JobState::Queued | JobState::Running)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = Error;

    fn from_str(text: &str) -> Result<JobState> {
        JobState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let known = JobState::ALL.map(JobState::as_str).join(", ");
            Error::Invalid(format!("unknown job state {text:?}: use one of {known}"))
        })
    }
}

/// How a job ended that made no version.
#[derive(Debug, Clone)]
pub struct JobEnd {
    /// Failed, cancelled or interrupted.
    pub state: JobState,
    /// Why, for people.
    pub error: Option<String>,
    /// What it cost.
    pub cost: JobCost,
}

/// What a job cost.
#[derive(Debug, Clone, Default)]
pub struct JobCost {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Energy, if it is known.
    pub energy: Option<Energy>,
}

impl Store {
    /// Queues a job that is to make a version of `model`.
    pub async fn create_job(&self, model: &Name, spec: Value) -> Result<Job> {
        let job = Job {
            id: Uuid::now_v7(),
            spec,
            model: model.clone(),
            state: JobState::Queued,
            progress: None,
            error: None,
            result: None,
            cpu_seconds: 0.0,
            energy: None,
            created_at: now(),
            started_at: None,
            finished_at: None,
        };
        let mut tx = self.catalogue().write().await?;
        sqlx::query("INSERT INTO jobs (id, spec, model, state, cpu_seconds, created_at) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(job.id.to_string())
            .bind(to_json("job", &job.spec)?)
            .bind(job.model.as_str())
            .bind(job.state.as_str())
            .bind(job.cpu_seconds)
            .bind(time_text(job.created_at))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(job)
    }

    /// Marks a queued job as running; a conflict in any other state.
    pub async fn start_job(&self, id: Uuid) -> Result<Job> {
        let mut tx = self.catalogue().write().await?;
        let row = sqlx::query(
            "UPDATE jobs SET state = 'running', started_at = ? WHERE id = ? AND state = 'queued' RETURNING *",
        )
        .bind(time_text(now()))
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Err(refused(&mut tx, id).await?) };
        tx.commit().await?;
        decode(&row)
    }

    /// Keeps what a running job says of its progress, and what it has cost so far; a conflict in any other state.
    pub async fn job_progress(&self, id: Uuid, progress: &Value, cost: &JobCost) -> Result<()> {
        let energy = cost.encode()?;
        let mut tx = self.catalogue().write().await?;
        let updated =
            sqlx::query("UPDATE jobs SET progress = ?, cpu_seconds = ?, energy = ? WHERE id = ? AND state = 'running'")
                .bind(to_json("progress", progress)?)
                .bind(cost.cpu_seconds)
                .bind(energy)
                .bind(id.to_string())
                .execute(&mut *tx)
                .await?;
        if updated.rows_affected() == 0 {
            return Err(refused(&mut tx, id).await?);
        }
        Ok(tx.commit().await?)
    }

    /// Ends a job that made no version; a conflict when it has ended already.
    pub async fn end_job(&self, id: Uuid, end: JobEnd) -> Result<Job> {
        if !end.state.is_final() || end.state == JobState::Succeeded {
            return Err(Error::Invalid(format!(
                "a job without a version cannot end as {}: use failed, cancelled or interrupted",
                end.state
            )));
        }
        let energy = end.cost.encode()?;
        let mut tx = self.catalogue().write().await?;
        let row = sqlx::query(
            "UPDATE jobs SET state = ?, error = ?, cpu_seconds = ?, energy = ?, finished_at = ? \
             WHERE id = ? AND state IN ('queued', 'running') RETURNING *",
        )
        .bind(end.state.as_str())
        .bind(end.error)
        .bind(end.cost.cpu_seconds)
        .bind(energy)
        .bind(time_text(now()))
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Err(refused(&mut tx, id).await?) };
        tx.commit().await?;
        decode(&row)
    }

    /// Stores the model file of a running job as the next version of its model and ends the job, both or neither.
    pub async fn finish_job_with_version(
        &self,
        id: Uuid,
        onnx: &Path,
        cost: JobCost,
        make_manifest: impl FnOnce(Digest, u64) -> Manifest + Send,
    ) -> Result<ModelVersion> {
        let energy = cost.encode()?;
        let _import = self.begin_import().await;
        let (digest, bytes) = self.blobs().put_file(onnx).await?;
        let manifest = Manifest { digest, bytes, ..make_manifest(digest, bytes) };
        let mut tx = self.catalogue().write().await?;
        let model = sqlx::query("SELECT model FROM jobs WHERE id = ? AND state = 'running'")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(model) = model else { return Err(refused(&mut tx, id).await?) };
        let version = models::insert(&mut tx, &model.parsed("model")?, manifest).await?;
        sqlx::query(
            "UPDATE jobs SET state = 'succeeded', result_model = ?, result_version = ?, cpu_seconds = ?, energy = ?, \
             finished_at = ? WHERE id = ?",
        )
        .bind(version.model.as_str())
        .bind(version.version)
        .bind(cost.cpu_seconds)
        .bind(energy)
        .bind(time_text(now()))
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(version)
    }

    /// The job with this id.
    pub async fn job(&self, id: Uuid) -> Result<Job> {
        find(&mut *self.catalogue().read().await?, id).await?.ok_or_else(|| missing(id))
    }

    /// The latest jobs, the newest first, at most `limit` of them.
    pub async fn jobs(&self, limit: u32) -> Result<Vec<Job>> {
        let mut tx = self.catalogue().read().await?;
        let rows = sqlx::query("SELECT * FROM jobs ORDER BY id DESC LIMIT ?").bind(limit).fetch_all(&mut *tx).await?;
        rows.iter().map(decode).collect()
    }

    /// Marks all jobs that have not ended as interrupted and gives their ids: for a server that has just started, and
    /// so runs none.
    pub async fn interrupt_running_jobs(&self) -> Result<Vec<Uuid>> {
        let mut tx = self.catalogue().write().await?;
        let rows = sqlx::query(
            "UPDATE jobs SET state = 'interrupted', finished_at = ?, \
             error = 'the server stopped before the job ended: start it again' \
             WHERE state IN ('queued', 'running') RETURNING id",
        )
        .bind(time_text(now()))
        .fetch_all(&mut *tx)
        .await?;
        let ids = rows.iter().map(|row| row.parsed("id")).collect::<Result<_>>()?;
        tx.commit().await?;
        Ok(ids)
    }
}

impl JobCost {
    /// The energy as the catalogue keeps it.
    fn encode(&self) -> Result<Option<String>> {
        if !self.cpu_seconds.is_finite() {
            return Err(Error::Invalid("a job's processor time must be a finite number of seconds".into()));
        }
        self.energy.as_ref().map(|energy| to_json("energy", energy)).transpose()
    }
}

async fn find(tx: &mut SqliteConnection, id: Uuid) -> Result<Option<Job>> {
    let row = sqlx::query("SELECT * FROM jobs WHERE id = ?").bind(id.to_string()).fetch_optional(tx).await?;
    row.as_ref().map(decode).transpose()
}

/// Why an update found no row.
async fn refused(tx: &mut SqliteConnection, id: Uuid) -> Result<Error> {
    Ok(match find(tx, id).await? {
        None => missing(id),
        Some(job) => Error::Conflict(format!("job {id} is {} already: `wattle jobs show {id}` says more", job.state)),
    })
}

fn missing(id: Uuid) -> Error {
    Error::NotFound(format!("no job {id}: `wattle jobs list` shows what there is"))
}

fn decode(row: &SqliteRow) -> Result<Job> {
    let result = match row.optional_parsed("result_model")? {
        Some(model) => Some(ModelVersionId { model, version: row.unsigned("result_version")? }),
        None => None,
    };
    Ok(Job {
        id: row.parsed("id")?,
        spec: row.json("spec")?,
        model: row.parsed("model")?,
        state: row.parsed("state")?,
        progress: row.optional_json("progress")?,
        error: row.optional_text("error")?,
        result,
        cpu_seconds: row.try_get("cpu_seconds")?,
        energy: row.optional_json("energy")?,
        created_at: row.parsed("created_at")?,
        started_at: row.optional_parsed("started_at")?,
        finished_at: row.optional_parsed("finished_at")?,
    })
}
