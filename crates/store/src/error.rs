use std::{error::Error as StdError, io};

use sqlx::{error::DatabaseError, migrate::MigrateError};

/// What went wrong in the store; the message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was given cannot be used as it is.
    #[error("{0}")]
    Invalid(String),
    /// Nothing has this name.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there already.
    #[error("{0}")]
    Conflict(String),
    /// It is larger than a limit.
    #[error("{0}")]
    TooLarge(String),
    /// No space is left on the disk, or the quota is used up.
    #[error("the disk is full: free some space, for example with `wattle gc`, and try again ({0})")]
    Full(String),
    /// The data folder cannot be used now: another server has it, it is from a newer version, or it is too busy.
    #[error("{0}")]
    Unavailable(String),
    /// What is stored is not what was stored.
    #[error("{0}")]
    Corrupt(String),
    /// A file could not be read or written.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The catalogue's database failed.
    #[error("the catalogue failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The store of blobs failed.
    #[error("the blob store failed: {0}")]
    Blob(#[source] object_store::Error),
}

/// A result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether this error, or one that it wraps, says that the disk is full.
pub(crate) fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return true;
            }
            // `io::Error::source` skips the error that it wraps and gives that one's source.
            if error.get_ref().is_some_and(|inner| is_full(inner)) {
                return true;
            }
        }
        if error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error).is_some_and(is_sqlite_full) {
            return true;
        }
        next = error.source();
    }
    false
}

fn is_sqlite_full(error: &dyn DatabaseError) -> bool {
    // SQLITE_FULL, <https://www.sqlite.org/rescode.html#full>
    error.code().is_some_and(|code| code == "13")
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        if is_full(&error) { Error::Full(error.to_string()) } else { Error::Io(error) }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        if is_full(&error) {
            return Error::Full(error.to_string());
        }
        match error {
            sqlx::Error::PoolTimedOut => Error::Unavailable("the catalogue is busy: try again in a few seconds".into()),
            error => Error::Database(error),
        }
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Error {
        if is_full(&error) { Error::Full(error.to_string()) } else { Error::Blob(error) }
    }
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Error {
        match error {
            MigrateError::VersionMissing(number) => Error::Unavailable(format!(
                "the catalogue was written by a newer wattle (its migration {number} is unknown here): use that version, or another --data-dir"
            )),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            error => Error::Corrupt(format!("the catalogue's migrations do not match this software: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stays_distinguishable_however_it_is_wrapped() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Error::from(full()), Error::Full(_)));
        assert!(matches!(Error::from(io::Error::other(full())), Error::Full(_)));
        assert!(matches!(Error::from(sqlx::Error::Io(full())), Error::Full(_)));
        let blob = object_store::Error::Generic { store: "test", source: Box::new(full()) };
        assert!(matches!(Error::from(blob), Error::Full(_)));
        assert!(matches!(Error::from(io::Error::from(io::ErrorKind::NotFound)), Error::Io(_)));
    }
}
