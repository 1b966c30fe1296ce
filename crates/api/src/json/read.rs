//! From the simple JSON of `POST /predict` straight to tensors.
//!
//! A body gives columns by name (`{"x": [1.0, 2.0]}`), rows by column name (`[{"x": 1.0}]` or `{"rows": [...]}`), one
//! row (`{"x": 1.0}`), or, under the key `x`, rows without names in the order of the signature. The answer holds every
//! output by its name, nested as its shape: `{"y_pred": [[3.0]]}`.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use wattle_core::{Datatype, Signature, TensorSpec};
use wattle_engine::Tensor;

use super::column::{Column, Failure, parse};
use crate::{ApiError, Result};

/// The model's inputs out of a body of `/predict`.
///
/// # Errors
/// An unknown column (the nearest known one is named), an absent one, ragged rows, values of another type.
pub fn inputs_from_json(signature: &Signature, body: &[u8]) -> Result<Vec<Tensor>> {
    parse(body, |failure, deserializer| {
        let mut body = Body::new(signature, failure, false);
        (&mut body).deserialize(deserializer).inspect_err(|error| {
            if error.is_data() {
                // Another kind of value than where this stood; everything else has words of its own already.
                failure.set::<serde_json::Error>(ApiError::invalid(match body.array {
                    Some(array) => array.to_owned(),
                    None => format!("send a JSON object of columns, as in {}, or an array of rows", example(signature)),
                }));
            }
        })?;
        body.into_tensors().map_err(|error| failure.set(error))
    })
}

/// Reads the same under a key of a body: what the model does not take is left out, and no key but an input's name means
/// anything.
pub(crate) struct Inputs<'a> {
    pub(crate) signature: &'a Signature,
    pub(crate) failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Inputs<'_> {
    type Value = Vec<Tensor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Tensor>, D::Error> {
        let mut body = Body::new(self.signature, self.failure, true);
        deserializer.deserialize_any(&mut body)?;
        body.into_tensors().map_err(|error| self.failure.set(error))
    }
}

/// A column for each input of a model.
pub(crate) fn columns<'a>(signature: &'a Signature, failure: &'a Failure) -> Vec<Column<'a>> {
    signature.inputs.iter().map(|spec| Column::new(&spec.name, spec.datatype, failure)).collect()
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

/// The tensors of columns that so many rows were read into.
pub(crate) fn tensors_of_rows(signature: &Signature, columns: Vec<Column<'_>>, rows: usize) -> Result<Vec<Tensor>> {
    if rows == 0 {
        return Err(ApiError::invalid("no rows: send at least one"));
    }
    let tensor = |(spec, mut column): (&TensorSpec, Column<'_>)| {
        column.end_rows(rows);
        column.into_tensor(spec, Some(rows))
    };
    signature.inputs.iter().zip(columns).map(tensor).collect()
}

const ROWS_ARE_OBJECTS: &str = "\"rows\" must be an array of objects, one per row";
const X_IS_AN_ARRAY: &str = "\"x\" must be an array of numbers, or of rows";

/// What was read of a body.
struct Body<'a> {
    signature: &'a Signature,
    failure: &'a Failure,
    columns: Vec<Column<'a>>,
    /// How many rows each column has; 1 for a column that was sent whole.
    filled: Vec<usize>,
    /// How many rows there are, if they came one by one.
    rows: Option<usize>,
    /// Whether what the model does not take is left out.
    lenient: bool,
    /// What must be an array, while it is not known to be one.
    array: Option<&'static str>,
}

/// What the items of an array turned out to be.
#[derive(Clone, Copy, PartialEq)]
enum Items {
    Unknown,
    /// Objects: a row each.
    Named,
    /// Arrays with a value for each input: a row each.
    Positions,
    /// One value for each input: the only row.
    OneRow,
    /// The values of the only input.
    Values,
}

impl<'a> Body<'a> {
    fn new(signature: &'a Signature, failure: &'a Failure, lenient: bool) -> Body<'a> {
        let filled = vec![0; signature.inputs.len()];
        Body { signature, failure, columns: columns(signature, failure), filled, rows: None, lenient, array: None }
    }

    fn into_tensors(self) -> Result<Vec<Tensor>> {
        let rows = self.rows;
        self.signature.inputs.iter().zip(self.columns).map(|(spec, column)| column.into_tensor(spec, rows)).collect()
    }

    fn fail<E: Error>(&self, message: impl Into<String>) -> E {
        self.failure.set(ApiError::invalid(message))
    }

    fn position(&self, name: &str, guess: usize) -> Option<usize> {
        let inputs = &self.signature.inputs;
        if inputs.get(guess).is_some_and(|spec| spec.name == name) {
            return Some(guess);
        }
        inputs.iter().position(|spec| spec.name == name)
    }

    /// The rows, or the values, of an array.
    fn read_items<'de, A: SeqAccess<'de>>(&mut self, mut items: A, named: bool, bare: bool) -> Result<(), A::Error> {
        let (mut kind, mut count) = (Items::Unknown, 0);
        while items.next_element_seed(Item { body: self, kind: &mut kind, index: count, named, bare })?.is_some() {
            count += 1;
        }
        let width = self.columns.len();
        match kind {
            Items::Unknown if width != 1 || !bare => return Err(self.fail("no rows: send at least one")),
            Items::OneRow if count != width => return Err(self.wrong_width(0, count)),
            _ => {}
        }
        let rows = if kind == Items::OneRow { 1 } else { count };
        self.rows = matches!(kind, Items::Named | Items::Positions).then_some(count);
        self.columns.iter_mut().for_each(|column| column.end_rows(rows));
        Ok(())
    }

    /// A value by its name; `row` says in which of several.
    fn read_named<'de, A: MapAccess<'de>>(&mut self, mut pairs: A, row: usize) -> Result<(), A::Error> {
        let mut guess = 0;
        while let Some(key) = pairs.next_key_seed(Key { body: self, guess })? {
            let Some(index) = key.index() else {
                self.leave_out(&mut pairs, key)?;
                continue;
            };
            if self.filled[index] != row {
                return Err(self.twice(index));
            }
            pairs.next_value_seed(self.columns[index].row())?;
            self.filled[index] += 1;
            guess = index + 1;
        }
        match self.filled.iter().position(|filled| *filled == row) {
            Some(absent) => Err(self.absent(absent, Some(row))),
            None => Ok(()),
        }
    }

    fn read_position<'de, A: SeqAccess<'de>>(&mut self, mut values: A, row: usize) -> Result<(), A::Error> {
        let (width, mut count) = (self.columns.len(), 0);
        while count < width && values.next_element_seed(self.columns[count].row())?.is_some() {
            count += 1;
        }
        while values.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        if count == width { Ok(()) } else { Err(self.wrong_width(row, count)) }
    }

    fn wrong_width<E: Error>(&self, row: usize, count: usize) -> E {
        self.fail(format!(
            "row {row} has {count} values, the model takes {}: send columns by name, as in {}",
            self.columns.len(),
            example(self.signature)
        ))
    }

    /// Skips the value under a key that the model does not take, where that is allowed.
    fn leave_out<'de, A: MapAccess<'de>>(&self, pairs: &mut A, key: KeyIs) -> Result<(), A::Error> {
        if !self.lenient {
            return Err(self.unknown(key));
        }
        pairs.next_value::<IgnoredAny>()?;
        Ok(())
    }

    fn unknown<E: Error>(&self, key: KeyIs) -> E {
        let name = match key {
            KeyIs::Input(_) => String::new(),
            KeyIs::Rows => "rows".into(),
            KeyIs::X => "x".into(),
            KeyIs::Unknown(name) => name,
        };
        let hint = match self.signature.nearest_input(&name) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("the model takes {}", example(self.signature)),
        };
        let shown: String = name.chars().take(64).collect();
        self.fail(format!("unknown column {shown:?}: {hint}"))
    }

    fn absent<E: Error>(&self, index: usize, row: Option<usize>) -> E {
        let place = row.map(|row| format!(" in row {row}")).unwrap_or_default();
        self.fail(format!("column {:?} is absent{place}: send it too", self.signature.inputs[index].name))
    }

    fn twice<E: Error>(&self, index: usize) -> E {
        self.fail(format!("column {:?} was sent twice: send it once", self.signature.inputs[index].name))
    }
}

impl<'de> DeserializeSeed<'de> for &mut Body<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of columns, as in {}, or an array of rows", example(self.signature))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        self.read_items(items, true, true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<(), A::Error> {
        let (mut first, mut guess) = (true, 0);
        while let Some(key) = pairs.next_key_seed(Key { body: self, guess })? {
            match key {
                KeyIs::Input(index) => {
                    if self.filled[index] > 0 {
                        return Err(self.twice(index));
                    }
                    pairs.next_value_seed(self.columns[index].value())?;
                    self.filled[index] = 1;
                    guess = index + 1;
                }
                KeyIs::Rows | KeyIs::X if first && !self.lenient => {
                    pairs.next_value_seed(Array { body: self, rows: matches!(key, KeyIs::Rows) })?;
                    return match pairs.next_key_seed(Key { body: self, guess: 0 })? {
                        Some(_) => Err(self.unknown(key)),
                        None => Ok(()),
                    };
                }
                other => self.leave_out(&mut pairs, other)?,
            }
            first = false;
        }
        match self.filled.iter().position(|filled| *filled == 0) {
            Some(absent) => Err(self.absent(absent, None)),
            None => Ok(()),
        }
    }
}

/// What a key names.
enum KeyIs {
    Input(usize),
    Rows,
    X,
    Unknown(String),
}

impl KeyIs {
    fn index(&self) -> Option<usize> {
        match self {
            KeyIs::Input(index) => Some(*index),
            _ => None,
        }
    }
}

/// Reads a key without keeping its text; `guess` is the input that it likely names.
struct Key<'b, 'a> {
    body: &'b Body<'a>,
    guess: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = KeyIs;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<KeyIs, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = KeyIs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<KeyIs, E> {
        Ok(match self.body.position(name, self.guess) {
            Some(index) => KeyIs::Input(index),
            None if name == "rows" => KeyIs::Rows,
            None if name == "x" => KeyIs::X,
            None => KeyIs::Unknown(name.chars().take(256).collect()),
        })
    }
}

/// The array under the key `rows` or `x`.
struct Array<'b, 'a> {
    body: &'b mut Body<'a>,
    rows: bool,
}

impl<'de> DeserializeSeed<'de> for Array<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.body.array = Some(if self.rows { ROWS_ARE_OBJECTS } else { X_IS_AN_ARRAY });
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Array<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        self.body.array = None;
        self.body.read_items(items, self.rows, !self.rows)
    }
}

/// One item of an array, which may hold named rows, and values without names.
struct Item<'b, 'a> {
    body: &'b mut Body<'a>,
    kind: &'b mut Items,
    index: usize,
    named: bool,
    bare: bool,
}

impl Item<'_, '_> {
    /// Settles what the items are by the first of them; the others have to be the same.
    fn settle<E: Error>(&mut self, kind: Items) -> Result<(), E> {
        if *self.kind == Items::Unknown {
            *self.kind = kind;
        }
        if *self.kind == kind {
            return Ok(());
        }
        let index = self.index;
        Err(self.body.fail(match self.kind {
            Items::Named => format!("row {index} is not an object: send columns by name in every row"),
            _ => format!("row {index} is not an array: send every row as one"),
        }))
    }

    fn scalar<E: Error>(mut self, push: impl FnOnce(super::column::Nested<'_, '_>) -> Result<(), E>) -> Result<(), E> {
        if !self.bare {
            let index = self.index;
            return Err(self.body.fail(format!("row {index} is not an object: send columns by name in every row")));
        }
        if self.body.columns.len() == 1 {
            self.settle(Items::Values)?;
            return push(self.body.columns[0].row());
        }
        self.settle(Items::OneRow)?;
        match self.body.columns.get_mut(self.index) {
            Some(column) => push(column.row()),
            // The count says so in the end.
            None => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Item<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, pairs: A) -> Result<(), A::Error> {
        if !self.named {
            return Err(self.body.fail(X_IS_AN_ARRAY));
        }
        self.settle(Items::Named)?;
        self.body.read_named(pairs, self.index)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, values: A) -> Result<(), A::Error> {
        if !self.bare {
            let index = self.index;
            return Err(self.body.fail(format!("row {index} is not an object: send columns by name in every row")));
        }
        if self.body.columns.len() == 1 {
            self.settle(Items::Values)?;
            return self.body.columns[0].row().visit_seq(values);
        }
        self.settle(Items::Positions)?;
        self.body.read_position(values, self.index)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(|column| column.visit_f64(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(|column| column.visit_u64(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(|column| column.visit_i64(value))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(|column| column.visit_bool(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar(|column| column.visit_str(text))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(|column| column.visit_unit())
    }
}
