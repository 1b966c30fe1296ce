//! One input's values as they come out of JSON, of the input's own type from the start.

use std::{cell::RefCell, fmt};

use half::{bf16, f16};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use wattle_core::{Datatype, TensorSpec};
use wattle_engine::{Data, Tensor};

use super::words::{INFINITY, NEGATIVE_INFINITY, without_bare_words};
use crate::{ApiError, Result};

/// The most dimensions of a tensor.
const MAX_RANK: usize = 16;

/// What is wrong with a body in our own words, which the JSON library's errors cannot carry.
#[derive(Default)]
pub(crate) struct Failure(RefCell<Option<ApiError>>);

impl Failure {
    /// Keeps the error, and makes the library's that ends the reading.
    pub(crate) fn set<E: Error>(&self, error: ApiError) -> E {
        let shown = E::custom(&error.message);
        self.0.borrow_mut().get_or_insert(error);
        shown
    }

    /// Our own error if there is one, or else the library's.
    pub(crate) fn or(self, error: &serde_json::Error) -> ApiError {
        self.0.into_inner().unwrap_or_else(|| not_expected(error))
    }
}

/// The library's words, which may hold a text of the body as long as it is.
pub(crate) fn not_expected(error: &serde_json::Error) -> ApiError {
    let shown: String = error.to_string().chars().take(400).collect();
    ApiError::invalid(format!("the body is not the JSON that is expected here: {shown}"))
}

/// Reads a body by `read`; one that is no JSON for NaN and infinities alone is read too.
pub(crate) fn parse<T>(
    body: &[u8],
    read: impl Fn(&Failure, &mut serde_json::Deserializer<serde_json::de::SliceRead<'_>>) -> serde_json::Result<T>,
) -> Result<T> {
    let read = |body: &[u8]| {
        let failure = Failure::default();
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let result = read(&failure, &mut deserializer).and_then(|read| deserializer.end().map(|()| read));
        result.map_err(|error| (error.is_syntax(), failure.or(&error)))
    };
    match read(body) {
        Ok(read) => Ok(read),
        Err((true, error)) => match without_bare_words(body) {
            Some(body) => read(&body).map_err(|(_, error)| error),
            None => Err(error),
        },
        Err((false, error)) => Err(error),
    }
}

/// The values of one input so far, and the shape that the arrays around them have.
pub(crate) struct Column<'a> {
    name: &'a str,
    data: Data,
    /// The length of an array at each depth; `None` while the first is not at its end.
    shape: Vec<Option<usize>>,
    failure: &'a Failure,
}

/// A value that is no array.
enum Scalar<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
}

impl<'a> Column<'a> {
    pub(crate) fn new(name: &'a str, datatype: Datatype, failure: &'a Failure) -> Column<'a> {
        Column { name, data: Data::empty(datatype), shape: Vec::new(), failure }
    }

    /// What reads the whole value of the input.
    pub(crate) fn value(&mut self) -> Nested<'_, 'a> {
        Nested { column: self, depth: 0 }
    }

    /// What reads the value of one row; see [`Column::end_rows`].
    pub(crate) fn row(&mut self) -> Nested<'_, 'a> {
        if self.shape.is_empty() {
            self.shape.push(None);
        }
        Nested { column: self, depth: 1 }
    }

    /// Says how many rows were read.
    pub(crate) fn end_rows(&mut self, rows: usize) {
        match self.shape.first_mut() {
            Some(length) => *length = Some(rows),
            None => self.shape.push(Some(rows)),
        }
    }

    /// The tensor that the model takes. A flat list stands for rows of the input's own width, unless it is known how many
    /// rows there are.
    pub(crate) fn into_tensor(self, spec: &TensorSpec, rows: Option<usize>) -> Result<Tensor> {
        let (nested, data) = self.into_parts();
        let is_meant = |shape: &Vec<usize>| rows.is_none() || rows == shape.first().copied();
        let shape = shape_for(spec, &nested, data.len()).filter(is_meant).ok_or_else(|| {
            ApiError::invalid(format!(
                "input {:?} has shape {nested:?}, the model takes {:?} (-1 stands for any size)",
                spec.name, spec.shape
            ))
        })?;
        Ok(Tensor::new(spec.name.clone(), shape, data)?)
    }

    /// The shape as nested, and the values.
    pub(crate) fn into_parts(self) -> (Vec<usize>, Data) {
        (self.shape.into_iter().map(Option::unwrap_or_default).collect(), self.data)
    }

    fn begin_array<E: Error>(&mut self, depth: usize) -> Result<(), E> {
        if depth >= MAX_RANK || (self.shape.len() == depth && !self.data.is_empty()) {
            return Err(self.ragged());
        }
        if self.shape.len() == depth {
            self.shape.push(None);
        }
        Ok(())
    }

    fn end_array<E: Error>(&mut self, depth: usize, length: usize) -> Result<(), E> {
        match &mut self.shape[depth] {
            Some(known) if *known != length => Err(self.ragged()),
            known => {
                *known = Some(length);
                Ok(())
            }
        }
    }

    fn push<E: Error>(&mut self, depth: usize, scalar: &Scalar<'_>) -> Result<(), E> {
        if self.shape.len() != depth {
            return Err(self.ragged());
        }
        match push(&mut self.data, scalar) {
            Some(()) => Ok(()),
            None => Err(self.wrong_type(&scalar.to_string())),
        }
    }

    fn ragged<E: Error>(&self) -> E {
        let name = self.name;
        let message = format!("input {name:?} is ragged or too deep: its arrays must be of equal lengths");
        self.failure.set(ApiError::invalid(message))
    }

    fn wrong_type<E: Error>(&self, shown: &str) -> E {
        let (name, position, datatype) = (self.name, self.data.len(), self.data.datatype());
        let shown: String = shown.chars().take(60).collect();
        self.failure.set(ApiError::invalid(format!(
            "input {name:?}: {shown} at position {position} is not a value of {datatype}"
        )))
    }
}

/// Adds a value in the data's own type; `None` if it has no such value.
fn push(data: &mut Data, scalar: &Scalar<'_>) -> Option<()> {
    macro_rules! integers {
        ($values:ident) => {
            $values.as_vec_mut().push(integer(scalar)?.try_into().ok()?)
        };
    }
    match data {
        Data::Fp64(values) => values.as_vec_mut().push(float(scalar)?),
        Data::Fp32(values) => values.as_vec_mut().push(finite(float(scalar)?, |value| value as f32, f32::is_infinite)?),
        Data::Fp16(values) => values.as_vec_mut().push(finite(float(scalar)?, f16::from_f64, f16::is_infinite)?),
        Data::Bf16(values) => values.as_vec_mut().push(finite(float(scalar)?, bf16::from_f64, bf16::is_infinite)?),
        Data::Uint8(values) => integers!(values),
        Data::Uint16(values) => integers!(values),
        Data::Uint32(values) => integers!(values),
        Data::Uint64(values) => integers!(values),
        Data::Int8(values) => integers!(values),
        Data::Int16(values) => integers!(values),
        Data::Int32(values) => integers!(values),
        Data::Int64(values) => integers!(values),
        Data::Bool(values) => values.push(match scalar {
            Scalar::Bool(value) => *value,
            other => match integer(other)? {
                0 => false,
                1 => true,
                _ => return None,
            },
        }),
        Data::Bytes(values) => values.push(match scalar {
            Scalar::Text(text) if !text.contains('\0') => (*text).to_owned(),
            Scalar::Text(_) => return None,
            Scalar::Null => String::new(),
            other => other.to_string(),
        }),
    }
    Some(())
}

/// JSON has no NaN; null says that there is no value.
fn float(scalar: &Scalar<'_>) -> Option<f64> {
    match scalar {
        Scalar::Float(value) => Some(*value),
        Scalar::Unsigned(value) => Some(*value as f64),
        Scalar::Signed(value) => Some(*value as f64),
        Scalar::Null => Some(f64::NAN),
        Scalar::Text(INFINITY) => Some(f64::INFINITY),
        Scalar::Text(NEGATIVE_INFINITY) => Some(f64::NEG_INFINITY),
        Scalar::Bool(_) | Scalar::Text(_) => None,
    }
}

/// The nearest value of a smaller type; `None` beyond its largest.
pub(crate) fn finite<T: Copy>(value: f64, narrow: impl Fn(f64) -> T, is_infinite: impl Fn(T) -> bool) -> Option<T> {
    let narrow = narrow(value);
    (is_infinite(narrow) == value.is_infinite()).then_some(narrow)
}

fn integer(scalar: &Scalar<'_>) -> Option<i128> {
    match scalar {
        Scalar::Unsigned(value) => Some(i128::from(*value)),
        Scalar::Signed(value) => Some(i128::from(*value)),
        Scalar::Float(value) => (value.fract() == 0.0 && value.abs() < 9.0e15).then_some(*value as i128),
        _ => None,
    }
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Unsigned(value) => value.fmt(f),
            Scalar::Signed(value) => value.fmt(f),
            Scalar::Float(value) => f.write_str(&serde_json::Value::from(*value).to_string()),
            Scalar::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// Reads a value, or arrays of values, into a column.
pub(crate) struct Nested<'c, 'a> {
    column: &'c mut Column<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Nested<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Nested { column, depth } = self;
        column.begin_array(depth)?;
        let mut length = 0;
        while items.next_element_seed(Nested { column: &mut *column, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        column.end_array(depth, length)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.column.wrong_type("an object"))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.column.push(self.depth, &Scalar::Float(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.column.push(self.depth, &Scalar::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.column.push(self.depth, &Scalar::Signed(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.column.push(self.depth, &Scalar::Bool(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.column.push(self.depth, &Scalar::Text(text))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.column.push(self.depth, &Scalar::Null)
    }
}

/// The shape that was meant: as nested, or, for a flat list, rows of the signature's own width.
pub(crate) fn shape_for(spec: &TensorSpec, nested: &[usize], count: usize) -> Option<Vec<usize>> {
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
