//! Tensors in, tensors out.

mod data;
mod error;
mod exit;
pub mod gguf;
pub mod huggingface;
#[cfg(feature = "llama")]
pub mod llama;
pub mod memory;
pub mod onnx;
pub mod tensor;
pub mod tokens;
mod values;

pub use data::Data;
pub use error::{Error, Result};
pub use exit::exit;
pub use tensor::{Tensor, in_order};
pub use values::{Number, Values};
