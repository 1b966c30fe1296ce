/// What can keep a request from its answer.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// The model cannot be loaded; the text says why.
    #[error("deployment {deployment} cannot be loaded: {reason}")]
    Load {
        /// The deployment.
        deployment: String,
        /// What loading said.
        reason: String,
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
