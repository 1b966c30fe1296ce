mod footer;
mod guard;
pub(super) mod pages;
mod thrift;

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{
    Array, ArrayRef, Float64Array, RecordBatch, StringArray, StringViewArray, cast::AsArray, types::Float64Type,
};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use parquet::{
    arrow::{
        FieldLevels, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader},
        parquet_to_arrow_field_levels,
    },
    basic::ConvertedType,
    file::metadata::ParquetMetaData,
};
use wattle_core::ColumnKind;

use super::{
    MAX_FIELD_BYTES, MAX_RECORD_BYTES, Normalised, Overrides, guarded,
    infer::{Missing, check_names, not_a_number, number, wanted_kinds},
    read::Positioned,
    shown, too_long,
    write::Writer,
};
use crate::{Error, Result};

/// Turns a Parquet file of `size` bytes from outside into the normal form.
pub(super) fn normalise(
    input: File,
    size: u64,
    output: &Path,
    overrides: &Overrides,
    progress: &mut dyn FnMut(u64),
) -> Result<Normalised> {
    let input = Positioned::new(input)?;
    footer::check(&input)?;
    let metadata = guarded(|| ArrowReaderMetadata::load(&input, ArrowReaderOptions::new()), refusal)?;
    let names: Vec<String> = metadata.schema().fields().iter().map(|field| field.name().clone()).collect();
    check_names(&names)?;
    let sources = sources(metadata.schema())?;
    let wanted = wanted_kinds(&names, overrides)?;
    let kinds: Vec<ColumnKind> =
        wanted.iter().zip(&sources).map(|(wanted, source)| wanted.unwrap_or(source.kind())).collect();
    let total = metadata.metadata().file_metadata().num_rows().unsigned_abs();
    let missing = Missing::new(overrides);
    let missing_numbers = missing.numbers();

    let mut writer = Writer::create(output, &names, &kinds)?;
    let mut batches = Batches::new(input, size, &metadata)?;
    let mut done: u64 = 0;
    while let Some(batch) = batches.next()? {
        let columns = (0..names.len())
            .map(|index| {
                guarded(
                    || Ok(convert(batch.column(index), sources[index], kinds[index], batches.is_checked[index])?),
                    |reason| Error::Invalid(format!("column {} cannot be converted: {reason}", shown(&names[index]))),
                )
            })
            .collect::<Result<Vec<Cells>>>()?;
        for row in 0..batch.num_rows() {
            let place = || format!("row {}", done + row as u64 + 1);
            let mut text_bytes = 0;
            for (index, column) in columns.iter().enumerate() {
                let cell = column.get(row);
                if let Cell::Text(text) = cell {
                    text_bytes += text.len();
                    if text.len() > MAX_FIELD_BYTES {
                        return Err(too_long(&place(), &names[index]));
                    }
                    if text_bytes > MAX_RECORD_BYTES {
                        return Err(too_long_a_row(&place()));
                    }
                }
                match cell {
                    Cell::Missing => writer.push_missing(index),
                    Cell::Number(value) if value.is_nan() || missing_numbers.contains(&value) => {
                        writer.push_missing(index);
                    }
                    Cell::Number(value) if value.is_infinite() => {
                        return Err(not_a_number(&place(), &names[index], &value.to_string()));
                    }
                    Cell::Number(value) => writer.push_number(index, value),
                    Cell::Text(text) if missing.is_empty_or_given(text) => writer.push_missing(index),
                    Cell::Text(text) if text.contains('\0') => return Err(nul(&place(), &names[index])),
                    Cell::Text(text) => match (kinds[index], sources[index]) {
                        (ColumnKind::Category, Source::Number) if text == "NaN" => writer.push_missing(index),
                        (ColumnKind::Category, _) => writer.push_category(index, text),
                        (ColumnKind::Number, _) if missing.contains(text) => writer.push_missing(index),
                        (ColumnKind::Number, _) => match number(text) {
                            Some(value) => writer.push_number(index, value),
                            None => return Err(not_a_number(&place(), &names[index], text)),
                        },
                    },
                }
            }
            writer.end_row()?;
        }
        done += batch.num_rows() as u64;
        progress((2.0 * size as f64 * done as f64 / total.max(done) as f64) as u64);
    }
    writer.finish()
}

/// The rows of a file, in batches that take a bounded amount of memory however large the pages unpack to.
pub(super) struct Batches {
    input: Arc<Positioned>,
    metadata: Arc<ParquetMetaData>,
    levels: FieldLevels,
    /// Which columns are read as views into their pages, so that a text that is repeated is held once.
    is_view: Vec<bool>,
    /// Which columns' texts the Parquet library knows to be UTF-8.
    is_checked: Vec<bool>,
    allowed_bytes: u64,
    group: usize,
    current: Option<ParquetRecordBatchReader>,
}

impl Batches {
    /// Before the first row of a file of `size` bytes.
    pub(super) fn new(input: Positioned, size: u64, metadata: &ArrowReaderMetadata) -> Result<Batches> {
        let hint: Fields = metadata.schema().fields().iter().map(|field| as_view(field)).collect();
        let metadata = metadata.metadata().clone();
        let columns = metadata.file_metadata().schema_descr();
        let levels = guarded(|| parquet_to_arrow_field_levels(columns, ProjectionMask::all(), Some(&hint)), refusal)?;
        Ok(Batches {
            is_view: hint.iter().map(|field| *field.data_type() == DataType::Utf8View).collect(),
            is_checked: columns.columns().iter().map(|column| column.converted_type() == ConvertedType::UTF8).collect(),
            input: Arc::new(input),
            levels,
            allowed_bytes: pages::allowance(size),
            group: 0,
            current: None,
            metadata,
        })
    }

    /// The next rows, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(reader) = &mut self.current {
                if let Some(batch) = guarded(|| reader.next().transpose().map_err(Into::into), refusal)? {
                    return Ok(Some(batch));
                }
                self.current = None;
            }
            if self.group == self.metadata.num_row_groups() {
                return Ok(None);
            }
            let rows = pages::batch_rows(
                &self.input,
                self.metadata.row_group(self.group),
                &self.is_view,
                batch_rows(self.is_view.len()),
                self.allowed_bytes,
            )?;
            let group =
                guard::GuardedGroup { input: self.input.clone(), metadata: self.metadata.clone(), group: self.group };
            let open = || ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, rows, None);
            self.current = Some(guarded(open, refusal)?);
            self.group += 1;
        }
    }
}

/// The field that asks for a text as a view.
fn as_view(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, values) => values,
        data_type => data_type,
    };
    let data_type = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        data_type => data_type.clone(),
    };
    field.clone().with_data_type(data_type)
}

/// What Parquet's type of a column means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Number,
    Text,
    /// A truth value, a date or a time: written as text.
    Written,
    /// A time in some zone: written in UTC, since the names of zones are not known here.
    Instant,
}

impl Source {
    fn kind(self) -> ColumnKind {
        if self == Source::Number { ColumnKind::Number } else { ColumnKind::Category }
    }
}

/// What each column's type means; an error for a type that has no meaning in a table of numbers and categories.
fn sources(schema: &Schema) -> Result<Vec<Source>> {
    schema.fields().iter().map(|field| source(field.name(), field.data_type())).collect()
}

fn source(name: &str, data_type: &DataType) -> Result<Source> {
    let advice = match data_type {
        DataType::Dictionary(_, values) => return source(name, values),
        data_type if data_type.is_numeric() || data_type.is_null() => return Ok(Source::Number),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => return Ok(Source::Text),
        DataType::Timestamp(_, Some(_)) => return Ok(Source::Instant),
        DataType::Boolean
        | DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(_, None) => return Ok(Source::Written),
        data_type if data_type.is_nested() => "make a column of each of its parts",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "write it as text (UTF-8)"
        }
        DataType::Duration(_) | DataType::Interval(_) => "write it as a number",
        _ => "write it as a number or as text",
    };
    Err(Error::Invalid(format!("column {} has the type {data_type}: {advice}, or leave it out", shown(name))))
}

/// The values of a column in one batch.
enum Cells {
    Numbers(Float64Array),
    Texts(StringArray),
    Views(StringViewArray),
}

enum Cell<'a> {
    Missing,
    Number(f64),
    Text(&'a str),
}

impl Cells {
    fn get(&self, row: usize) -> Cell<'_> {
        match self {
            Cells::Numbers(values) if values.is_valid(row) => Cell::Number(values.value(row)),
            Cells::Texts(values) if values.is_valid(row) => Cell::Text(values.value(row)),
            Cells::Views(values) if values.is_valid(row) => Cell::Text(values.value(row)),
            _ => Cell::Missing,
        }
    }
}

fn convert(array: &ArrayRef, source: Source, kind: ColumnKind, is_checked: bool) -> Result<Cells, ArrowError> {
    if source == Source::Number && kind == ColumnKind::Number {
        return Ok(Cells::Numbers(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone()));
    }
    if source == Source::Text && !is_checked {
        // The library believes the schema that was written beside Parquet's own.
        array.to_data().validate_full()?;
    }
    if let Some(views) = array.as_string_view_opt() {
        return Ok(Cells::Views(views.clone()));
    }
    let mut array = array.clone();
    if let (Source::Instant, DataType::Timestamp(unit, _)) = (source, array.data_type()) {
        array = cast(&array, &DataType::Timestamp(*unit, Some("+00:00".into())))?;
    }
    Ok(Cells::Texts(cast(&array, &DataType::Utf8)?.as_string::<i32>().clone()))
}

/// The most rows to read at once, so that the values of a wide table do not take much memory.
fn batch_rows(columns: usize) -> usize {
    const CELLS: usize = 1 << 20;
    (CELLS / columns.max(1)).clamp(64, 8192)
}

fn refusal(reason: &str) -> Error {
    Error::Invalid(format!("the Parquet file cannot be read ({reason}): check that it is complete, or write it again"))
}

fn nul(place: &str, column: &str) -> Error {
    Error::Invalid(format!("{place}: the text in column {} has a NUL byte: remove it", shown(column)))
}

fn too_long_a_row(place: &str) -> Error {
    Error::TooLarge(format!(
        "{place}: the texts are longer than {} MiB together: leave some columns out",
        MAX_RECORD_BYTES >> 20
    ))
}
