//! ONNX models, run by ONNX Runtime.

pub mod graph;
mod inspect;
pub mod linear;
pub mod proto;
mod runtime;
mod session;

pub use inspect::inspect;
pub use runtime::{VERSION, library_path};
pub use session::OnnxModel;
