use std::{collections::BTreeMap, path::Path};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use wattle_core::{Digest, ModelReference, ModelVersionId, Name, Selector};

use super::{Columns, aliases, deployments, names, not_found, now, signed, time_text, to_json};
use crate::{Error, Manifest, Result, Store};

/// A model: its versions and the aliases that name some of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: Name,
    /// When its first version was stored.
    pub created_at: DateTime<Utc>,
    /// The highest version.
    pub latest: u32,
    /// All versions, in ascending order.
    pub versions: Vec<u32>,
    /// Which version each alias names.
    pub aliases: BTreeMap<Name, u32>,
}

/// One immutable version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// The model.
    pub model: Name,
    /// The version's number, from 1.
    pub version: u32,
    /// What is known of it.
    #[serde(flatten)]
    pub manifest: Manifest,
}

impl ModelVersion {
    /// The model and the number.
    pub fn id(&self) -> ModelVersionId {
        ModelVersionId { model: self.model.clone(), version: self.version }
    }
}

impl Store {
    /// Stores a model file as the next version of `model`, which is made if it is new.
    ///
    /// The digest and the size of the file are handed to `make_manifest`. Numbers start at 1 and are never used again,
    /// also when their version or the whole model was removed.
    pub async fn commit_version(
        &self,
        model: &Name,
        onnx: &Path,
        make_manifest: impl FnOnce(Digest, u64) -> Manifest + Send,
    ) -> Result<ModelVersion> {
        let _import = self.begin_import().await;
        let (digest, bytes) = self.blobs().put_file(onnx).await?;
        let manifest = Manifest { digest, bytes, ..make_manifest(digest, bytes) };
        let mut tx = self.catalogue().write().await?;
        let version = insert(&mut tx, model, manifest).await?;
        tx.commit().await?;
        Ok(version)
    }

    /// Takes over a version that another store made, number and all. Its file stays where it is, and has to: what is stored
    /// is a link. A version that is there already is left as it is.
    ///
    /// # Errors
    /// If the file has not the size that the version says, or another version has the number.
    pub async fn adopt_version(&self, version: &ModelVersion, file: &Path) -> Result<()> {
        let _import = self.begin_import().await;
        let manifest = &version.manifest;
        self.blobs().link(manifest.digest, manifest.bytes, file).await?;
        let mut tx = self.catalogue().write().await?;
        let there = sqlx::query("SELECT * FROM versions WHERE model = ? AND version = ?")
            .bind(version.model.as_str())
            .bind(version.version)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some(there) = there {
            let there = decode(&there)?.manifest.digest;
            return match there == manifest.digest {
                true => Ok(()),
                false => Err(Error::Conflict(format!(
                    "{}:{} is {there} here already, and not {}",
                    version.model, version.version, manifest.digest
                ))),
            };
        }
        insert_model(&mut tx, &version.model).await?;
        sqlx::query(
            "INSERT INTO version_counters (model, last) VALUES (?1, ?2) \
             ON CONFLICT (model) DO UPDATE SET last = max(last, ?2)",
        )
        .bind(version.model.as_str())
        .bind(version.version)
        .execute(&mut *tx)
        .await?;
        insert_numbered(&mut tx, version).await?;
        Ok(tx.commit().await?)
    }

    /// The model of this name.
    pub async fn model(&self, name: &Name) -> Result<Model> {
        let mut tx = self.catalogue().read().await?;
        match select(&mut tx, Some(name)).await?.pop() {
            Some(model) => Ok(model),
            None => Err(missing_model(&mut tx, name).await?),
        }
    }

    /// All models, by name.
    pub async fn models(&self) -> Result<Vec<Model>> {
        select(&mut *self.catalogue().read().await?, None).await
    }

    /// This version.
    pub async fn version(&self, id: &ModelVersionId) -> Result<ModelVersion> {
        let selector = Selector::Version(id.version);
        self.resolve(&ModelReference { model: id.model.clone(), selector }).await
    }

    /// The version that is meant now: of an alias or of "the latest", that may be another one tomorrow.
    pub async fn resolve(&self, reference: &ModelReference) -> Result<ModelVersion> {
        let mut tx = self.catalogue().read().await?;
        let model = &reference.model;
        let query = match &reference.selector {
            Selector::Latest => {
                sqlx::query("SELECT * FROM versions WHERE model = ? ORDER BY version DESC LIMIT 1").bind(model.as_str())
            }
            Selector::Version(version) => sqlx::query("SELECT * FROM versions WHERE model = ? AND version = ?")
                .bind(model.as_str())
                .bind(*version),
            Selector::Alias(alias) => sqlx::query(
                "SELECT versions.* FROM versions JOIN aliases USING (model, version) WHERE model = ? AND alias = ?",
            )
            .bind(model.as_str())
            .bind(alias.as_str()),
        };
        if let Some(row) = query.fetch_optional(&mut *tx).await? {
            return decode(&row);
        }
        Err(match &reference.selector {
            Selector::Latest => missing_model(&mut tx, model).await?,
            Selector::Version(version) => missing_version(&mut tx, model, *version).await?,
            Selector::Alias(alias) => aliases::missing(&mut tx, model, alias).await?,
        })
    }

    /// Forgets a version and the aliases that name it, and with its last version the model.
    ///
    /// A conflict while a deployment uses it or could be rolled back to it. [`Store::gc`] removes the bytes.
    pub async fn remove_version(&self, id: &ModelVersionId) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        delete_version(&mut tx, id).await?;
        sqlx::query("DELETE FROM models WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM versions WHERE model = ?1)")
            .bind(id.model.as_str())
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Forgets a model with all its versions and aliases; a conflict while a deployment needs one of them.
    pub async fn remove_model(&self, name: &Name) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        let Some(model) = select(&mut tx, Some(name)).await?.pop() else {
            return Err(missing_model(&mut tx, name).await?);
        };
        for version in model.versions {
            delete_version(&mut tx, &ModelVersionId { model: name.clone(), version }).await?;
        }
        sqlx::query("DELETE FROM models WHERE name = ?").bind(name.as_str()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

/// Writes the next version of a model into the catalogue.
pub(super) async fn insert(tx: &mut SqliteConnection, model: &Name, manifest: Manifest) -> Result<ModelVersion> {
    insert_model(&mut *tx, model).await?;
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO version_counters (model, last) VALUES (?, 1) ON CONFLICT (model) DO UPDATE SET last = last + 1 RETURNING last",
    )
    .bind(model.as_str())
    .fetch_one(&mut *tx)
    .await?;
    let version = u32::try_from(number)
        .map_err(|_| Error::TooLarge(format!("model {model} has no numbers left: choose another name")))?;
    let version = ModelVersion { model: model.clone(), version, manifest };
    insert_numbered(tx, &version).await?;
    Ok(version)
}

async fn insert_model(tx: &mut SqliteConnection, model: &Name) -> Result<()> {
    sqlx::query("INSERT INTO models (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(model.as_str())
        .bind(time_text(now()))
        .execute(tx)
        .await?;
    Ok(())
}

async fn insert_numbered(tx: &mut SqliteConnection, version: &ModelVersion) -> Result<()> {
    let manifest = &version.manifest;
    sqlx::query("INSERT INTO versions (model, version, digest, bytes, manifest) VALUES (?, ?, ?, ?, ?)")
        .bind(version.model.as_str())
        .bind(version.version)
        .bind(manifest.digest.to_string())
        .bind(signed(manifest.bytes)?)
        .bind(to_json("manifest", manifest)?)
        .execute(tx)
        .await?;
    Ok(())
}

/// An error unless there is such a version.
pub(crate) async fn expect_version(tx: &mut SqliteConnection, id: &ModelVersionId) -> Result<()> {
    let found = sqlx::query("SELECT 1 FROM versions WHERE model = ? AND version = ?")
        .bind(id.model.as_str())
        .bind(id.version)
        .fetch_optional(&mut *tx)
        .await?;
    match found {
        Some(_) => Ok(()),
        None => Err(missing_version(tx, &id.model, id.version).await?),
    }
}

pub(super) async fn missing_model(tx: &mut SqliteConnection, name: &Name) -> Result<Error> {
    let names = names(tx, "SELECT name FROM models").await?;
    Ok(not_found("model", name.as_str(), &names, "wattle models list"))
}

async fn missing_version(tx: &mut SqliteConnection, model: &Name, version: u32) -> Result<Error> {
    Ok(match select(tx, Some(model)).await?.pop() {
        None => missing_model(tx, model).await?,
        Some(Model { latest, .. }) => {
            Error::NotFound(format!("model {model} has no version {version}: its latest is {model}:{latest}"))
        }
    })
}

async fn delete_version(tx: &mut SqliteConnection, id: &ModelVersionId) -> Result<()> {
    expect_version(tx, id).await?;
    if let Some(need) = deployments::need_of(tx, id).await? {
        return Err(Error::Conflict(need));
    }
    aliases::remove_of_version(tx, id).await?;
    sqlx::query("DELETE FROM versions WHERE model = ? AND version = ?")
        .bind(id.model.as_str())
        .bind(id.version)
        .execute(tx)
        .await?;
    Ok(())
}

/// One model, or all of them, by name.
async fn select(tx: &mut SqliteConnection, name: Option<&Name>) -> Result<Vec<Model>> {
    let name = name.map(Name::as_str);
    let rows = sqlx::query("SELECT * FROM models WHERE ?1 IS NULL OR name = ?1 ORDER BY name")
        .bind(name)
        .fetch_all(&mut *tx)
        .await?;
    let mut models = Vec::with_capacity(rows.len());
    let mut places = BTreeMap::new();
    for row in &rows {
        let name: Name = row.parsed("name")?;
        places.insert(name.clone(), models.len());
        let created_at = row.parsed("created_at")?;
        models.push(Model { name, created_at, latest: 0, versions: Vec::new(), aliases: BTreeMap::new() });
    }
    let rows = sqlx::query("SELECT model, version FROM versions WHERE ?1 IS NULL OR model = ?1 ORDER BY version")
        .bind(name)
        .fetch_all(&mut *tx)
        .await?;
    for row in &rows {
        if let Some(place) = places.get(&row.parsed::<Name>("model")?) {
            let version = row.unsigned("version")?;
            models[*place].latest = version;
            models[*place].versions.push(version);
        }
    }
    let rows = sqlx::query("SELECT model, alias, version FROM aliases WHERE ?1 IS NULL OR model = ?1")
        .bind(name)
        .fetch_all(tx)
        .await?;
    for row in &rows {
        if let Some(place) = places.get(&row.parsed::<Name>("model")?) {
            models[*place].aliases.insert(row.parsed("alias")?, row.unsigned("version")?);
        }
    }
    Ok(models)
}

pub(crate) fn decode(row: &SqliteRow) -> Result<ModelVersion> {
    Ok(ModelVersion { model: row.parsed("model")?, version: row.unsigned("version")?, manifest: row.json("manifest")? })
}
