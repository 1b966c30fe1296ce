//! Admit, queue, compute, reply: a request's way through one process.

#![forbid(unsafe_code)]

mod admit;
mod error;
pub mod metrics;
mod replica;
mod server;

pub use error::{Error, Result};
pub use replica::Replica;
pub use server::{Call, Prediction, ReplicaStatus, ServeOptions, Server};
