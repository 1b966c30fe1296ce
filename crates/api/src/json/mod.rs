//! JSON to tensors and back, without values of JSON between.

mod column;
mod infer;
mod read;
mod words;
mod write;

pub use infer::{InferInput, InferRequest, RequestedOutput};
pub use read::{example, inputs_from_json};
pub use write::{Elements, Flat, Outputs};
