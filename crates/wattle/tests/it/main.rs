//! The real binary, over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod accuracy;
mod arguments;
mod bench;
mod config;
mod crash;
mod data;
mod deploy;
mod disk;
mod docker;
mod docs;
mod edge;
mod encoding;
mod grpc;
mod http2;
mod image;
mod isolation;
mod jobs;
#[allow(dead_code, missing_docs, unreachable_pub, reason = "what the engine's own tests use as well")]
#[path = "../../../engine/tests/llama/models.rs"]
mod language_models;
mod load;
mod logs;
mod metrics;
mod models;
mod path;
mod pipelines;
mod process;
mod quickstart;
mod raw;
mod rest;
mod rollout;
mod shutdown;
mod slow;
mod stream;
mod support;
mod tls;
mod top;
mod traces;
mod train;
mod usage;
mod worker;
