//! ONNX models, run by ONNX Runtime.

pub mod graph;
pub mod proto;
