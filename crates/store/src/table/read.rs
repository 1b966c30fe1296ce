use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use arrow_array::{Array, Float64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        },
    },
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use wattle_core::Schema;

use super::{
    BATCH_ROWS, guarded,
    infer::unknown_column,
    write::{SCHEMA_KEY, data_type},
};
use crate::{Error, Result};

/// A data set in its normal form.
///
/// Its file may be deleted while it is open; the rows stay readable until it is dropped.
#[derive(Debug, Clone)]
pub struct Table {
    file: Positioned,
    metadata: ArrowReaderMetadata,
    schema: Schema,
}

impl Table {
    /// Opens a file that [`normalise`](super::normalise) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Invalid`] when it is something else.
    pub fn open(path: &Path) -> Result<Table> {
        let file = Positioned::new(File::open(path)?)?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = guarded(|| ArrowReaderMetadata::load(&file, options), not_normal)?;
        let schema = stored_schema(&metadata).ok_or_else(|| not_normal("it says nothing of its columns"))?;
        let stored = metadata.schema().fields().iter().map(|field| (field.name().as_str(), field.data_type().clone()));
        if !stored.eq(schema.columns.iter().map(|column| (column.name.as_str(), data_type(column.kind)))) {
            return Err(not_normal("its columns are not those that it names"));
        }
        Ok(Table { file, metadata, schema })
    }

    /// The columns.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().unsigned_abs()
    }

    /// Streams the named columns, in the order asked, at most [`BATCH_ROWS`] rows at a time.
    ///
    /// Batches are cut at the same rows whichever columns are asked for, and hold fewer rows where the table is wide.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an unknown column, naming the one that is spelt most like it, and when no column is named.
    pub fn read(&self, columns: &[&str]) -> Result<TableReader> {
        if columns.is_empty() {
            return Err(Error::Invalid("no column is asked for: name at least one".into()));
        }
        let names = || self.schema.columns.iter().map(|column| column.name.as_str());
        let place = |name: &&str| names().position(|known| known == *name).ok_or_else(|| unknown_column(name, names()));
        let asked = columns.iter().map(place).collect::<Result<Vec<usize>>>()?;
        let mut stored = asked.clone();
        stored.sort_unstable();
        stored.dedup();
        let order = asked.iter().filter_map(|place| stored.binary_search(place).ok()).collect();
        Ok(TableReader { table: self.clone(), stored, order, group: 0, batches: None })
    }
}

/// The values of one column for some rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Numbers; NaN where one is missing.
    Numbers(Vec<f64>),
    /// Categories; null where one is missing.
    Categories(StringArray),
}

impl Values {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Values::Numbers(values) => values.len(),
            Values::Categories(values) => values.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The rows of a [`Table`] in batches: for each column that was asked for, its values.
///
/// It ends after an error.
#[derive(Debug)]
pub struct TableReader {
    table: Table,
    /// The places of the columns in the file, ascending.
    stored: Vec<usize>,
    /// For each column asked for, its place in `stored`.
    order: Vec<usize>,
    /// The row group after the one at hand.
    group: usize,
    batches: Option<ParquetRecordBatchReader>,
}

impl Iterator for TableReader {
    type Item = Result<Vec<Values>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = guarded(|| self.next_batch(), damaged).transpose()?;
        let values = batch.and_then(|batch| {
            let columns = batch.columns().iter().map(|array| values(array)).collect::<Option<Vec<Values>>>();
            columns.ok_or_else(|| damaged("a column changed its type"))
        });
        if values.is_err() {
            self.batches = None;
            self.group = self.table.metadata.metadata().num_row_groups();
        }
        Some(values.map(|values| self.order.iter().map(|place| values[*place].clone()).collect()))
    }
}

impl TableReader {
    /// One row group after the other: its size was bounded when it was written, also that of its texts.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ParquetError> {
        loop {
            if let Some(batch) = self.batches.as_mut().and_then(Iterator::next) {
                return Ok(Some(batch?));
            }
            let metadata = &self.table.metadata;
            if self.group == metadata.metadata().num_row_groups() {
                return Ok(None);
            }
            let mask = ProjectionMask::roots(metadata.parquet_schema(), self.stored.iter().copied());
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.table.file.clone(), metadata.clone())
                .with_row_groups(vec![self.group])
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS);
            self.batches = Some(builder.build()?);
            self.group += 1;
        }
    }
}

/// Bytes that are read at given places, so that several readers of them do not move each other's.
#[derive(Debug, Clone)]
pub(super) struct Positioned {
    source: Source,
    length: u64,
}

#[derive(Debug, Clone)]
enum Source {
    File(Arc<File>),
    Memory(Bytes),
}

impl Positioned {
    /// Takes the file's length as it is now.
    pub(super) fn new(file: File) -> io::Result<Positioned> {
        Ok(Positioned { length: file.metadata()?.len(), source: Source::File(Arc::new(file)) })
    }

    /// A file that is in memory.
    pub(super) fn in_memory(bytes: Bytes) -> Positioned {
        Positioned { length: bytes.len() as u64, source: Source::Memory(bytes) }
    }
}

impl Length for Positioned {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Positioned {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(Cursor { source: self.source.clone(), place: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // The length comes from the file, which may lie.
        let end = start.checked_add(length as u64).filter(|end| *end <= self.length);
        end.ok_or_else(|| ParquetError::EOF(format!("{length} bytes at {start} of a file of {} bytes", self.length)))?;
        match &self.source {
            Source::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
            Source::Memory(bytes) => Ok(bytes.slice(start as usize..start as usize + length)),
        }
    }
}

/// Reads from a place on.
#[derive(Debug)]
pub(super) struct Cursor {
    source: Source,
    place: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &self.source {
            Source::File(file) => file.read_at(buffer, self.place)?,
            Source::Memory(bytes) => bytes.get(self.place as usize..).unwrap_or_default().read(buffer)?,
        };
        self.place += read as u64;
        Ok(read)
    }
}

fn stored_schema(metadata: &ArrowReaderMetadata) -> Option<Schema> {
    let entries = metadata.metadata().file_metadata().key_value_metadata()?;
    let entry = entries.iter().find(|entry| entry.key == SCHEMA_KEY)?;
    serde_json::from_str(entry.value.as_deref()?).ok()
}

fn values(array: &dyn Array) -> Option<Values> {
    if let Some(categories) = array.as_any().downcast_ref::<StringArray>() {
        return Some(Values::Categories(categories.clone()));
    }
    let numbers = array.as_any().downcast_ref::<Float64Array>()?;
    Some(Values::Numbers(match numbers.null_count() {
        0 => numbers.values().to_vec(),
        _ => numbers.iter().map(|value| value.unwrap_or(f64::NAN)).collect(),
    }))
}

fn not_normal(reason: &str) -> Error {
    Error::Invalid(format!("this is not a stored data set ({reason}): add the file with `wattle data add` first"))
}

fn damaged(reason: &str) -> Error {
    Error::Corrupt(format!("the stored data set is damaged ({reason}): remove it and add its file again"))
}
