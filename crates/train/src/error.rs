use std::io;

/// What can go wrong between a data set and a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request, or the data, does not allow this training.
    #[error("{0}")]
    Invalid(String),
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
    #[error("{}", io_text(.0))]
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

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the server's disk is full: free space there (`wattle gc` removes what nothing refers to), then train again"
                .into()
        }
        _ => format!("reading or writing training data failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let text = Error::from(io::Error::from(io::ErrorKind::StorageFull)).to_string();
        assert!(text.contains("wattle gc"), "{text}");
        let text = Error::from(io::Error::other("torn cable")).to_string();
        assert!(text.contains("torn cable"), "{text}");
    }
}
