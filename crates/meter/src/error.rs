use std::{io, path::PathBuf};

/// What can go wrong between a sensor and the ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the sensor makes no sense; the text says what to change.
    #[error("{0}")]
    InvalidConfig(String),
    /// A clock or an energy counter cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Sensor {
        /// The file that was read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A clock or an energy counter reads as something else than a number.
    #[error("{} does not read as expected: {text:?}", .path.display())]
    SensorText {
        /// The file that was read.
        path: PathBuf,
        /// What it held, shortened.
        text: String,
    },
    /// The disk is full: nothing was lost, the sums wait in memory.
    #[error("the disk that holds the energy ledger is full: free some space")]
    DiskFull,
    /// The meter was shut down, so its ledger is closed.
    #[error("the meter is shutting down: try again once the server is back")]
    Closed,
    /// The ledger's file is not one, or holds what this version does not know.
    #[error("the energy ledger is damaged ({0}): move ledger.sqlite away, and a new one is started")]
    Damaged(String),
    /// The ledger failed in another way.
    #[error("the energy ledger failed: {0}")]
    Ledger(sqlx::Error),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        match &error {
            sqlx::Error::Io(io) if io.kind() == io::ErrorKind::StorageFull => Error::DiskFull,
            sqlx::Error::PoolClosed => Error::Closed,
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE: the write-ahead log's index did not find room.
                Some("13" | "4874") => Error::DiskFull,
                // SQLITE_CORRUPT and SQLITE_NOTADB.
                Some("11" | "26") => Error::Damaged(database.message().to_owned()),
                _ => Error::Ledger(error),
            },
            _ => Error::Ledger(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Error {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            sqlx::migrate::MigrateError::ExecuteMigration(error, _) => error.into(),
            other => Error::Damaged(other.to_string()),
        }
    }
}
