use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use wattle_core::{ModelReference, ModelVersionId, Name};

use super::{Columns, deployments, models, now, time_text, to_json};
use crate::{Error, Result, Settings, Store};

/// What a deployment can answer with: a version of a model and how it is served. It never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number within its deployment, from 1.
    pub revision: u32,
    /// The model.
    pub model: Name,
    /// The version.
    pub version: u32,
    /// What was asked for: `line`, `line:3` or `line@champion`.
    pub reference: ModelReference,
    /// How it is served.
    pub settings: Settings,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A revision to be stored.
#[derive(Debug, Clone)]
pub struct NewRevision {
    /// The deployment, which may not exist yet.
    pub deployment: Name,
    /// The model.
    pub model: Name,
    /// The version that the reference was resolved to.
    pub version: u32,
    /// What was asked for.
    pub reference: ModelReference,
    /// How it is to be served.
    pub settings: Settings,
}

impl Revision {
    /// The model and its version.
    pub fn id(&self) -> ModelVersionId {
        ModelVersionId { model: self.model.clone(), version: self.version }
    }
}

impl Store {
    /// The revision of this version and these settings: the one that the deployment has in its traffic or as its shadow,
    /// and otherwise the next one, which nobody calls yet.
    pub async fn add_revision(&self, new: NewRevision) -> Result<Revision> {
        new.settings.check()?;
        let mut tx = self.catalogue().write().await?;
        let id = ModelVersionId { model: new.model, version: new.version };
        models::expect_version(&mut tx, &id).await?;
        let present = deployments::find(&mut tx, &new.deployment).await?.map(|present| present.revisions);
        let same = |one: &Revision| one.id() == id && one.settings == new.settings;
        if let Some(same) = present.into_iter().flatten().find(same) {
            return Ok(same);
        }
        let number: i64 = sqlx::query_scalar("SELECT ifnull(max(revision), 0) + 1 FROM revisions WHERE deployment = ?")
            .bind(new.deployment.as_str())
            .fetch_one(&mut *tx)
            .await?;
        let revision = Revision {
            revision: u32::try_from(number).map_err(|_| {
                Error::TooLarge(format!("deployment {} has no numbers left: choose another name", new.deployment))
            })?,
            model: id.model,
            version: id.version,
            reference: new.reference,
            settings: new.settings,
            created_at: now(),
        };
        sqlx::query(
            "INSERT INTO revisions (deployment, revision, model, version, reference, settings, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(new.deployment.as_str())
        .bind(revision.revision)
        .bind(revision.model.as_str())
        .bind(revision.version)
        .bind(revision.reference.to_string())
        .bind(to_json("settings", &revision.settings)?)
        .bind(time_text(revision.created_at))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(revision)
    }
}

/// All revisions of the deployments of this name, in ascending order.
pub(super) async fn all_of(tx: &mut SqliteConnection, deployment: &Name) -> Result<Vec<Revision>> {
    let query = sqlx::query("SELECT * FROM revisions WHERE deployment = ? ORDER BY revision");
    query.bind(deployment.as_str()).fetch_all(tx).await?.iter().map(decode).collect()
}

/// The revision of this number.
pub(super) async fn one_of(tx: &mut SqliteConnection, deployment: &Name, revision: u32) -> Result<Revision> {
    let query = sqlx::query("SELECT * FROM revisions WHERE deployment = ? AND revision = ?");
    let row = query.bind(deployment.as_str()).bind(revision).fetch_optional(tx).await?;
    let row = row.ok_or_else(|| Error::NotFound(format!("deployment {deployment} has no revision {revision}")))?;
    decode(&row)
}

fn decode(row: &SqliteRow) -> Result<Revision> {
    Ok(Revision {
        revision: row.unsigned("revision")?,
        model: row.parsed("model")?,
        version: row.unsigned("version")?,
        reference: row.parsed("reference")?,
        settings: row.json("settings")?,
        created_at: row.parsed("created_at")?,
    })
}
