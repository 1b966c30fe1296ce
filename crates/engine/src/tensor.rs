//! Tensors.
/// A tensor.
#[derive(Debug)]
pub struct Tensor;
