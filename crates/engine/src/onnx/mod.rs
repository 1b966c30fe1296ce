//! ONNX models, run by ONNX Runtime, or without it where that takes longer than the arithmetic.

mod direct;
pub mod graph;
mod inspect;
pub mod linear;
pub mod proto;
mod runtime;
mod session;
mod threads;
mod value;

pub use inspect::{Inspected, inspect};
pub use runtime::{VERSION, library_path};
pub use session::OnnxModel;
pub use threads::prepare as prepare_threads;
