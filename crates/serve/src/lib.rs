//! Admit, queue, compute, reply: a request's way through one process.

#![forbid(unsafe_code)]

mod account;
mod admit;
mod batch;
mod batcher;
mod context;
mod engine;
mod error;
mod fleet;
mod handover;
pub mod language;
mod logs;
mod memory;
pub mod metrics;
mod pipeline;
mod processors;
mod queue;
mod replica;
mod residency;
pub mod rollout;
mod run_pipeline;
pub mod sampling;
mod server;
mod shadow;
mod speak;
pub mod speaker;
mod status;
mod table;
pub mod tokens;
mod trial;
mod troubles;

pub use batcher::Priority;
pub use context::Context;
pub use engine::{Computed, Instance, Launcher, Launchers, Worker, WorkerOrder};
pub use error::{Error, Result};
pub use fleet::{InstanceState, InstanceStatus};
pub use logs::{LogLine, Logs};
pub use pipeline::{Pipeline, Step};
pub use replica::Replica;
pub use server::{Call, LanguageOptions, Prediction, ServeOptions, Server};
pub use shadow::Compared;
pub use status::{FailedCanary, ModelStatus, ReplicaStatus, RevisionStatus};
pub use table::Prepared;
