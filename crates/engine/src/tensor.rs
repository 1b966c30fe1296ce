//! Dense tensors in row-major order, as they enter and leave an engine.

use wattle_core::{Signature, TensorSpec};

use crate::{Data, Error, Result};

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

    /// The same tensor in a form whose clones share its numbers.
    #[must_use]
    pub fn shared(self) -> Tensor {
        Tensor { data: self.data.shared(), ..self }
    }

    /// The same tensor under another name.
    #[must_use]
    pub fn named(self, name: &str) -> Tensor {
        Tensor { name: name.to_owned(), ..self }
    }

    /// Whether both can be parts of one batch: the same type, and the same dimensions but for the first.
    pub fn mixes_with(&self, other: &Tensor) -> bool {
        self.data.datatype() == other.data.datatype()
            && self.shape.len() == other.shape.len()
            && self.shape.get(1..) == other.shape.get(1..)
    }

    /// The rows of all tensors, one after the other, under the name of the first. `None` unless they
    /// [mix](Tensor::mixes_with).
    pub fn concat<'a>(tensors: impl Iterator<Item = &'a Tensor> + Clone) -> Option<Tensor> {
        let first = tensors.clone().next()?;
        if first.shape.is_empty() || !tensors.clone().all(|tensor| first.mixes_with(tensor)) {
            return None;
        }
        let mut shape = first.shape.clone();
        shape[0] = tensors.clone().map(Tensor::rows).sum();
        let data = Data::concat(tensors.map(|tensor| &tensor.data))?;
        Some(Tensor { name: first.name.clone(), shape, data })
    }

    /// The rows from `first` on, `count` of them.
    ///
    /// # Panics
    /// When the tensor has fewer rows, or is a scalar.
    pub fn rows_from(&self, first: usize, count: usize) -> Tensor {
        let width: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = count;
        Tensor { name: self.name.clone(), shape, data: self.data.part(first * width, count * width) }
    }

    /// Other rows of the same shape, for trying out whether a graph lets rows see each other: fractions far above these or
    /// far below, and everything else in the reverse order.
    #[must_use]
    pub fn far_from(&self, above: bool) -> Tensor {
        Tensor { name: self.name.clone(), shape: self.shape.clone(), data: self.data.far_from(above) }
    }

    /// Whether both are the same but for a relative difference of numbers.
    pub fn is_close_to(&self, other: &Tensor, tolerance: f64) -> bool {
        self.shape == other.shape && self.data.is_close_to(&other.data, tolerance)
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

/// The inputs in the signature's order, each checked against what the signature says of it.
///
/// # Errors
/// [`Error::InvalidInput`] for an input that is absent, twice, unknown, or does not fit.
pub fn in_order(signature: &Signature, mut inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
    for (position, spec) in signature.inputs.iter().enumerate() {
        let found = inputs[position.min(inputs.len())..].iter().position(|tensor| tensor.name == spec.name);
        let Some(found) = found else { return Err(wrong_names(signature, &inputs)) };
        inputs.swap(position, position + found);
        inputs[position].check(spec)?;
    }
    if inputs.len() > signature.inputs.len() {
        return Err(wrong_names(signature, &inputs));
    }
    Ok(inputs)
}

/// What is wrong with the names of inputs that are not the signature's.
fn wrong_names(signature: &Signature, inputs: &[Tensor]) -> Error {
    for (index, tensor) in inputs.iter().enumerate() {
        if signature.input(&tensor.name).is_none() {
            let names = signature.inputs.iter().map(|spec| spec.name.as_str()).take(20).collect::<Vec<_>>().join(", ");
            return Error::InvalidInput(match signature.nearest_input(&tensor.name) {
                Some(nearest) => format!("unknown input {:?}: did you mean {nearest:?}?", tensor.name),
                None => format!("unknown input {:?}: the model takes {names}", tensor.name),
            });
        }
        if inputs[..index].iter().any(|earlier| earlier.name == tensor.name) {
            return Error::InvalidInput(format!("input {:?} was sent twice", tensor.name));
        }
    }
    let absent = signature.inputs.iter().find(|spec| !inputs.iter().any(|tensor| tensor.name == spec.name));
    let name = absent.map(|spec| spec.name.as_str()).unwrap_or_default();
    Error::InvalidInput(format!("input {name:?} is absent: send it too"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_core::Datatype;

    use super::*;

    fn spec(datatype: Datatype, shape: &[i64], missing: bool) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), missing }
    }

    #[test]
    fn a_tensor_that_does_not_fit_its_signature_is_refused_with_the_reason() {
        let tensor = Tensor::new("x", vec![2, 1], Data::Fp64(vec![1.0, f64::NAN].into())).unwrap();
        assert!(tensor.check(&spec(Datatype::Fp64, &[-1, 1], true)).is_ok());
        let refusal = |spec| tensor.check(&spec).unwrap_err().to_string();
        assert!(refusal(spec(Datatype::Fp32, &[-1, 1], true)).contains("FP32"));
        assert!(refusal(spec(Datatype::Fp64, &[-1, 2], true)).contains("[-1, 2]"));
        assert!(refusal(spec(Datatype::Fp64, &[-1], true)).contains("[-1]"));
        assert!(refusal(spec(Datatype::Fp64, &[-1, 1], false)).contains("row 1"));
    }

    #[test]
    fn rows_are_joined_and_parted() {
        let tensor = |rows: usize, first: i64| {
            Tensor::new("x", vec![rows, 2], Data::Int64((first..).take(rows * 2).collect())).unwrap()
        };
        let parts = [tensor(2, 0), tensor(1, 4), tensor(3, 6)];
        let all = Tensor::concat(parts.iter()).unwrap();
        assert_eq!(all, tensor(6, 0));
        assert_eq!(all.rows_from(2, 1), parts[1]);
        let other = Tensor::new("x", vec![1, 3], Data::Int64(vec![1, 2, 3].into())).unwrap();
        assert!(Tensor::concat([&parts[0], &other].into_iter()).is_none());
    }

    #[test]
    fn shapes_whose_product_overflows_are_refused() {
        assert!(Tensor::new("x", vec![usize::MAX, 2], Data::Fp64(vec![].into())).is_err());
        assert!(Tensor::new("x", vec![3], Data::Fp64(vec![1.0].into())).is_err());
    }
}
