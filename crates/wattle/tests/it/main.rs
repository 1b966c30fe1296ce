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
mod docs;
mod jobs;
mod load;
mod models;
mod path;
mod pipelines;
mod process;
mod quickstart;
mod raw;
mod rest;
mod shutdown;
mod slow;
mod stream;
mod support;
mod train;
mod usage;
