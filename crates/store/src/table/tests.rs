#![allow(clippy::unwrap_used)]

mod bombs;
mod csv;
mod frame;
mod parquet;
mod read;

use std::{fs, path::PathBuf};

use arrow_array::{Array, StringArray};
use tempfile::TempDir;
use wattle_core::ColumnKind;

use super::{Normalised, Overrides, Table, Values, normalise};
use crate::{Error, Result};

/// A folder with an input and an output.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: TempDir::new().unwrap() }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    fn normalise(&self, overrides: &Overrides) -> Result<Normalised> {
        normalise(&self.input(), &self.output(), overrides, &mut |_| ())
    }

    /// The input's columns with their names, after it was normalised.
    fn columns(&self, overrides: &Overrides) -> Vec<(String, Cells)> {
        let normalised = self.normalise(overrides).unwrap();
        let table = Table::open(&self.output()).unwrap();
        assert_eq!((table.schema(), table.rows()), (&normalised.schema, normalised.rows));
        columns(&table)
    }

    /// The message that refuses the input.
    fn refusal(&self, overrides: &Overrides) -> String {
        match self.normalise(overrides) {
            Err(Error::Invalid(message) | Error::TooLarge(message)) => message,
            other => panic!("not a refusal: {other:?}"),
        }
    }
}

/// The columns of a CSV text.
fn csv_columns(text: &str) -> Vec<(String, Cells)> {
    let bench = Bench::new();
    fs::write(bench.input(), text).unwrap();
    bench.columns(&Overrides::default())
}

/// The message that refuses some bytes.
fn refusal_of(bytes: impl AsRef<[u8]>) -> String {
    let bench = Bench::new();
    fs::write(bench.input(), bytes).unwrap();
    bench.refusal(&Overrides::default())
}

/// A column that compares, unlike one with NaN.
#[derive(Debug, Clone, PartialEq)]
enum Cells {
    Numbers(Vec<Option<f64>>),
    Texts(Vec<Option<String>>),
}

fn numbers<const N: usize>(values: [Option<f64>; N]) -> Cells {
    Cells::Numbers(values.to_vec())
}

fn texts<const N: usize>(values: [Option<&str>; N]) -> Cells {
    Cells::Texts(values.map(|value| value.map(str::to_owned)).to_vec())
}

fn named<const N: usize>(columns: [(&str, Cells); N]) -> Vec<(String, Cells)> {
    columns.map(|(name, cells)| (name.to_owned(), cells)).to_vec()
}

fn columns(table: &Table) -> Vec<(String, Cells)> {
    let names: Vec<&str> = table.schema().columns.iter().map(|column| column.name.as_str()).collect();
    let mut columns: Vec<(String, Cells)> = table
        .schema()
        .columns
        .iter()
        .map(|column| match column.kind {
            ColumnKind::Number => (column.name.clone(), Cells::Numbers(vec![])),
            ColumnKind::Category => (column.name.clone(), Cells::Texts(vec![])),
        })
        .collect();
    for batch in table.read(&names).unwrap() {
        for (values, (_, cells)) in batch.unwrap().iter().zip(&mut columns) {
            match (values, cells) {
                (Values::Numbers(new), Cells::Numbers(cells)) => {
                    cells.extend(new.iter().map(|value| (!value.is_nan()).then_some(*value)));
                }
                (Values::Categories(new), Cells::Texts(cells)) => cells.extend(owned(new)),
                _ => panic!("the values are not of the schema's kind"),
            }
        }
    }
    columns
}

fn owned(values: &StringArray) -> impl Iterator<Item = Option<String>> {
    (0..values.len()).map(|row| values.is_valid(row).then(|| values.value(row).to_owned()))
}
