//! REST and gRPC over one service trait: the only crate that knows a wire format or a status code.
//!
//! [`service::Service`] says what Wattle can do; [`local::Local`] does it with the crates below; [`http`] and
//! [`grpc`] put it on the wire, on one port.

#![forbid(unsafe_code)]

mod answer;
mod describe;
mod error;
mod failures;
pub mod grpc;
pub mod http;
pub mod import;
pub mod json;
mod language;
pub mod local;
pub mod mlflow;
mod request;
pub mod service;
mod traces;
pub mod worker;

pub use error::{ApiError, Code, Result};
pub use local::Local;
pub use service::Service;
pub use traces::Traces;
