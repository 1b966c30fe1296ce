//! JSON to tensors and back, without values of JSON between.

mod column;
mod infer;
mod read;
mod words;
mod write;

pub(crate) use column::{Column, Failure, Nested, finite, not_expected, parse, shape_for};
pub use infer::{InferInput, InferRequest, RequestedOutput};
pub(crate) use read::{Inputs, columns, tensors_of_rows};
pub use read::{example, inputs_from_json};
pub use write::{Elements, Flat, Outputs};
