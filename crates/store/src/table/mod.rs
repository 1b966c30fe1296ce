//! Wattle's normal form of a data set: CSV and Parquet from outside become one kind of Parquet file, read back streaming.
//!
//! The normal form has a row group for at most [`BATCH_ROWS`] rows, fewer where the rows are wide, 64-bit floating-point
//! numbers and UTF-8 texts, and null where there is no value. Its bytes depend on the rows, the columns' names and their
//! kinds alone, so the same table has the same digest. The [`Schema`] is kept in the file's key-value metadata.
//!
//! Everything here blocks; memory is bounded whatever the size of the file.

mod csv;
mod frame;
mod infer;
mod parquet;
mod read;
mod write;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ::parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use wattle_core::{ColumnKind, Schema};

pub use frame::{Frame, FrameColumn};
pub use read::{Table, TableReader, Values};

use crate::{Error, Result};

/// The most rows of a row group, and of a batch that [`TableReader`] gives.
pub const BATCH_ROWS: usize = 65_536;

/// The most columns of a table.
pub const MAX_COLUMNS: usize = 10_000;

/// The longest record of a CSV file, in bytes.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// The longest text of one value, in bytes.
pub const MAX_FIELD_BYTES: usize = 1 << 20;

/// The longest name of a column, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// How far the different categories of a column are counted; less far where hundreds of columns have so many.
pub const MAX_DISTINCT: usize = 10_000;

/// What a person says about a file instead of leaving it to be inferred.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// The kinds of some columns, by name.
    pub kinds: BTreeMap<String, ColumnKind>,
    /// Texts that mean "no value", beside the usual ones.
    pub missing: Vec<String>,
    /// The byte between two values of a CSV file.
    pub delimiter: Option<u8>,
}

impl Overrides {
    /// Whether everything is left to be inferred.
    pub fn is_default(&self) -> bool {
        *self == Overrides::default()
    }
}

/// What a file turned out to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalised {
    /// The columns, in the order of the file.
    pub schema: Schema,
    /// How many rows there are.
    pub rows: u64,
    /// What looks like a slip in the file and was read all the same; each says what to do.
    pub warnings: Vec<String>,
}

/// Reads `input` (CSV with a header, or Parquet, told apart by their first bytes) and writes the normal form to `output`.
///
/// `progress` is told how many bytes of the input are done. The input counts twice, once for inferring and once for
/// writing, so that the last figure is twice the size of the file.
///
/// In CSV, spaces around a value count only inside quotes, and a value is missing when it is empty but for spaces or one of NA, N/A, NaN, nan, null, NULL, None, ? and the
/// texts of `overrides`; in Parquet, when it is null, NaN, an empty text or one of the texts of `overrides`. A CSV column
/// whose every value is a finite number is one of numbers, any other is one of categories; Parquet's types decide for
/// themselves (dates and times become texts in ISO 8601). Whole numbers beyond 2^53 lose their last digits unless
/// `overrides` makes them categories.
///
/// # Errors
///
/// [`Error::Invalid`] and [`Error::TooLarge`] for a file that cannot become a table, naming the line (CSV) or the column
/// and row (Parquet) and what to do; [`Error::Full`] and [`Error::Io`] when a file cannot be read or written. What is in
/// `output` after an error is of no use.
pub fn normalise(
    input: &Path,
    output: &Path,
    overrides: &Overrides,
    progress: &mut dyn FnMut(u64),
) -> Result<Normalised> {
    let mut file = File::open(input)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::Invalid("this is not a regular file: give a CSV or a Parquet file".into()));
    }
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    match magic.as_slice() {
        b"PAR1" => parquet::normalise(file, metadata.len(), output, overrides, progress),
        b"PARE" => Err(Error::Invalid("the Parquet file is encrypted: write it without encryption".into())),
        b"PK\x03\x04" => {
            Err(Error::Invalid("this is a workbook or a zip archive: save the table as CSV or Parquet".into()))
        }
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => Err(Error::Invalid(
            "the file is compressed: unpack it first (a Parquet file may be compressed inside)".into(),
        )),
        _ => csv::normalise(file, metadata.len(), output, overrides, progress),
    }
}

/// A text for an error message, cut when it is long.
fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    if text.chars().nth(LONGEST).is_none() {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(LONGEST).collect::<String>())
}

/// The error that a value is longer than [`MAX_FIELD_BYTES`].
fn too_long(place: &str, column: &str) -> Error {
    Error::TooLarge(format!(
        "{place}: the value in column {} is longer than {} MiB: shorten it or leave the column out",
        shown(column),
        MAX_FIELD_BYTES >> 20
    ))
}

/// Does `work` with the Parquet library, which may panic on crafted bytes; what is wrong with the bytes goes to `refusal`.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>, refusal: impl FnOnce(&str) -> Error) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| parquet_error(error, refusal)),
        Err(_) => Err(refusal("its parts contradict each other")),
    }
}

/// The disk's error where the disk is to blame, else what `refusal` makes of the library's words.
fn parquet_error(error: ParquetError, refusal: impl FnOnce(&str) -> Error) -> Error {
    let ParquetError::External(inner) = error else { return refusal(&error.to_string()) };
    match inner.downcast::<io::Error>() {
        // Decoders of the file's codings use the same type of error, of any kind, but no number of the system's.
        Ok(error) if error.raw_os_error().is_some() => (*error).into(),
        Ok(error) => refusal(&error.to_string()),
        Err(error) => refusal(&error.to_string()),
    }
}

#[cfg(test)]
mod tests;
