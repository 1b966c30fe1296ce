use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use wattle_core::{Digest, Name, Schema};

use super::{Columns, names, not_found, now, signed, time_text, to_json};
use crate::{Error, Result, Store, blobs::digest_file, table::Overrides};

/// A table in its normal form, under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name.
    pub name: Name,
    /// The digest of the normal form.
    pub digest: Digest,
    /// How many rows it has.
    pub rows: u64,
    /// The size of the normal form, in bytes.
    pub bytes: u64,
    /// The name of the file that it came from, without its folders.
    pub source: String,
    /// How that file was read otherwise than inferred; files that a model of this data is to answer are read so too.
    #[serde(default, skip_serializing_if = "Overrides::is_default")]
    pub reading: Overrides,
    /// When it was added.
    pub created_at: DateTime<Utc>,
    /// Its columns.
    pub schema: Schema,
}

/// A data set to be stored.
#[derive(Debug, Clone)]
pub struct NewDataset {
    /// Its name.
    pub name: Name,
    /// Its columns.
    pub schema: Schema,
    /// How many rows it has.
    pub rows: u64,
    /// The file that it came from, as given; its folders are not kept.
    pub source: String,
    /// How that file was read otherwise than inferred.
    pub reading: Overrides,
    /// Whether it takes the place of other data of the same name.
    pub replace: bool,
}

impl Store {
    /// Stores a table that is in its normal form. To store the same again changes nothing.
    ///
    /// Other data under a name that is taken is a conflict, unless it is to be replaced. The same rows with other marks
    /// for missing values are other data, since files that come later would be read otherwise.
    pub async fn put_dataset(&self, new: NewDataset, parquet: &Path) -> Result<Dataset> {
        let NewDataset { name, schema, rows, source, reading, replace } = new;
        let (digest, bytes) = digest_file(parquet).await?;
        let _import = self.begin_import().await;
        // Asked before the bytes are written, and asked again when they are.
        if let Some(present) = find(&mut *self.catalogue().read().await?, &name).await?
            && !may_take(&present, digest, &reading, replace)?
        {
            return Ok(present);
        }
        self.blobs().put_known_file(parquet, digest, bytes).await?;
        let source = file_name(&source);
        let dataset = Dataset { name, digest, rows, bytes, source, reading, created_at: now(), schema };
        let mut tx = self.catalogue().write().await?;
        if let Some(present) = find(&mut tx, &dataset.name).await?
            && !may_take(&present, digest, &dataset.reading, replace)?
        {
            return Ok(present);
        }
        sqlx::query(
            "INSERT OR REPLACE INTO datasets (name, digest, rows, bytes, source, reading, schema, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(dataset.name.as_str())
        .bind(digest.to_string())
        .bind(signed(rows)?)
        .bind(signed(bytes)?)
        .bind(&dataset.source)
        .bind(to_json("reading", &dataset.reading)?)
        .bind(to_json("schema", &dataset.schema)?)
        .bind(time_text(dataset.created_at))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(dataset)
    }

    /// The data set of this name.
    pub async fn dataset(&self, name: &Name) -> Result<Dataset> {
        let mut tx = self.catalogue().read().await?;
        match find(&mut tx, name).await? {
            Some(dataset) => Ok(dataset),
            None => Err(missing(&mut tx, name).await?),
        }
    }

    /// All data sets, by name.
    pub async fn datasets(&self) -> Result<Vec<Dataset>> {
        let mut tx = self.catalogue().read().await?;
        let rows = sqlx::query("SELECT * FROM datasets ORDER BY name").fetch_all(&mut *tx).await?;
        rows.iter().map(decode).collect()
    }

    /// Forgets a data set; [`Store::gc`] removes its bytes when nothing else needs them.
    pub async fn remove_dataset(&self, name: &Name) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        let removed = sqlx::query("DELETE FROM datasets WHERE name = ?").bind(name.as_str()).execute(&mut *tx).await?;
        if removed.rows_affected() == 0 {
            return Err(missing(&mut tx, name).await?);
        }
        Ok(tx.commit().await?)
    }
}

/// Whether data with this digest, read like this, is to be written where `present` is.
fn may_take(present: &Dataset, digest: Digest, reading: &Overrides, replace: bool) -> Result<bool> {
    // The kinds are part of the digest, and the delimiter is of the file alone.
    if present.digest == digest && present.reading.missing == reading.missing {
        return Ok(false);
    }
    if replace {
        return Ok(true);
    }
    Err(Error::Conflict(format!(
        "the name {:?} is taken by other data ({}, {} rows): replace it, remove it first, or choose another name",
        present.name.as_str(),
        present.source,
        present.rows
    )))
}

/// The last part of a path of either kind of system, in at most 255 characters that are safe to print.
fn file_name(source: &str) -> String {
    let name = source.rsplit(['/', '\\']).next().unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).take(255).collect()
}

async fn find(connection: &mut SqliteConnection, name: &Name) -> Result<Option<Dataset>> {
    let row =
        sqlx::query("SELECT * FROM datasets WHERE name = ?").bind(name.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(decode).transpose()
}

async fn missing(connection: &mut SqliteConnection, name: &Name) -> Result<Error> {
    let names = names(connection, "SELECT name FROM datasets").await?;
    Ok(not_found("data set", name.as_str(), &names, "wattle data list"))
}

fn decode(row: &SqliteRow) -> Result<Dataset> {
    Ok(Dataset {
        name: row.parsed("name")?,
        digest: row.parsed("digest")?,
        rows: row.unsigned("rows")?,
        bytes: row.unsigned("bytes")?,
        source: row.text("source")?,
        reading: row.json("reading")?,
        created_at: row.parsed("created_at")?,
        schema: row.json("schema")?,
    })
}
