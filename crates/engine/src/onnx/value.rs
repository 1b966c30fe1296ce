//! Tensors to ONNX Runtime's values and back.

use half::{bf16, f16};
use ort::{
    session::SessionInputValue,
    value::{DynValue, PrimitiveTensorElementType, TensorRef},
};
use wattle_core::{Datatype, TensorSpec};

use crate::{Data, Error, Result, Tensor, with_numbers};

/// A value over the tensor's own elements; only texts are copied.
pub(super) fn to_value(tensor: &Tensor) -> Result<SessionInputValue<'_>> {
    fn view<'a, T>(shape: &'a [usize], values: &'a [T]) -> ort::Result<SessionInputValue<'a>>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        Ok(TensorRef::from_array_view((shape, values))?.into())
    }
    let shape = &tensor.shape[..];
    let value = with_numbers!(&tensor.data, values => view(shape, values), {
        Bool(values) => view(shape, values),
        Bytes(values) => {
            ort::value::Tensor::from_string_array((shape.to_vec(), values.as_slice())).map(SessionInputValue::from)
        },
    });
    value.map_err(|error| Error::InvalidInput(format!("input {:?} cannot be used: {error}", tensor.name)))
}

/// An output's elements, copied out of ONNX Runtime's memory.
pub(super) fn from_value(spec: &TensorSpec, value: &DynValue) -> Result<Tensor> {
    macro_rules! numbers {
        ($variant:ident: $type:ty) => {
            value
                .try_extract_tensor::<$type>()
                .map(|(shape, values)| (shape.to_vec(), Data::$variant(values.to_vec().into())))
        };
    }
    let (shape, data) = match spec.datatype {
        Datatype::Bool => numbers!(Bool: bool),
        Datatype::Uint8 => numbers!(Uint8: u8),
        Datatype::Uint16 => numbers!(Uint16: u16),
        Datatype::Uint32 => numbers!(Uint32: u32),
        Datatype::Uint64 => numbers!(Uint64: u64),
        Datatype::Int8 => numbers!(Int8: i8),
        Datatype::Int16 => numbers!(Int16: i16),
        Datatype::Int32 => numbers!(Int32: i32),
        Datatype::Int64 => numbers!(Int64: i64),
        Datatype::Fp16 => numbers!(Fp16: f16),
        Datatype::Bf16 => numbers!(Bf16: bf16),
        Datatype::Fp32 => numbers!(Fp32: f32),
        Datatype::Fp64 => numbers!(Fp64: f64),
        Datatype::Bytes => value.try_extract_strings().map(|(shape, values)| (shape.to_vec(), Data::Bytes(values))),
    }
    .map_err(|error| Error::Run(format!("output {:?} cannot be read: {error}", spec.name)))?;
    let shape = shape.into_iter().map(|dimension| usize::try_from(dimension).unwrap_or(0)).collect();
    Tensor::new(spec.name.clone(), shape, data)
}
