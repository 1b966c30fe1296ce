//! What a caller is told when something fails, and the one table from errors to codes.

use std::io;

use crate::request;

/// Why a call failed, in terms that every protocol can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request itself is wrong.
    InvalidArgument,
    /// What it names does not exist.
    NotFound,
    /// It contradicts what exists.
    Conflict,
    /// It is larger than the server takes.
    TooLarge,
    /// Its content type or feature is not supported.
    Unsupported,
    /// Another site's page sent it.
    Forbidden,
    /// The caller took too long to send it.
    Timeout,
    /// The caller asks for more than its share.
    TooMany,
    /// The server cannot answer now.
    Unavailable,
    /// The caller's own deadline passed.
    Expired,
    /// The server's disk is full.
    OutOfSpace,
    /// A bug or a broken machine; the log has the details.
    Internal,
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Why.
    pub code: Code,
    /// What the caller reads: what is wrong and what to do next.
    pub message: String,
    /// When it is worth to try again, in seconds.
    pub retry_after_seconds: Option<u64>,
}

/// What is told of a failure whose details only the log has.
const LOGGED: &str = "internal error: the server's log has the details";

/// The result of a call.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    /// An error with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), retry_after_seconds: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(Code::InvalidArgument, message)
    }

    /// A failure whose details belong into the log and not into the answer.
    pub fn internal(error: impl std::fmt::Display) -> ApiError {
        request::log(|| tracing::error!(%error, "internal error"));
        ApiError::new(Code::Internal, LOGGED)
    }

    /// Whether the log has the failure already, with its details.
    pub(crate) fn is_logged(&self) -> bool {
        self.message == LOGGED
    }
}

impl From<wattle_core::ParseError> for ApiError {
    fn from(error: wattle_core::ParseError) -> ApiError {
        ApiError::invalid(error.0)
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> ApiError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ApiError::new(
                Code::OutOfSpace,
                "the server's disk is full: free space there (`wattle gc` removes what nothing refers to)",
            ),
            _ => ApiError::internal(error),
        }
    }
}

impl From<wattle_store::Error> for ApiError {
    fn from(error: wattle_store::Error) -> ApiError {
        use wattle_store::Error;
        match error {
            Error::Invalid(message) => ApiError::invalid(message),
            Error::NotFound(message) => ApiError::new(Code::NotFound, message),
            Error::Conflict(message) => ApiError::new(Code::Conflict, message),
            Error::TooLarge(message) => ApiError::new(Code::TooLarge, message),
            Error::Full(_) => io::Error::from(io::ErrorKind::StorageFull).into(),
            Error::Unavailable(message) => ApiError::new(Code::Unavailable, message),
            Error::Io(error) => error.into(),
            other => ApiError::internal(other),
        }
    }
}

impl From<wattle_engine::Error> for ApiError {
    fn from(error: wattle_engine::Error) -> ApiError {
        use wattle_engine::Error;
        let message = error.to_string();
        let code = match error {
            Error::Io(error) => return error.into(),
            Error::InvalidModel(_) | Error::InvalidInput(_) => Code::InvalidArgument,
            Error::RuntimeMissing { .. } | Error::RuntimeBroken { .. } => Code::Unavailable,
            Error::Run(_) => Code::Internal,
        };
        ApiError::new(code, message)
    }
}

impl From<wattle_serve::Error> for ApiError {
    fn from(error: wattle_serve::Error) -> ApiError {
        use wattle_serve::Error;
        let message = error.to_string();
        match error {
            Error::NotFound(_) => ApiError::new(Code::NotFound, message),
            Error::Invalid(_) => ApiError::invalid(message),
            Error::Busy { retry_after_seconds, .. } => {
                ApiError { code: Code::Unavailable, message, retry_after_seconds: Some(retry_after_seconds) }
            }
            Error::TooMany { retry_after_seconds, .. } => {
                ApiError { code: Code::TooMany, message, retry_after_seconds: Some(retry_after_seconds) }
            }
            Error::Expired => ApiError::new(Code::Expired, message),
            Error::Crashed { .. } | Error::Unreached { .. } => {
                ApiError { code: Code::Unavailable, message, retry_after_seconds: Some(1) }
            }
            Error::Load { .. } | Error::NoRoom { .. } => ApiError::new(Code::Unavailable, message),
            Error::Run(_) => ApiError::new(Code::Internal, message),
            Error::Internal(_) => ApiError::internal(message),
        }
    }
}

impl From<wattle_train::Error> for ApiError {
    fn from(error: wattle_train::Error) -> ApiError {
        use wattle_train::Error;
        match error {
            Error::Invalid(message) => ApiError::invalid(message),
            Error::Conflict(message) => ApiError::new(Code::Conflict, message),
            Error::Busy(message) => ApiError { code: Code::TooMany, message, retry_after_seconds: Some(10) },
            Error::Store(error) => error.into(),
            Error::Engine(error) => error.into(),
            Error::Io(error) => error.into(),
            Error::Diverged { .. } => ApiError::invalid(error.to_string()),
            Error::Cancelled => ApiError::new(Code::Conflict, error.to_string()),
            Error::Internal(_) => ApiError::internal(error),
        }
    }
}

impl From<wattle_meter::Error> for ApiError {
    fn from(error: wattle_meter::Error) -> ApiError {
        use wattle_meter::Error;
        match error {
            Error::InvalidConfig(_) => ApiError::invalid(error.to_string()),
            Error::DiskFull => io::Error::from(io::ErrorKind::StorageFull).into(),
            Error::Closed => ApiError::new(Code::Unavailable, error.to_string()),
            other => ApiError::internal(other),
        }
    }
}
