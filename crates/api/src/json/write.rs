//! From tensors to JSON, straight: a value of JSON takes nine times the room of its number.

use half::{bf16, f16};
use serde::{Serialize, Serializer};
use wattle_engine::{Data, Tensor, with_data};

/// Outputs as JSON: every one by its name, nested as its shape.
pub struct Outputs(pub Vec<Tensor>);

impl Serialize for Outputs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|tensor| (&tensor.name, Elements::of(tensor))))
    }
}

/// The elements of a tensor from `first` on, nested as `shape` says. NaN and infinities, which JSON does not have, are
/// null.
pub struct Elements<'a> {
    data: &'a Data,
    shape: &'a [usize],
    first: usize,
}

impl<'a> Elements<'a> {
    /// All elements, nested as the tensor's shape.
    pub fn of(tensor: &'a Tensor) -> Elements<'a> {
        Elements { data: &tensor.data, shape: &tensor.shape, first: 0 }
    }

    /// The elements from `first` on, nested as `shape`.
    pub(crate) fn from(data: &'a Data, first: usize, shape: &'a [usize]) -> Elements<'a> {
        Elements { data, shape, first }
    }
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shape {
            [] => with_data!(self.data, values => values.get(self.first).map(Element).serialize(serializer)),
            [length] => {
                let range = self.first..self.first + length;
                with_data!(self.data, values => serializer.collect_seq(values[range].iter().map(Element)))
            }
            [length, inner @ ..] => {
                let width: usize = inner.iter().product();
                let row = |row| Elements { data: self.data, shape: inner, first: self.first + row * width };
                serializer.collect_seq((0..*length).map(row))
            }
        }
    }
}

/// The elements in row-major order, whatever the shape.
pub struct Flat(pub Data);

impl Serialize for Flat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        with_data!(&self.0, values => serializer.collect_seq(values.iter().map(Element)))
    }
}

/// One element.
struct Element<'a, T>(&'a T);

macro_rules! as_they_are {
    ($($type:ty)*) => {
        $(impl Serialize for Element<'_, $type> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        })*
    };
}

as_they_are!(bool u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 String);

impl Serialize for Element<'_, f16> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_f32().serialize(serializer)
    }
}

impl Serialize for Element<'_, bf16> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_f32().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn outputs_are_nested_as_their_shapes_say() {
        let tensor = |name: &str, shape: &[usize], data| Tensor::new(name, shape.to_vec(), data).unwrap();
        let outputs = Outputs(vec![
            tensor("y", &[2, 1], Data::Fp64(vec![3.0, f64::NAN].into())),
            tensor("cube", &[1, 2, 2], Data::Int64(vec![1, 2, 3, 4].into())),
            tensor("short", &[1], Data::Fp32(vec![0.1].into())),
            tensor("shorter", &[1], Data::Fp16(vec![f16::from_f32(0.5)].into())),
            tensor("brain", &[1], Data::Bf16(vec![bf16::INFINITY].into())),
            tensor("scalar", &[], Data::Bytes(vec!["a".into()])),
            tensor("none", &[2, 0], Data::Bool(vec![])),
        ]);
        assert_eq!(
            serde_json::to_string(&outputs).unwrap(),
            r#"{"y":[[3.0],[null]],"cube":[[[1,2],[3,4]]],"short":[0.1],"shorter":[0.5],"brain":[null],"scalar":"a","none":[[],[]]}"#
        );
    }
}
