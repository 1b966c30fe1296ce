//! The catalogue: what the blobs are. One file per noun, each with its record and the operations on it.

pub(crate) mod aliases;
pub(crate) mod datasets;
pub(crate) mod deployments;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod models;
pub(crate) mod revisions;

use std::{path::Path, time::Duration};

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use wattle_core::nearest;

use crate::{Error, Result};

/// How long to wait for the database before calling it busy.
const BUSY: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

/// The database. SQLite has one writer at a time, so writers queue for one connection rather than poll for its lock.
#[derive(Debug)]
pub(crate) struct Catalogue {
    readers: SqlitePool,
    writer: SqlitePool,
}

impl Catalogue {
    pub(crate) async fn open(path: &Path) -> Result<Catalogue> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let pool = || {
            SqlitePoolOptions::new().acquire_timeout(BUSY).before_acquire(|connection, _| {
                // A full disk ends a transaction behind the library's back, which then holds the connection to be in one.
                let usable = !connection.is_in_transaction();
                Box::pin(std::future::ready(Ok(usable)))
            })
        };
        let writer = pool().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!().run(&writer).await?;
        let readers = pool().max_connections(READERS).connect_with(options.pragma("query_only", "ON")).await?;
        Ok(Catalogue { readers, writer })
    }

    /// A view of one instant.
    pub(crate) async fn read(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.readers.begin().await?)
    }

    /// All or nothing; dropped without a commit, it was nothing.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        // Immediate, since a transaction that reads first and writes later could find that its view has aged.
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The time, as precise as the catalogue keeps it.
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

pub(crate) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// JSON that is known to read back: a number that is not finite would become a null that is no number.
pub(crate) fn to_json<T: Serialize + DeserializeOwned>(what: &str, value: &T) -> Result<String> {
    let invalid =
        |error| Error::Invalid(format!("the {what} cannot be kept as JSON, are all its numbers finite? ({error})"));
    let text = serde_json::to_string(value).map_err(invalid)?;
    serde_json::from_str::<T>(&text).map_err(invalid)?;
    Ok(text)
}

/// The names or numbers in the first column, for messages.
pub(crate) async fn names(connection: &mut SqliteConnection, query: &'static str) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(query).fetch_all(connection).await?)
}

/// That nothing has this name, and what does.
pub(crate) fn not_found(what: &str, name: &str, names: &[String], list: &str) -> Error {
    Error::NotFound(match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("no {what} is named {name:?}: did you mean {near:?}?"),
        None if names.is_empty() => format!("no {what} is named {name:?}: there is none yet"),
        None => format!("no {what} is named {name:?}: `{list}` shows what there is"),
    })
}

/// Reads the columns of our own rows.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String>;
    fn optional_text(&self, column: &str) -> Result<Option<String>>;
    fn integer(&self, column: &str) -> Result<i64>;
    fn optional_integer(&self, column: &str) -> Result<Option<i64>>;

    /// A text that is the written form of something: a name, a digest, a time.
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<T> {
        self.text(column)?.parse().map_err(|error| corrupt(column, error))
    }

    fn optional_parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&self, column: &str) -> Result<Option<T>> {
        self.optional_text(column)?.map(|text| text.parse().map_err(|error| corrupt(column, error))).transpose()
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| corrupt(column, error))
    }

    fn optional_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>> {
        let text = self.optional_text(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| corrupt(column, error))).transpose()
    }

    fn unsigned<T: TryFrom<i64, Error: std::fmt::Display>>(&self, column: &str) -> Result<T> {
        self.integer(column)?.try_into().map_err(|error| corrupt(column, error))
    }

    fn optional_unsigned<T: TryFrom<i64, Error: std::fmt::Display>>(&self, column: &str) -> Result<Option<T>> {
        self.optional_integer(column)?.map(|value| value.try_into().map_err(|error| corrupt(column, error))).transpose()
    }
}

impl Columns for SqliteRow {
    fn text(&self, column: &str) -> Result<String> {
        Ok(self.try_get(column)?)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>> {
        Ok(self.try_get(column)?)
    }

    fn integer(&self, column: &str) -> Result<i64> {
        Ok(self.try_get(column)?)
    }

    fn optional_integer(&self, column: &str) -> Result<Option<i64>> {
        Ok(self.try_get(column)?)
    }
}

/// A count as SQLite keeps it.
pub(crate) fn signed(count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|_| Error::TooLarge(format!("{count} is more than the catalogue can count")))
}

fn corrupt(column: &str, error: impl std::fmt::Display) -> Error {
    Error::Corrupt(format!("the catalogue holds an unreadable {column}: restore it from a copy ({error})"))
}
