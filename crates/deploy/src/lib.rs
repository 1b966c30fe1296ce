//! Desired state: which revisions answer under which name.
//!
//! A deployment is a record in the store; `serve` loads what it names. Replicas live in the serving process.

#![forbid(unsafe_code)]

mod compatible;
mod deployments;
pub mod docker;
pub mod image;
pub mod process;
mod request;

/// What can go wrong with a deployment: what its records can meet.
pub use wattle_store::Error;

pub use deployments::Deployments;
pub use request::DeploymentRequest;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
