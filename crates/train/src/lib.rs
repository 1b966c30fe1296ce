//! Data set to algorithm to artefact and metrics.
//!
//! A job runs in a child process: [`worker`] reads the data set, [`encode`] turns its rows into [`shards`], [`optimise`]
//! fits the parameters through a [`runner`], [`export`] writes the ONNX graph. The server's side of it is [`jobs`].

#![forbid(unsafe_code)]

pub mod encode;
mod error;
pub mod events;
pub mod export;
pub mod fit;
pub mod jobs;
pub mod kernel;
pub mod metrics;
pub mod optimise;
pub mod predictor;
pub mod runner;
pub mod seed;
pub mod shards;
pub mod spec;
pub mod worker;

pub use error::{Error, Result};
