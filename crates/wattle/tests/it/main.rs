//! The real binary, over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod path;
mod support;
