use std::{
    collections::HashSet,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::Arc,
};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{Float64Builder, StringBuilder},
};
use arrow_schema::{DataType, Field, SchemaRef};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use wattle_core::{Column, ColumnKind, Schema};

use super::{BATCH_ROWS, MAX_DISTINCT, Normalised, parquet_error};
use crate::{Error, Result};

/// Where the [`Schema`] is kept in the file's metadata.
pub(super) const SCHEMA_KEY: &str = "wattle.schema";

/// A row group ends early when its values take so many bytes, so that reading one never takes much more.
const GROUP_BYTES: usize = 128 << 20;

/// How many categories are remembered for counting, all columns together; a wide table of texts would take gigabytes.
const MAX_REMEMBERED: usize = 4_000_000;

/// Writes the normal form, row by row: a value for each column, then [`Writer::end_row`].
///
/// Row groups end by rows and bytes alone, never by how the input came in batches, so that the same rows give the same
/// file.
pub(super) struct Writer {
    arrow: ArrowWriter<File>,
    schema: SchemaRef,
    columns: Vec<ColumnWriter>,
    remembered: usize,
    group_rows: usize,
    group_bytes: usize,
    rows: u64,
}

impl Writer {
    /// Creates `output`.
    pub(super) fn create(output: &Path, names: &[String], kinds: &[ColumnKind]) -> Result<Writer> {
        let mut properties = WriterProperties::builder()
            .set_created_by("wattle".into())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(broken)?))
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(Some(BATCH_ROWS))
            .set_max_row_group_bytes(None);
        let mut fields = Vec::with_capacity(names.len());
        let mut columns = Vec::with_capacity(names.len());
        for (name, kind) in names.iter().zip(kinds) {
            // Numbers seldom repeat; a dictionary of them costs time and saves nothing after zstd.
            let path = ColumnPath::new(vec![name.clone()]);
            properties = properties.set_column_dictionary_enabled(path, *kind == ColumnKind::Category);
            fields.push(Field::new(name, data_type(*kind), true));
            columns.push(ColumnWriter::new(name, *kind));
        }
        let schema: SchemaRef = Arc::new(arrow_schema::Schema::new(fields));
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let arrow =
            ArrowWriter::try_new_with_options(File::create(output)?, schema.clone(), options).map_err(broken)?;
        Ok(Writer { arrow, schema, columns, remembered: 0, group_rows: 0, group_bytes: 0, rows: 0 })
    }

    /// The next value of a column of numbers, which is finite.
    pub(super) fn push_number(&mut self, column: usize, value: f64) {
        let column = &mut self.columns[column];
        if let Cells::Numbers(cells) = &mut column.cells {
            cells.append_value(value);
            column.range = Some(column.range.map_or([value, value], |[low, high]| [low.min(value), high.max(value)]));
            self.group_bytes += size_of::<f64>();
        } else {
            unreachable!("a number in a column of categories");
        }
    }

    /// The next value of a column of categories.
    pub(super) fn push_category(&mut self, column: usize, value: &str) {
        let column = &mut self.columns[column];
        if let Cells::Categories(cells) = &mut column.cells {
            cells.append_value(value);
            self.group_bytes += value.len() + size_of::<i32>();
            column.distinct.see(value, &mut self.remembered);
        } else {
            unreachable!("a category in a column of numbers");
        }
    }

    /// The next value of a column is missing.
    pub(super) fn push_missing(&mut self, column: usize) {
        let column = &mut self.columns[column];
        column.missing += 1;
        match &mut column.cells {
            Cells::Numbers(cells) => cells.append_null(),
            Cells::Categories(cells) => cells.append_null(),
        }
        self.group_bytes += size_of::<f64>();
    }

    /// Every column has got its value.
    pub(super) fn end_row(&mut self) -> Result<()> {
        self.rows += 1;
        self.group_rows += 1;
        if self.group_rows == BATCH_ROWS || self.group_bytes >= GROUP_BYTES { self.end_group() } else { Ok(()) }
    }

    /// Writes what is left and the schema.
    pub(super) fn finish(mut self) -> Result<Normalised> {
        if self.rows == 0 {
            return Err(Error::Invalid("the table has no rows: give at least one".into()));
        }
        if self.group_rows > 0 {
            self.end_group()?;
        }
        let schema = Schema { columns: self.columns.into_iter().map(ColumnWriter::into_column).collect() };
        let text = serde_json::to_string(&schema).map_err(|error| Error::Corrupt(error.to_string()))?;
        self.arrow.append_key_value_metadata(KeyValue::new(SCHEMA_KEY.to_owned(), text));
        self.arrow.close().map_err(broken)?;
        Ok(Normalised { schema, rows: self.rows, warnings: vec![] })
    }

    fn end_group(&mut self) -> Result<()> {
        let arrays = self.columns.iter_mut().map(|column| column.cells.take()).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays).map_err(|error| broken(error.into()))?;
        self.arrow.write(&batch).and_then(|()| self.arrow.flush()).map_err(broken)?;
        (self.group_rows, self.group_bytes) = (0, 0);
        Ok(())
    }
}

/// The Arrow type of a column's values in the normal form.
pub(super) fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Number => DataType::Float64,
        ColumnKind::Category => DataType::Utf8,
    }
}

/// A failure to write, which is the disk's or a bug of ours: the rows were checked before.
fn broken(error: ParquetError) -> Error {
    parquet_error(error, |reason| Error::Corrupt(format!("the table could not be written: {reason}")))
}

struct ColumnWriter {
    name: String,
    kind: ColumnKind,
    cells: Cells,
    missing: u64,
    range: Option<[f64; 2]>,
    distinct: Distinct,
}

impl ColumnWriter {
    fn new(name: &str, kind: ColumnKind) -> ColumnWriter {
        let cells = match kind {
            ColumnKind::Number => Cells::Numbers(Float64Builder::with_capacity(0)),
            ColumnKind::Category => Cells::Categories(StringBuilder::with_capacity(0, 0)),
        };
        ColumnWriter { name: name.to_owned(), kind, cells, missing: 0, range: None, distinct: Distinct::default() }
    }

    fn into_column(self) -> Column {
        let distinct = (self.kind == ColumnKind::Category).then_some(self.distinct.seen.len() as u64);
        Column { name: self.name, kind: self.kind, missing: self.missing, distinct, range: self.range }
    }
}

enum Cells {
    Numbers(Float64Builder),
    Categories(StringBuilder),
}

impl Cells {
    fn take(&mut self) -> ArrayRef {
        match self {
            Cells::Numbers(cells) => Arc::new(cells.finish()),
            Cells::Categories(cells) => Arc::new(cells.finish()),
        }
    }
}

/// Counts different texts by their hashes, so that long ones take no memory.
#[derive(Default)]
struct Distinct {
    seen: HashSet<u64>,
    last: Option<u64>,
}

impl Distinct {
    fn see(&mut self, text: &str, remembered: &mut usize) {
        if self.seen.len() == MAX_DISTINCT || *remembered == MAX_REMEMBERED {
            return;
        }
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if self.last != Some(hash) {
            self.last = Some(hash);
            *remembered += usize::from(self.seen.insert(hash));
        }
    }
}
