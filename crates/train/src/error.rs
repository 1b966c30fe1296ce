use std::io;

/// What can go wrong between a data set and a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request, or the data, does not allow this training.
    #[error("{0}")]
    Invalid(String),
    /// There is no such job.
    #[error("{0}")]
    NotFound(String),
    /// The job's state does not allow this.
    #[error("{0}")]
    Conflict(String),
    /// Too many jobs are waiting already.
    #[error("{0}")]
    Busy(String),
    /// The loss grew without bound instead of falling.
    #[error(
        "the loss grew without bound within {iterations} iterations: lower the learning rate, or standardise the features"
    )]
    Diverged {
        /// Iterations done before it was seen.
        iterations: u64,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Reading or writing failed.
    #[error("reading or writing training data failed: {0}")]
    Io(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] wattle_store::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] wattle_engine::Error),
    /// A bug of ours; the text is for the log.
    #[error("internal error in training: {0}")]
    Internal(String),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
