//! A table as `{"columns": […], "data": [[…]], "index": […]}`, which pandas calls the orientation "split".

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use wattle_core::Signature;
use wattle_engine::Tensor;

use super::layout::{Layout, is_matrix};
use crate::{
    ApiError, Result,
    json::{Column, Failure, Nested, columns, tensors_of_rows},
};

/// Reads such a table.
pub(super) struct Split<'a> {
    pub(super) signature: &'a Signature,
    pub(super) failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Split<'_> {
    type Value = Vec<Tensor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Tensor>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Split<'_> {
    type Value = Vec<Tensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with data, and usually columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Vec<Tensor>, A::Error> {
        let fail = |message: String| self.failure.set(ApiError::invalid(message));
        let (mut names, mut tensors, mut unread): (Option<Vec<String>>, Option<Vec<Tensor>>, Option<&'de RawValue>) =
            Default::default();
        while let Some(key) = pairs.next_key::<Cow<'de, str>>()? {
            match &*key {
                "columns" => {
                    let labels: Vec<Label> = pairs.next_value()?;
                    let labels = labels.into_iter().map(|label| label.0).collect::<Option<Vec<String>>>();
                    let several =
                        || fail("columns of several levels are not taken: name each column by one text".into());
                    names = Some(labels.ok_or_else(several)?);
                }
                "data" if tensors.is_some() || unread.is_some() => {
                    return Err(fail("dataframe_split has data twice".into()));
                }
                "data" => match &names {
                    Some(names) => tensors = Some(pairs.next_value_seed(self.rows(Some(names))?)?),
                    // What the columns are may still come.
                    None => unread = Some(pairs.next_value()?),
                },
                "index" => {
                    pairs.next_value::<IgnoredAny>()?;
                }
                other => {
                    let other: String = other.chars().take(64).collect();
                    return Err(fail(format!("dataframe_split takes columns, data and index, not {other:?}")));
                }
            }
        }
        match (tensors, unread) {
            (Some(tensors), _) => Ok(tensors),
            (None, Some(data)) => {
                let mut data = serde_json::Deserializer::from_str(data.get());
                self.rows(names.as_deref())?.deserialize(&mut data).map_err(A::Error::custom)
            }
            (None, None) => Err(fail("dataframe_split has no data: send an array of rows".into())),
        }
    }
}

impl<'a> Split<'a> {
    /// What reads the rows of a table whose columns have these names, or none.
    fn rows<E: Error>(&self, names: Option<&[String]>) -> Result<Rows<'a>, E> {
        let Split { signature, failure } = *self;
        let layout = match names {
            Some(names) => Layout::of(signature, names).map_err(|error| failure.set(error))?,
            None if is_matrix(signature) => Layout::Matrix,
            None => Layout::Columns((0..signature.inputs.len()).collect()),
        };
        let width = names.map_or(signature.inputs.len(), <[String]>::len);
        Ok(Rows {
            signature,
            failure,
            columns: columns(signature, failure),
            targets: layout.targets(width),
            layout,
            are_named: names.is_some(),
        })
    }
}

/// The rows.
struct Rows<'a> {
    signature: &'a Signature,
    failure: &'a Failure,
    columns: Vec<Column<'a>>,
    layout: Layout,
    /// For each column of the table, the input that it becomes.
    targets: Vec<Option<usize>>,
    are_named: bool,
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Tensor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Tensor>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Tensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut rows: A) -> Result<Vec<Tensor>, A::Error> {
        let mut count = 0;
        while rows.next_element_seed(Row { rows: &mut self, index: count })?.is_some() {
            count += 1;
        }
        tensors_of_rows(self.signature, self.columns, count).map_err(|error| self.failure.set(error))
    }
}

/// One row: an array, or the only value of a table of one column.
struct Row<'r, 'a> {
    rows: &'r mut Rows<'a>,
    index: usize,
}

impl Row<'_, '_> {
    fn scalar<E: Error>(self, push: impl FnOnce(Nested<'_, '_>) -> Result<(), E>) -> Result<(), E> {
        match (&self.rows.layout, self.rows.targets.as_slice()) {
            (Layout::Columns(_), [Some(input)]) => push(self.rows.columns[*input].row()),
            _ => {
                let message = format!("row {} is not an array: send every row as one", self.index);
                Err(self.rows.failure.set(ApiError::invalid(message)))
            }
        }
    }

    fn wrong_width<E: Error>(&self, values: usize) -> E {
        let Rows { signature, failure, targets, are_named, .. } = &*self.rows;
        if !are_named && let Err(error) = Layout::by_order(signature, values) {
            return failure.set(error);
        }
        let (row, columns) = (self.index, targets.len());
        failure.set(ApiError::invalid(format!(
            "row {row} has {values} values, the table has {columns} columns: send a value, or null, for each"
        )))
    }
}

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row as an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        if self.rows.layout == Layout::Matrix {
            return self.rows.columns[0].row().visit_seq(values);
        }
        let mut count = 0;
        loop {
            let Rows { targets, columns, .. } = &mut *self.rows;
            let read = match targets.get(count).copied().flatten() {
                Some(input) => values.next_element_seed(columns[input].row())?.is_some(),
                None => values.next_element::<IgnoredAny>()?.is_some(),
            };
            if !read {
                break;
            }
            count += 1;
        }
        if count == self.rows.targets.len() { Ok(()) } else { Err(self.wrong_width(count)) }
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

/// A column's name as text; pandas also names by numbers. `None` for a name of several levels.
struct Label(Option<String>);

impl<'de> serde::Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Label, D::Error> {
        Ok(Label(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Some(text),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
            other => Some(other.to_string()),
        }))
    }
}
