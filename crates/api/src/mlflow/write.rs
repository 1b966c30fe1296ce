//! Predictions as MLflow's server writes them.

use serde::{Serialize, Serializer, ser::SerializeMap};
use wattle_engine::Tensor;

use crate::json::Elements;

/// What a request's inputs were, which decides how several outputs are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A table; the answer is one too.
    Table,
    /// Tensors.
    Tensors,
}

/// `{"predictions": …}`: the values of an only output, as of a NumPy array; of several outputs a record for each row of a
/// table, as of a pandas frame, or an array under each output's name, as of a dictionary of arrays. An output of one
/// value a row is a list of values.
#[derive(Debug)]
pub struct Predictions {
    /// The outputs.
    pub outputs: Vec<Tensor>,
    /// What the inputs were.
    pub form: Form,
}

impl Serialize for Predictions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_map(Some(1))?;
        let rows = self.outputs.first().and_then(|tensor| tensor.shape.first()).copied();
        let is_table = self.outputs.iter().all(|tensor| tensor.shape.first().copied() == rows);
        match (self.outputs.as_slice(), self.form, rows) {
            ([only], _, _) => answer.serialize_entry("predictions", &Values(only))?,
            (outputs, Form::Table, Some(rows)) if is_table => {
                answer.serialize_entry("predictions", &Records { outputs, rows })?;
            }
            (outputs, _, _) => answer.serialize_entry("predictions", &Arrays(outputs))?,
        }
        answer.end()
    }
}

/// All values of an output.
struct Values<'a>(&'a Tensor);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.shape.as_slice() {
            [rows, 1] => Elements::from(&self.0.data, 0, &[*rows]).serialize(serializer),
            _ => Elements::of(self.0).serialize(serializer),
        }
    }
}

struct Arrays<'a>(&'a [Tensor]);

impl Serialize for Arrays<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|tensor| (&tensor.name, Values(tensor))))
    }
}

struct Records<'a> {
    outputs: &'a [Tensor],
    rows: usize,
}

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.rows).map(|row| Record { outputs: self.outputs, row }))
    }
}

struct Record<'a> {
    outputs: &'a [Tensor],
    row: usize,
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.outputs.iter().map(|tensor| {
            let inner = match &tensor.shape[1..] {
                [1] => &[],
                inner => inner,
            };
            let width: usize = inner.iter().product();
            (&tensor.name, Elements::from(&tensor.data, self.row * width, inner))
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_engine::Data;

    use super::*;

    fn tensor(name: &str, shape: &[usize], values: Vec<f64>) -> Tensor {
        Tensor::new(name, shape.to_vec(), Data::Fp64(values.into())).unwrap()
    }

    fn text(outputs: Vec<Tensor>, form: Form) -> String {
        serde_json::to_string(&Predictions { outputs, form }).unwrap()
    }

    #[test]
    fn an_only_output_is_its_values() {
        for form in [Form::Table, Form::Tensors] {
            let only = |shape: &[usize], values| text(vec![tensor("y", shape, values)], form);
            assert_eq!(only(&[2, 1], vec![3.0, f64::NAN]), r#"{"predictions":[3.0,null]}"#);
            assert_eq!(only(&[2], vec![3.0, 5.0]), r#"{"predictions":[3.0,5.0]}"#);
            assert_eq!(only(&[1, 2], vec![3.0, 5.0]), r#"{"predictions":[[3.0,5.0]]}"#);
            assert_eq!(only(&[], vec![3.0]), r#"{"predictions":3.0}"#);
        }
    }

    #[test]
    fn several_outputs_are_records_of_a_table_and_arrays_of_tensors() {
        let outputs = || vec![tensor("y", &[2, 1], vec![1.0, 2.0]), tensor("p", &[2, 2], vec![0.1, 0.9, 0.2, 0.8])];
        assert_eq!(
            text(outputs(), Form::Table),
            r#"{"predictions":[{"y":1.0,"p":[0.1,0.9]},{"y":2.0,"p":[0.2,0.8]}]}"#
        );
        assert_eq!(text(outputs(), Form::Tensors), r#"{"predictions":{"y":[1.0,2.0],"p":[[0.1,0.9],[0.2,0.8]]}}"#);
        let uneven = vec![tensor("y", &[2], vec![1.0, 2.0]), tensor("all", &[], vec![3.0])];
        assert_eq!(text(uneven, Form::Table), r#"{"predictions":{"y":[1.0,2.0],"all":3.0}}"#);
    }
}
