//! A table as `[{"column": value, …}, …]`, which pandas calls the orientation "records".

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use wattle_core::{Datatype, Signature};
use wattle_engine::Tensor;

use super::layout::{Layout, absent_column, is_matrix};
use crate::{
    ApiError, Result,
    json::{Column, Failure, columns, tensors_of_rows},
};

/// Reads such a table.
pub(super) struct Records<'a> {
    pub(super) signature: &'a Signature,
    pub(super) failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Records<'_> {
    type Value = Vec<Tensor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Tensor>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = Vec<Tensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Vec<Tensor>, A::Error> {
        let Records { signature, failure } = self;
        let mut table = Table {
            signature,
            failure,
            columns: columns(signature, failure),
            filled: vec![0; signature.inputs.len()],
            is_sent: vec![false; signature.inputs.len()],
            others: Vec::new(),
            matrix: None,
        };
        let mut count = 0;
        if is_matrix(signature) {
            // The names of all columns say whether one of them is the input, or all together.
            if let Some(first) = records.next_element::<&'de RawValue>()? {
                let Names(names) = serde_json::from_str(first.get()).map_err(A::Error::custom)?;
                if Layout::of(signature, &names).map_err(|error| failure.set::<A::Error>(error))? == Layout::Matrix {
                    table.matrix = Some(names);
                }
                let mut first = serde_json::Deserializer::from_str(first.get());
                Record { table: &mut table, row: 0 }.deserialize(&mut first).map_err(A::Error::custom)?;
                count = 1;
            }
        }
        while records.next_element_seed(Record { table: &mut table, row: count })?.is_some() {
            count += 1;
        }
        table.into_tensors(count).map_err(|error| failure.set(error))
    }
}

/// What was read of the table.
struct Table<'a> {
    signature: &'a Signature,
    failure: &'a Failure,
    columns: Vec<Column<'a>>,
    /// How many rows each column has.
    filled: Vec<usize>,
    /// Which columns any row had.
    is_sent: Vec<bool>,
    /// Columns of the first row that no input is, for messages.
    others: Vec<String>,
    /// The names of all columns, when together they are the rows of the only input.
    matrix: Option<Vec<String>>,
}

impl Table<'_> {
    fn read_named<'de, A: MapAccess<'de>>(&mut self, mut pairs: A, row: usize) -> Result<(), A::Error> {
        /// How many names are kept for a message.
        const KEPT: usize = 64;
        let inputs = &self.signature.inputs;
        let mut guess = 0;
        while let Some(key) = pairs.next_key::<Cow<'de, str>>()? {
            let index = match inputs.get(guess) {
                Some(spec) if spec.name == key => Some(guess),
                _ => inputs.iter().position(|spec| spec.name == key),
            };
            let Some(index) = index else {
                if row == 0 && self.others.len() < KEPT {
                    self.others.push(key.into_owned());
                }
                pairs.next_value::<IgnoredAny>()?;
                continue;
            };
            if self.filled[index] != row {
                return Err(self.fail(format!("column {key:?} was sent twice in row {row}: send it once")));
            }
            pairs.next_value_seed(self.columns[index].row())?;
            (self.filled[index], self.is_sent[index], guess) = (row + 1, true, index + 1);
        }
        for index in 0..inputs.len() {
            if self.filled[index] == row {
                self.leave_out(index, row)?;
            }
        }
        Ok(())
    }

    /// A value that a record leaves out is missing, as in pandas; not every type has a value for that.
    fn leave_out<E: Error>(&mut self, index: usize, row: usize) -> Result<(), E> {
        let spec = &self.signature.inputs[index];
        let can_be_missing = matches!(
            spec.datatype,
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes
        );
        if !can_be_missing {
            return Err(match self.is_sent[index] {
                true => self.fail(format!("column {:?} is absent in row {row}: send it too", spec.name)),
                false => self.failure.set(self.absent(&spec.name)),
            });
        }
        self.filled[index] += 1;
        self.columns[index].row().visit_unit()
    }

    fn absent(&self, name: &str) -> ApiError {
        absent_column(self.signature, name, self.others.iter().map(String::as_str))
    }

    fn fail<E: Error>(&self, message: String) -> E {
        self.failure.set(ApiError::invalid(message))
    }

    fn into_tensors(self, rows: usize) -> Result<Vec<Tensor>> {
        if rows > 0
            && self.matrix.is_none()
            && let Some(index) = self.is_sent.iter().position(|sent| !sent)
        {
            return Err(self.absent(&self.signature.inputs[index].name));
        }
        tensors_of_rows(self.signature, self.columns, rows)
    }
}

struct Record<'t, 'a> {
    table: &'t mut Table<'a>,
    row: usize,
}

impl<'de> DeserializeSeed<'de> for Record<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record: an object with a value for each column")
    }

    fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<(), A::Error> {
        let Record { table, row } = self;
        let Table { columns, matrix, failure, .. } = &mut *table;
        match matrix {
            Some(names) => columns[0].row().visit_seq(Values { pairs, names, next: 0, row, failure }),
            None => table.read_named(pairs, row),
        }
    }
}

/// The values of a record whose columns are those of the first, in their order, as an array has them.
struct Values<'t, A> {
    pairs: A,
    names: &'t [String],
    next: usize,
    row: usize,
    failure: &'t Failure,
}

impl<'de, A: MapAccess<'de>> SeqAccess<'de> for Values<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let key = self.pairs.next_key::<Cow<'de, str>>()?;
        if key.as_deref() != self.names.get(self.next).map(String::as_str) {
            let row = self.row;
            let message =
                format!("row {row} has other columns than row 0, or in another order: send the same in every row");
            return Err(self.failure.set(ApiError::invalid(message)));
        }
        self.next += 1;
        if key.is_some() { self.pairs.next_value_seed(seed).map(Some) } else { Ok(None) }
    }
}

/// The keys of an object.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record: an object with a value for each column")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = pairs.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
