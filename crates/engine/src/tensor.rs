//! Dense tensors in row-major order, as they enter and leave an engine.

use wattle_core::{Datatype, TensorSpec};

use crate::{Error, Result};

/// The elements of a tensor, row-major.
#[allow(missing_docs, reason = "the variants are the datatypes")]
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    /// Texts; the protocol calls them BYTES, ONNX Runtime wants UTF-8 without NUL.
    Bytes(Vec<String>),
}

/// Runs one expression over the vector inside a [`Data`], whatever its type.
#[macro_export]
macro_rules! with_data {
    ($data:expr, $values:ident => $result:expr) => {
        match $data {
            $crate::tensor::Data::Bool($values) => $result,
            $crate::tensor::Data::Uint8($values) => $result,
            $crate::tensor::Data::Uint16($values) => $result,
            $crate::tensor::Data::Uint32($values) => $result,
            $crate::tensor::Data::Uint64($values) => $result,
            $crate::tensor::Data::Int8($values) => $result,
            $crate::tensor::Data::Int16($values) => $result,
            $crate::tensor::Data::Int32($values) => $result,
            $crate::tensor::Data::Int64($values) => $result,
            $crate::tensor::Data::Fp32($values) => $result,
            $crate::tensor::Data::Fp64($values) => $result,
            $crate::tensor::Data::Bytes($values) => $result,
        }
    };
}

impl Data {
    /// The number of elements.
    pub fn len(&self) -> usize {
        with_data!(self, values => values.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn datatype(&self) -> Datatype {
        match self {
            Data::Bool(_) => Datatype::Bool,
            Data::Uint8(_) => Datatype::Uint8,
            Data::Uint16(_) => Datatype::Uint16,
            Data::Uint32(_) => Datatype::Uint32,
            Data::Uint64(_) => Datatype::Uint64,
            Data::Int8(_) => Datatype::Int8,
            Data::Int16(_) => Datatype::Int16,
            Data::Int32(_) => Datatype::Int32,
            Data::Int64(_) => Datatype::Int64,
            Data::Fp32(_) => Datatype::Fp32,
            Data::Fp64(_) => Datatype::Fp64,
            Data::Bytes(_) => Datatype::Bytes,
        }
    }

    /// The position of the first element that stands for a missing value: NaN, or an empty text.
    fn first_missing(&self) -> Option<usize> {
        match self {
            Data::Fp32(values) => values.iter().position(|value| value.is_nan()),
            Data::Fp64(values) => values.iter().position(|value| value.is_nan()),
            Data::Bytes(values) => values.iter().position(String::is_empty),
            _ => None,
        }
    }
}

/// A named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The name of the input or output that it is.
    pub name: String,
    /// Its dimensions; their product is the number of elements.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data,
}

impl Tensor {
    /// A tensor whose shape and number of elements agree; [`Error::InvalidInput`] otherwise.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, data: Data) -> Result<Tensor> {
        let name = name.into();
        let expected = shape.iter().try_fold(1_usize, |product, dimension| product.checked_mul(*dimension));
        if expected != Some(data.len()) {
            return Err(Error::InvalidInput(format!(
                "input {name:?} of shape {shape:?} needs {} values, {} were sent",
                expected.map_or_else(|| "too many".to_owned(), |count| count.to_string()),
                data.len()
            )));
        }
        Ok(Tensor { name, shape, data })
    }

    /// The first dimension; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Checks the tensor against what the signature says of it: type, shape, and values that may not be missing.
    pub fn check(&self, spec: &TensorSpec) -> Result<()> {
        if self.data.datatype() != spec.datatype {
            return Err(Error::InvalidInput(format!(
                "input {:?} is {}, the model takes {}",
                spec.name,
                self.data.datatype(),
                spec.datatype
            )));
        }
        let fits = self.shape.len() == spec.shape.len()
            && self
                .shape
                .iter()
                .zip(&spec.shape)
                .all(|(is, wanted)| *wanted < 0 || usize::try_from(*wanted) == Ok(*is));
        if !fits {
            return Err(Error::InvalidInput(format!(
                "input {:?} has shape {:?}, the model takes {:?} (-1 stands for any size)",
                spec.name, self.shape, spec.shape
            )));
        }
        if self.data.is_empty() {
            return Err(Error::InvalidInput(format!("input {:?} has no values: send at least one row", spec.name)));
        }
        if !spec.missing
            && let Some(position) = self.data.first_missing()
        {
            let row = position / (self.data.len() / self.rows().max(1)).max(1);
            return Err(Error::InvalidInput(format!(
                "input {:?} has no value in row {row}, and the model was trained without gaps there: send a value",
                spec.name
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(datatype: Datatype, shape: &[i64], missing: bool) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), missing }
    }

    #[test]
    fn a_tensor_that_does_not_fit_its_signature_is_refused_with_the_reason() {
        let tensor = Tensor::new("x", vec![2, 1], Data::Fp64(vec![1.0, f64::NAN])).unwrap();
        assert!(tensor.check(&spec(Datatype::Fp64, &[-1, 1], true)).is_ok());
        let refusal = |spec| tensor.check(&spec).unwrap_err().to_string();
        assert!(refusal(spec(Datatype::Fp32, &[-1, 1], true)).contains("FP32"));
        assert!(refusal(spec(Datatype::Fp64, &[-1, 2], true)).contains("[-1, 2]"));
        assert!(refusal(spec(Datatype::Fp64, &[-1], true)).contains("[-1]"));
        assert!(refusal(spec(Datatype::Fp64, &[-1, 1], false)).contains("row 1"));
    }

    #[test]
    fn shapes_whose_product_overflows_are_refused() {
        assert!(Tensor::new("x", vec![usize::MAX, 2], Data::Fp64(vec![])).is_err());
        assert!(Tensor::new("x", vec![3], Data::Fp64(vec![1.0])).is_err());
    }
}
