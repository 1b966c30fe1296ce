//! From the simple JSON of `POST /predict` to tensors, and back.
//!
//! A body gives columns by name (`{"x": [1.0, 2.0]}`), rows by column name (`[{"x": 1.0}]` or `{"rows": [...]}`), one
//! row (`{"x": 1.0}`), or, under the key `x`, rows without names in the order of the signature. The answer holds every
//! output by its name, nested as its shape: `{"y_pred": [[3.0]]}`.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use wattle_core::{Datatype, Signature, TensorSpec};
use wattle_engine::{Tensor, tensor::Data, with_data};

use crate::{ApiError, Result};

/// The most dimensions of a tensor.
const MAX_RANK: usize = 16;

/// The model's inputs out of a body of `/predict`.
///
/// # Errors
/// An unknown column (the nearest known one is named), an absent one, ragged rows, values of another type.
pub fn inputs_from_json(signature: &Signature, body: Value) -> Result<Vec<Tensor>> {
    match body {
        Value::Array(rows) if rows.first().is_some_and(Value::is_object) => from_rows(signature, rows),
        Value::Array(values) => match signature.inputs.as_slice() {
            [only] => Ok(vec![input(only, Value::Array(values))?]),
            _ => from_positions(signature, values),
        },
        Value::Object(columns) => from_object(signature, columns),
        _ => Err(ApiError::invalid(format!(
            "send a JSON object of columns, as in {}, or an array of rows",
            example(signature)
        ))),
    }
}

/// Outputs as JSON: every one by its name, nested as its shape. They are written straight from the tensors, since a value
/// of JSON takes nine times the room of its number.
pub struct Outputs(pub Vec<Tensor>);

impl Serialize for Outputs {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0.iter().map(|tensor| (&tensor.name, Elements { data: &tensor.data, shape: &tensor.shape, first: 0 })),
        )
    }
}

/// The elements of a tensor from `first` on, nested as `shape` says. NaN and infinities, which JSON does not have, are
/// null.
pub(crate) struct Elements<'a> {
    pub(crate) data: &'a Data,
    pub(crate) shape: &'a [usize],
    pub(crate) first: usize,
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.shape {
            [] => with_data!(self.data, values => values.get(self.first).serialize(serializer)),
            [length] => {
                with_data!(self.data, values => serializer.collect_seq(&values[self.first..self.first + length]))
            }
            [length, inner @ ..] => {
                let width: usize = inner.iter().product();
                serializer.collect_seq((0..*length).map(|row| Elements {
                    data: self.data,
                    shape: inner,
                    first: self.first + row * width,
                }))
            }
        }
    }
}

/// A small body that the model would take, for messages.
pub fn example(signature: &Signature) -> String {
    let value = |spec: &TensorSpec| match spec.datatype {
        Datatype::Bytes => Value::from("a"),
        Datatype::Bool => Value::from(true),
        _ => Value::from(1),
    };
    let columns = signature.inputs.iter().take(4).map(|spec| {
        let width: i64 = spec.shape.iter().skip(1).map(|dimension| (*dimension).clamp(1, 4)).product();
        (spec.name.clone(), Value::Array(vec![value(spec); usize::try_from(width).unwrap_or(1).min(8)]))
    });
    Value::Object(columns.collect()).to_string()
}

fn from_object(signature: &Signature, mut columns: Map<String, Value>) -> Result<Vec<Tensor>> {
    let known = |name: &str| signature.input(name).is_some();
    if columns.len() == 1 {
        if !known("rows")
            && let Some(rows) = columns.remove("rows")
        {
            return match rows {
                Value::Array(rows) => from_rows(signature, rows),
                _ => Err(ApiError::invalid("\"rows\" must be an array of objects, one per row")),
            };
        }
        if !known("x")
            && let Some(rows) = columns.remove("x")
        {
            return match rows {
                Value::Array(rows) => from_positions(signature, rows),
                _ => Err(ApiError::invalid("\"x\" must be an array of numbers, or of rows")),
            };
        }
    }
    if let Some(unknown) = columns.keys().find(|name| !known(name)) {
        return Err(unknown_column(signature, unknown));
    }
    let mut inputs = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let value = columns.remove(&spec.name).ok_or_else(|| absent_column(spec, None))?;
        inputs.push(input(spec, value)?);
    }
    Ok(inputs)
}

fn from_rows(signature: &Signature, rows: Vec<Value>) -> Result<Vec<Tensor>> {
    if rows.is_empty() {
        return Err(ApiError::invalid("no rows: send at least one"));
    }
    let mut columns: Vec<Vec<Value>> = vec![Vec::with_capacity(rows.len()); signature.inputs.len()];
    for (index, row) in rows.into_iter().enumerate() {
        let Value::Object(mut row) = row else {
            return Err(ApiError::invalid(format!("row {index} is not an object: send columns by name in every row")));
        };
        for (spec, column) in signature.inputs.iter().zip(&mut columns) {
            match row.remove(&spec.name) {
                Some(value) => column.push(value),
                None => return Err(absent_column(spec, Some(index))),
            }
        }
        if let Some(unknown) = row.keys().next() {
            return Err(unknown_column(signature, unknown));
        }
    }
    signature.inputs.iter().zip(columns).map(|(spec, column)| input(spec, Value::Array(column))).collect()
}

/// Rows without names: each an array with one value per input, in the signature's order.
fn from_positions(signature: &Signature, rows: Vec<Value>) -> Result<Vec<Tensor>> {
    if let [only] = signature.inputs.as_slice() {
        return Ok(vec![input(only, Value::Array(rows))?]);
    }
    if rows.is_empty() {
        return Err(ApiError::invalid("no rows: send at least one"));
    }
    let width = signature.inputs.len();
    let rows = if rows.iter().any(Value::is_array) { rows } else { vec![Value::Array(rows)] };
    let mut columns: Vec<Vec<Value>> = vec![Vec::with_capacity(rows.len()); width];
    for (index, row) in rows.into_iter().enumerate() {
        match row {
            Value::Array(values) if values.len() == width => {
                for (value, column) in values.into_iter().zip(&mut columns) {
                    column.push(value);
                }
            }
            Value::Array(values) => {
                return Err(ApiError::invalid(format!(
                    "row {index} has {} values, the model takes {width}: send columns by name, as in {}",
                    values.len(),
                    example(signature)
                )));
            }
            _ => return Err(ApiError::invalid(format!("row {index} is not an array: send every row as one"))),
        }
    }
    signature.inputs.iter().zip(columns).map(|(spec, column)| input(spec, Value::Array(column))).collect()
}

fn input(spec: &TensorSpec, value: Value) -> Result<Tensor> {
    let mut flat = Vec::new();
    let nested = flatten(value, &mut flat).ok_or_else(|| {
        ApiError::invalid(format!("input {:?} is ragged or too deep: its arrays must be of equal lengths", spec.name))
    })?;
    let shape = shape_for(spec, &nested, flat.len()).ok_or_else(|| {
        ApiError::invalid(format!(
            "input {:?} has shape {nested:?}, the model takes {:?} (-1 stands for any size)",
            spec.name, spec.shape
        ))
    })?;
    Ok(Tensor::new(spec.name.clone(), shape, typed(&spec.name, spec.datatype, flat)?)?)
}

/// The shape that was meant: as nested, or, for a flat list, rows of the signature's own width.
fn shape_for(spec: &TensorSpec, nested: &[usize], count: usize) -> Option<Vec<usize>> {
    let fits = |is: &[usize]| {
        is.len() == spec.shape.len()
            && is.iter().zip(&spec.shape).all(|(is, wanted)| *wanted < 0 || usize::try_from(*wanted) == Ok(*is))
    };
    if fits(nested) {
        return Some(nested.to_vec());
    }
    if nested.len() > 1 {
        return None;
    }
    let free = spec.shape.iter().filter(|dimension| **dimension < 0).count();
    let fixed = spec
        .shape
        .iter()
        .filter(|dimension| **dimension >= 0)
        .try_fold(1_usize, |product, dimension| product.checked_mul(usize::try_from(*dimension).ok()?))?;
    match free {
        0 if fixed == count => Some(spec.shape.iter().map(|dimension| *dimension as usize).collect()),
        1 if fixed > 0 && count.is_multiple_of(fixed) => {
            Some(spec.shape.iter().map(|dimension| usize::try_from(*dimension).unwrap_or(count / fixed)).collect())
        }
        _ => None,
    }
}

/// Flattens nested arrays in row-major order; their shape, or `None` when they are ragged or too deep.
pub(crate) fn flatten(value: Value, flat: &mut Vec<Value>) -> Option<Vec<usize>> {
    fn walk(value: Value, depth: usize, shape: &mut Vec<usize>, known: &mut bool, flat: &mut Vec<Value>) -> Option<()> {
        match value {
            Value::Array(items) => {
                if depth == MAX_RANK {
                    return None;
                }
                match shape.get(depth) {
                    Some(length) if *length != items.len() => return None,
                    Some(_) => {}
                    None if *known => return None,
                    None => shape.push(items.len()),
                }
                items.into_iter().try_for_each(|item| walk(item, depth + 1, shape, known, flat))
            }
            scalar => {
                *known = true;
                if depth != shape.len() {
                    return None;
                }
                flat.push(scalar);
                Some(())
            }
        }
    }
    let (mut shape, mut known) = (Vec::new(), false);
    walk(value, 0, &mut shape, &mut known, flat)?;
    Some(shape)
}

/// Gives scalars their type.
pub(crate) fn typed(name: &str, datatype: Datatype, values: Vec<Value>) -> Result<Data> {
    fn all<T>(
        name: &str,
        datatype: Datatype,
        values: Vec<Value>,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>> {
        let convert = |(index, value): (usize, Value)| {
            convert(&value).ok_or_else(|| {
                let mut shown = value.to_string();
                shown.truncate(shown.char_indices().nth(60).map_or(shown.len(), |(position, _)| position));
                ApiError::invalid(format!("input {name:?}: {shown} at position {index} is not a value of {datatype}"))
            })
        };
        values.into_iter().enumerate().map(convert).collect()
    }
    macro_rules! integers {
        ($variant:ident, $type:ty) => {
            Data::$variant(all(name, datatype, values, |value| integer(value).and_then(|v| <$type>::try_from(v).ok()))?)
        };
    }
    Ok(match datatype {
        Datatype::Bool => Data::Bool(all(name, datatype, values, |value| match value {
            Value::Bool(value) => Some(*value),
            other => integer(other).filter(|value| (0..=1).contains(value)).map(|value| value == 1),
        })?),
        Datatype::Uint8 => integers!(Uint8, u8),
        Datatype::Uint16 => integers!(Uint16, u16),
        Datatype::Uint32 => integers!(Uint32, u32),
        Datatype::Uint64 => integers!(Uint64, u64),
        Datatype::Int8 => integers!(Int8, i8),
        Datatype::Int16 => integers!(Int16, i16),
        Datatype::Int32 => integers!(Int32, i32),
        Datatype::Int64 => integers!(Int64, i64),
        Datatype::Fp32 => Data::Fp32(all(name, datatype, values, |value| {
            float(value).map(|value| value as f32).filter(|value| !value.is_infinite())
        })?),
        Datatype::Fp64 => Data::Fp64(all(name, datatype, values, float)?),
        Datatype::Bytes => Data::Bytes(all(name, datatype, values, |value| match value {
            Value::String(text) if !text.contains('\0') => Some(text.clone()),
            Value::Null => Some(String::new()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        })?),
    })
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        // JSON has no NaN; null says that there is no value.
        Value::Null => Some(f64::NAN),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    number.as_i128().or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0 && float.abs() < 9.0e15).then_some(float as i128)
    })
}

fn unknown_column(signature: &Signature, name: &str) -> ApiError {
    let shown: String = name.chars().take(64).collect();
    let hint = match signature.nearest_input(name) {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => format!("the model takes {}", example(signature)),
    };
    ApiError::invalid(format!("unknown column {shown:?}: {hint}"))
}

fn absent_column(spec: &TensorSpec, row: Option<usize>) -> ApiError {
    let place = row.map(|row| format!(" in row {row}")).unwrap_or_default();
    ApiError::invalid(format!("column {:?} is absent{place}: send it too", spec.name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn outputs_are_nested_as_their_shapes_say() {
        let tensor = |name: &str, shape: &[usize], data| Tensor::new(name, shape.to_vec(), data).unwrap();
        let outputs = Outputs(vec![
            tensor("y", &[2, 1], Data::Fp64(vec![3.0, f64::NAN])),
            tensor("cube", &[1, 2, 2], Data::Int64(vec![1, 2, 3, 4])),
            tensor("short", &[1], Data::Fp32(vec![0.1])),
            tensor("scalar", &[], Data::Bytes(vec!["a".into()])),
            tensor("none", &[2, 0], Data::Bool(vec![])),
        ]);
        assert_eq!(
            serde_json::to_string(&outputs).unwrap(),
            r#"{"y":[[3.0],[null]],"cube":[[[1,2],[3,4]]],"short":[0.1],"scalar":"a","none":[[],[]]}"#
        );
    }
}
