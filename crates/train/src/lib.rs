//! Data set to algorithm to artefact and metrics.
//!
//! A job runs in a child process: [`worker`] reads the data set, [`encode`] turns its rows into [`shards`], [`optimise`]
//! fits the parameters through a [`runner`], [`export`] writes the ONNX graph. The server's side of it is [`jobs`].

#![forbid(unsafe_code)]

mod error;
pub mod kernel;
pub mod metrics;
pub mod optimise;
pub mod runner;
pub mod seed;
pub mod shards;

pub use error::{Error, Result};
