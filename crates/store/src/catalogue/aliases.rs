use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use wattle_core::{ModelVersionId, Name};

use super::{Columns, models, not_found, now, time_text};
use crate::{Error, Result, Store};

/// One move of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasChange {
    /// The alias.
    pub alias: Name,
    /// The version that it named before, if it was set.
    pub from: Option<u32>,
    /// The version that it named then, unless it was removed.
    pub to: Option<u32>,
    /// When it moved.
    pub at: DateTime<Utc>,
}

impl Store {
    /// Lets an alias name this version. To set what is set already leaves no trace in the history.
    pub async fn set_alias(&self, model: &Name, alias: &Name, version: u32) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        models::expect_version(&mut tx, &ModelVersionId { model: model.clone(), version }).await?;
        let from = find(&mut tx, model, alias).await?;
        if from == Some(version) {
            return Ok(());
        }
        sqlx::query("INSERT OR REPLACE INTO aliases (model, alias, version) VALUES (?, ?, ?)")
            .bind(model.as_str())
            .bind(alias.as_str())
            .bind(version)
            .execute(&mut *tx)
            .await?;
        record(&mut tx, model, alias.as_str(), from, Some(version)).await?;
        Ok(tx.commit().await?)
    }

    /// Removes an alias; the version that it named stays.
    pub async fn remove_alias(&self, model: &Name, alias: &Name) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        let Some(from) = find(&mut tx, model, alias).await? else {
            return Err(missing(&mut tx, model, alias).await?);
        };
        sqlx::query("DELETE FROM aliases WHERE model = ? AND alias = ?")
            .bind(model.as_str())
            .bind(alias.as_str())
            .execute(&mut *tx)
            .await?;
        record(&mut tx, model, alias.as_str(), Some(from), None).await?;
        Ok(tx.commit().await?)
    }

    /// All moves of a model's aliases, the oldest first; also of a model that was removed.
    pub async fn alias_history(&self, model: &Name) -> Result<Vec<AliasChange>> {
        let mut tx = self.catalogue().read().await?;
        let rows = sqlx::query("SELECT * FROM alias_changes WHERE model = ? ORDER BY id")
            .bind(model.as_str())
            .fetch_all(&mut *tx)
            .await?;
        if rows.is_empty() {
            let known = sqlx::query("SELECT 1 FROM models WHERE name = ?").bind(model.as_str());
            if known.fetch_optional(&mut *tx).await?.is_none() {
                return Err(models::missing_model(&mut tx, model).await?);
            }
        }
        rows.iter()
            .map(|row| {
                Ok(AliasChange {
                    alias: row.parsed("alias")?,
                    from: row.optional_unsigned("old_version")?,
                    to: row.optional_unsigned("new_version")?,
                    at: row.parsed("changed_at")?,
                })
            })
            .collect()
    }
}

pub(super) async fn missing(tx: &mut SqliteConnection, model: &Name, alias: &Name) -> Result<Error> {
    let known = sqlx::query("SELECT 1 FROM models WHERE name = ?").bind(model.as_str());
    if known.fetch_optional(&mut *tx).await?.is_none() {
        return models::missing_model(tx, model).await;
    }
    let names: Vec<String> =
        sqlx::query_scalar("SELECT alias FROM aliases WHERE model = ?").bind(model.as_str()).fetch_all(tx).await?;
    let what = format!("alias of model {model}");
    Ok(not_found(&what, alias.as_str(), &names, &format!("wattle models show {model}")))
}

/// Removes the aliases that name a version which is about to go.
pub(super) async fn remove_of_version(tx: &mut SqliteConnection, id: &ModelVersionId) -> Result<()> {
    let gone: Vec<String> = sqlx::query_scalar("DELETE FROM aliases WHERE model = ? AND version = ? RETURNING alias")
        .bind(id.model.as_str())
        .bind(id.version)
        .fetch_all(&mut *tx)
        .await?;
    for alias in gone {
        record(tx, &id.model, &alias, Some(id.version), None).await?;
    }
    Ok(())
}

async fn find(tx: &mut SqliteConnection, model: &Name, alias: &Name) -> Result<Option<u32>> {
    let version = sqlx::query_scalar("SELECT version FROM aliases WHERE model = ? AND alias = ?")
        .bind(model.as_str())
        .bind(alias.as_str())
        .fetch_optional(tx)
        .await?;
    Ok(version)
}

async fn record(
    tx: &mut SqliteConnection,
    model: &Name,
    alias: &str,
    from: Option<u32>,
    to: Option<u32>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO alias_changes (model, alias, old_version, new_version, changed_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(model.as_str())
    .bind(alias)
    .bind(from)
    .bind(to)
    .bind(time_text(now()))
    .execute(tx)
    .await?;
    Ok(())
}
