//! Tensors in, tensors out.

#![forbid(unsafe_code)]

mod error;
pub mod onnx;
pub mod tensor;

pub use error::{Error, Result};
pub use tensor::Tensor;
