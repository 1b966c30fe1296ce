use serde::{Deserialize, Serialize};

/// What can keep a request from its answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// There is no such deployment, or none to choose without a name.
    #[error("{0}")]
    NotFound(String),
    /// The inputs do not fit the model.
    #[error("{0}")]
    Invalid(String),
    /// More requests wait than the bound allows, or the server is going away.
    #[error("{reason}: try again in {retry_after_seconds} s")]
    Busy {
        /// Why.
        reason: String,
        /// When it is worth to try again.
        retry_after_seconds: u64,
    },
    /// The tenant has as many requests here as it may.
    #[error("{reason}: try again in {retry_after_seconds} s")]
    TooMany {
        /// Why.
        reason: String,
        /// When it is worth to try again.
        retry_after_seconds: u64,
    },
    /// The request's own deadline passed before it was computed.
    #[error("the deadline passed before the call was computed: allow more time, or call when fewer do")]
    Expired,
    /// The model does not fit into the memory for models.
    #[error(
        "deployment {deployment} needs {needed_bytes} bytes of memory, and {} of the budget's {budget_bytes} can be had: raise --memory-budget, or unpin other models",
        .budget_bytes.saturating_sub(*.pinned_bytes)
    )]
    NoRoom {
        /// The deployment.
        deployment: String,
        /// What its model takes, or at least its file.
        needed_bytes: u64,
        /// What all models may take.
        budget_bytes: u64,
        /// What of it is pinned.
        pinned_bytes: u64,
    },
    /// The model cannot be loaded; the text says why.
    #[error("deployment {deployment} cannot be loaded: {reason}")]
    Load {
        /// The deployment.
        deployment: String,
        /// What loading said.
        reason: String,
    },
    /// The process that serves the model ended while it had the request.
    #[error("the process that serves deployment {deployment} ended: try again in 1 s, it is started again")]
    Crashed {
        /// The deployment.
        deployment: String,
    },
    /// What serves the model could not be reached, so that the call never began.
    #[error("what serves deployment {deployment} cannot be reached: try again in 1 s")]
    Unreached {
        /// The deployment.
        deployment: String,
    },
    /// The model failed on these inputs.
    #[error("{0}")]
    Run(String),
    /// A bug of ours; the text is for the log.
    #[error("internal error in serving: {0}")]
    Internal(String),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
