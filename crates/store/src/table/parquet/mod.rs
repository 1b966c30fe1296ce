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
    let opened = Opened::new(Positioned::new(input)?, |_| Ok::<_, Error>(()))?;
    let names = opened.names();
    check_names(&names)?;
    let sources = sources(opened.metadata.schema())?;
    let wanted = wanted_kinds(&names, overrides)?;
    let kinds: Vec<ColumnKind> =
        wanted.iter().zip(&sources).map(|(wanted, source)| wanted.unwrap_or(source.kind())).collect();
    let total = opened.metadata.metadata().file_metadata().num_rows().unsigned_abs();
    let missing = Missing::new(overrides);

    let mut writer = Writer::create(output, &names, &kinds)?;
    let mut batches = Batches::new(opened, &(0..names.len()).collect::<Vec<usize>>(), pages::allowance(size))?;
    let mut done: u64 = 0;
    while let Some(batch) = batches.next()? {
        let columns = (0..names.len())
            .map(|index| batches.cells(&batch, index, &names[index], sources[index], kinds[index]))
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
                match cell.meaning(sources[index], kinds[index], &missing) {
                    Ok(Cell::Missing) => writer.push_missing(index),
                    Ok(Cell::Number(value)) => writer.push_number(index, value),
                    Ok(Cell::Text(text)) => writer.push_category(index, text),
                    Err(Unfit::NoNumber(text)) => return Err(not_a_number(&place(), &names[index], &text)),
                    Err(Unfit::Nul) => return Err(nul(&place(), &names[index])),
                }
            }
            writer.end_row()?;
        }
        done += batch.num_rows() as u64;
        progress((2.0 * size as f64 * done as f64 / total.max(done) as f64) as u64);
    }
    writer.finish()
}

/// A file whose footer is read.
pub(super) struct Opened {
    pub(super) input: Positioned,
    pub(super) metadata: ArrowReaderMetadata,
}

impl Opened {
    /// Reads the footer, after `reserve` was told how many bytes it may take in memory.
    pub(super) fn new<E: From<Error>>(
        input: Positioned,
        reserve: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<Opened, E> {
        /// What a byte of the footer may become.
        const UNPACKED: u64 = 30;
        reserve(UNPACKED * footer::check(&input)?)?;
        let metadata = guarded(|| ArrowReaderMetadata::load(&input, ArrowReaderOptions::new()), refusal)?;
        Ok(Opened { input, metadata })
    }

    /// The columns' names.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.schema().fields().iter().map(|field| field.name().clone()).collect()
    }
}

/// The rows of some columns of a file, in batches that take a bounded amount of memory however large the pages unpack to.
pub(super) struct Batches {
    input: Arc<Positioned>,
    metadata: Arc<ParquetMetaData>,
    levels: FieldLevels,
    columns: Vec<ReadColumn>,
    allowed_bytes: u64,
    group: usize,
    current: Option<ParquetRecordBatchReader>,
}

/// How a column is read.
struct ReadColumn {
    /// Its place among the columns of values, which nested ones have several of.
    place: usize,
    /// As views into its pages, so that a text that is repeated is held once.
    is_view: bool,
    /// Whether the Parquet library knows its texts to be UTF-8.
    is_checked: bool,
}

impl Batches {
    /// Before the first row: the columns at these places, which ascend, in at most so many bytes of memory.
    pub(super) fn new(opened: Opened, columns: &[usize], allowed_bytes: u64) -> Result<Batches> {
        let Opened { input, metadata } = opened;
        let hint: Fields = metadata.schema().fields().iter().map(|field| as_view(field)).collect();
        let metadata = metadata.metadata().clone();
        let schema = metadata.file_metadata().schema_descr();
        let mask = ProjectionMask::roots(schema, columns.iter().copied());
        let levels = guarded(|| parquet_to_arrow_field_levels(schema, mask, Some(&hint)), refusal)?;
        let read = |(place, root): (usize, usize)| ReadColumn {
            place,
            is_view: *hint[root].data_type() == DataType::Utf8View,
            is_checked: schema.column(place).converted_type() == ConvertedType::UTF8,
        };
        let roots = (0..schema.num_columns()).map(|place| (place, schema.get_column_root_idx(place)));
        let columns = roots.filter(|(_, root)| columns.contains(root)).map(read).collect();
        Ok(Batches { input: Arc::new(input), levels, columns, allowed_bytes, group: 0, current: None, metadata })
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
                self.columns.iter().map(|column| (column.place, column.is_view)),
                batch_rows(self.columns.len()),
                self.allowed_bytes,
            )?;
            let group =
                guard::GuardedGroup { input: self.input.clone(), metadata: self.metadata.clone(), group: self.group };
            let open = || ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &group, rows, None);
            self.current = Some(guarded(open, refusal)?);
            self.group += 1;
        }
    }

    /// The values of the column at this place of a batch.
    pub(super) fn cells(
        &self,
        batch: &RecordBatch,
        index: usize,
        name: &str,
        source: Source,
        kind: ColumnKind,
    ) -> Result<Cells> {
        guarded(
            || Ok(convert(batch.column(index), source, kind, self.columns[index].is_checked)?),
            |reason| Error::Invalid(format!("column {} cannot be converted: {reason}", shown(name))),
        )
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
pub(super) enum Source {
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

/// What a column's type means.
pub(super) fn source(name: &str, data_type: &DataType) -> Result<Source> {
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
pub(super) enum Cells {
    Numbers(Float64Array),
    Texts(StringArray),
    Views(StringViewArray),
}

/// One value.
#[derive(Clone, Copy)]
pub(super) enum Cell<'a> {
    Missing,
    Number(f64),
    Text(&'a str),
}

/// Why a value is none in its column.
pub(super) enum Unfit {
    /// This is no finite number.
    NoNumber(String),
    /// It has a NUL byte.
    Nul,
}

impl Cell<'_> {
    /// What a value means in a column of this kind: nothing, a finite number or a text.
    pub(super) fn meaning(self, source: Source, kind: ColumnKind, missing: &Missing) -> Result<Self, Unfit> {
        Ok(match self {
            Cell::Number(value) if value.is_nan() || missing.numbers().contains(&value) => Cell::Missing,
            Cell::Number(value) if value.is_infinite() => return Err(Unfit::NoNumber(value.to_string())),
            Cell::Text(text) if missing.is_empty_or_given(text) => Cell::Missing,
            Cell::Text(text) if text.contains('\0') => return Err(Unfit::Nul),
            Cell::Text(text) => match (kind, source) {
                (ColumnKind::Category, Source::Number) if text == "NaN" => Cell::Missing,
                (ColumnKind::Category, _) => self,
                (ColumnKind::Number, _) if missing.contains(text) => Cell::Missing,
                (ColumnKind::Number, _) => match number(text) {
                    Some(value) => Cell::Number(value),
                    None => return Err(Unfit::NoNumber(text.to_owned())),
                },
            },
            _ => self,
        })
    }
}

impl Cells {
    pub(super) fn get(&self, row: usize) -> Cell<'_> {
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

pub(super) fn nul(place: &str, column: &str) -> Error {
    Error::Invalid(format!("{place}: the text in column {} has a NUL byte: remove it", shown(column)))
}

fn too_long_a_row(place: &str) -> Error {
    Error::TooLarge(format!(
        "{place}: the texts are longer than {} MiB together: leave some columns out",
        MAX_RECORD_BYTES >> 20
    ))
}
