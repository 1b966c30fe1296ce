use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use wattle_core::{ModelReference, ModelVersionId, Name};

use super::{Columns, models, names, not_found, now, time_text};
use crate::{Error, Result, Store};

/// A version of a model that is to be served under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name, which is part of its address.
    pub name: Name,
    /// The model.
    pub model: Name,
    /// The version, which stays when an alias moves or a new version comes.
    pub version: u32,
    /// What was asked for: `line`, `line:3` or `line@champion`.
    pub reference: ModelReference,
    /// Whether it answers calls that name no deployment; true of one at most.
    pub default: bool,
    /// When this version was deployed under this name.
    pub created_at: DateTime<Utc>,
}

/// A deployment to be stored.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// Its name.
    pub name: Name,
    /// The model.
    pub model: Name,
    /// The version that the reference was resolved to.
    pub version: u32,
    /// What was asked for.
    pub reference: ModelReference,
    /// Whether it becomes the default, instead of the one that is.
    pub default: bool,
}

impl Store {
    /// Stores a deployment, which takes the place of another version under the same name.
    ///
    /// To deploy the same version again only renews the reference. The default mark is lost to another deployment that
    /// asks for it, never by deploying again without asking for it.
    pub async fn put_deployment(&self, new: NewDeployment) -> Result<Deployment> {
        let mut tx = self.catalogue().write().await?;
        let id = ModelVersionId { model: new.model, version: new.version };
        models::expect_version(&mut tx, &id).await?;
        let present = find(&mut tx, &new.name).await?;
        let same = present.as_ref().filter(|present| present.model == id.model && present.version == id.version);
        let deployment = Deployment {
            created_at: same.map_or_else(now, |same| same.created_at),
            default: new.default || present.is_some_and(|present| present.default),
            name: new.name,
            model: id.model,
            version: id.version,
            reference: new.reference,
        };
        if deployment.default {
            sqlx::query("UPDATE deployments SET is_default = 0 WHERE is_default = 1").execute(&mut *tx).await?;
        }
        sqlx::query(
            "INSERT INTO deployments (name, model, version, reference, is_default, created_at) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET model = excluded.model, version = excluded.version, \
             reference = excluded.reference, is_default = excluded.is_default, created_at = excluded.created_at",
        )
        .bind(deployment.name.as_str())
        .bind(deployment.model.as_str())
        .bind(deployment.version)
        .bind(deployment.reference.to_string())
        .bind(deployment.default)
        .bind(time_text(deployment.created_at))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(deployment)
    }

    /// All deployments, by name.
    pub async fn deployments(&self) -> Result<Vec<Deployment>> {
        let mut tx = self.catalogue().read().await?;
        let rows = sqlx::query("SELECT * FROM deployments ORDER BY name").fetch_all(&mut *tx).await?;
        rows.iter().map(decode).collect()
    }

    /// Removes a deployment; its version stays.
    pub async fn remove_deployment(&self, name: &Name) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        let removed =
            sqlx::query("DELETE FROM deployments WHERE name = ?").bind(name.as_str()).execute(&mut *tx).await?;
        if removed.rows_affected() == 0 {
            return Err(missing(&mut tx, name).await?);
        }
        Ok(tx.commit().await?)
    }
}

async fn find(tx: &mut SqliteConnection, name: &Name) -> Result<Option<Deployment>> {
    let row = sqlx::query("SELECT * FROM deployments WHERE name = ?").bind(name.as_str()).fetch_optional(tx).await?;
    row.as_ref().map(decode).transpose()
}

async fn missing(tx: &mut SqliteConnection, name: &Name) -> Result<Error> {
    let names = names(tx, "SELECT name FROM deployments").await?;
    Ok(not_found("deployment", name.as_str(), &names, "wattle ps"))
}

fn decode(row: &SqliteRow) -> Result<Deployment> {
    Ok(Deployment {
        name: row.parsed("name")?,
        model: row.parsed("model")?,
        version: row.unsigned("version")?,
        reference: row.parsed("reference")?,
        default: row.integer("is_default")? != 0,
        created_at: row.parsed("created_at")?,
    })
}
