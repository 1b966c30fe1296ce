use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use parquet::{
    basic::{Compression, Encoding, Type},
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        reader::ChunkReader,
    },
};

use super::{
    super::{guarded, read::Positioned},
    refusal,
    thrift::{Thrift, malformed},
};
use crate::{Error, Result};

/// What the batches of one row group may take on top of its largest pages, in bytes.
const BATCH_BYTES: u64 = 64 << 20;

/// The longest head of a page, in bytes; it may hold the page's least and greatest texts.
const MAX_HEAD_BYTES: u64 = 8 << 20;

/// How many sizes of batches are weighed, each an eighth of the one before; the last is one row.
const SIZES: usize = 6;

/// How much memory reading a file may take, in bytes: less for small files, whose pages can only be large by deceit.
pub(in super::super) fn allowance(file_bytes: u64) -> u64 {
    const LEAST: u64 = 256 << 20;
    const MOST: u64 = 2 << 30;
    LEAST.saturating_add(file_bytes.saturating_mul(8)).min(MOST)
}

/// How much memory reading these columns takes by what the footer claims, in bytes. Files that are what they say are read
/// in it; the others are refused by [`batch_rows`].
pub(in super::super) fn claim(metadata: &ParquetMetaData, columns: &[usize]) -> u64 {
    /// Beside a page's bytes there are its places in a batch, and a dictionary's; small pages have heads.
    const BESIDE: u64 = 6;
    const LEAST: u64 = 64 << 10;
    /// What a value of a batch takes beside its text, which some encodings hardly store: its place and its view.
    const VALUE_BYTES: u64 = 48;
    let schema = metadata.file_metadata().schema_descr();
    let group = |group: &RowGroupMetaData| {
        let places = (0..schema.num_columns()).filter(|place| columns.contains(&schema.get_column_root_idx(*place)));
        let chunks = places.filter_map(|place| group.columns().get(place));
        let bytes = |chunk: &ColumnChunkMetaData| {
            let values = chunk.num_values().unsigned_abs().saturating_mul(VALUE_BYTES);
            chunk.uncompressed_size().unsigned_abs().saturating_mul(BESIDE).saturating_add(values)
        };
        chunks.map(bytes).fold(0, u64::saturating_add)
    };
    metadata.row_groups().iter().map(group).max().unwrap_or(0).saturating_add(LEAST)
}

/// How many rows of some columns of a row group to read at once, at most `most`, so that it takes no more than `allowed`
/// bytes. Each column is named by its place, and read as views or not.
///
/// Only the heads of the pages are read, which say how large the pages are. A reader holds, for each column, the
/// dictionary and every page that the batch touches; texts that are not views into pages are copied besides.
///
/// # Errors
///
/// [`Error::TooLarge`] when even one row takes more.
pub(in super::super) fn batch_rows(
    input: &Positioned,
    group: &RowGroupMetaData,
    columns: impl IntoIterator<Item = (usize, bool)>,
    most: usize,
    allowed: u64,
) -> Result<usize> {
    let mut demand = Demand::new(most, allowed);
    for (column, is_view) in columns {
        let chunk =
            group.columns().get(column).ok_or_else(|| refusal("a row group has fewer columns than the schema"))?;
        guarded(|| Ok(demand.add(input, chunk, is_view)?), refusal)?;
        if demand.bytes[SIZES - 1] > allowed {
            return Err(Error::TooLarge(format!(
                "reading {} rows of the Parquet file takes more than {} MiB of memory: write it with smaller row groups and pages",
                group.num_rows(),
                allowed >> 20
            )));
        }
    }
    let enough = demand.bytes[SIZES - 1].saturating_add(BATCH_BYTES).min(allowed);
    let size = demand.bytes.iter().position(|bytes| *bytes <= enough);
    Ok(demand.rows[size.unwrap_or(SIZES - 1)])
}

/// What reading takes with each size of batches.
struct Demand {
    rows: [usize; SIZES],
    bytes: [u64; SIZES],
    allowed: u64,
}

impl Demand {
    fn new(most: usize, allowed: u64) -> Demand {
        let mut rows = [1; SIZES];
        for (step, rows) in rows.iter_mut().take(SIZES - 1).enumerate() {
            *rows = (most >> (3 * step)).max(1);
        }
        Demand { rows, bytes: [0; SIZES], allowed }
    }

    /// Takes a column of the row group into account.
    fn add(&mut self, input: &Positioned, chunk: &ColumnChunkMetaData, is_view: bool) -> io::Result<()> {
        let is_bytes = chunk.column_type() == Type::BYTE_ARRAY;
        let value_bytes = value_bytes(chunk);
        let (start, length) = chunk.byte_range();
        let (mut place, mut left) = (start, length);
        let (mut row, mut dictionary, mut longest_copied) = (0, 0, 0);
        let mut windows = [Window::default(); SIZES];
        while left > 0 {
            let (head, head_bytes) = Head::read(input, place, left.min(MAX_HEAD_BYTES))?;
            place += head_bytes;
            left = (left - head_bytes)
                .checked_sub(head.packed_bytes)
                .ok_or_else(|| malformed("a page is longer than its column"))?;
            self.check_unpacked(input, chunk.compression(), place, &head)?;
            place += head.packed_bytes;
            let page_bytes = head.bytes.max(head.packed_bytes);
            match head.kind {
                Head::DICTIONARY => {
                    if head.values > page_bytes / value_bytes {
                        return Err(malformed("a dictionary has more values than bytes"));
                    }
                    let entry_bytes = if is_bytes { size_of::<u128>() as u64 } else { value_bytes };
                    dictionary = dictionary.max(page_bytes + head.values * entry_bytes);
                }
                Head::DATA | Head::DATA_V2 => {
                    let is_delta = head.encoding == Encoding::DELTA_BYTE_ARRAY as u64;
                    if is_bytes && (is_delta || !is_view) {
                        longest_copied = page_bytes.max(longest_copied);
                    }
                    let is_delta = is_delta || head.encoding == Encoding::DELTA_LENGTH_BYTE_ARRAY as u64;
                    let lengths_bytes = if is_delta { 2 * size_of::<i32>() as u64 * head.values } else { 0 };
                    for (window, rows) in windows.iter_mut().zip(self.rows) {
                        window.see(row, head.values, rows as u64, page_bytes + lengths_bytes);
                    }
                    row += head.values;
                }
                _ => {}
            }
        }
        for ((bytes, window), rows) in self.bytes.iter_mut().zip(windows).zip(self.rows) {
            // A buffer that grows holds twice what it needs.
            let copied = (2 * longest_copied).saturating_mul(row.min(rows as u64));
            *bytes = bytes.saturating_add(dictionary + window.most).saturating_add(copied);
        }
        Ok(())
    }

    /// Checks that a page does not unpack to more than it says, where the library would find out only afterwards.
    fn check_unpacked(&self, input: &Positioned, compression: Compression, place: u64, head: &Head) -> io::Result<()> {
        // The most bytes that one byte unpacks to.
        const GZIP_RATIO: u64 = 1032;
        const LZ4_RATIO: u64 = 255;
        let more = || malformed("a page unpacks to more than it says");
        match compression {
            Compression::GZIP(_) if head.packed_bytes * GZIP_RATIO > self.allowed / 4 => {
                let packed_bytes = head.packed_bytes.saturating_sub(head.plain_bytes);
                let packed = input.get_read(place + head.plain_bytes)?.take(packed_bytes);
                let most = head.bytes.saturating_add(1);
                let unpacked = io::copy(&mut MultiGzDecoder::new(packed).take(most), &mut io::sink())?;
                if unpacked < most { Ok(()) } else { Err(more()) }
            }
            // Frames of unknown length are tried where this old codec's own framing is not found.
            Compression::LZ4 if head.packed_bytes * LZ4_RATIO > self.allowed => {
                Err(malformed("its pages are too large for the codec LZ4, which is deprecated: write it with another"))
            }
            _ => Ok(()),
        }
    }
}

/// The least bytes that a value takes in a dictionary.
fn value_bytes(chunk: &ColumnChunkMetaData) -> u64 {
    match chunk.column_type() {
        Type::BOOLEAN => 1,
        Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => u64::try_from(chunk.column_descr().type_length()).unwrap_or(1).max(1),
    }
}

/// The most bytes of pages that one batch touches, when batches of so many rows follow each other from the first row.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    batch: u64,
    bytes: u64,
    most: u64,
}

impl Window {
    /// The next page has `rows` rows, the first of which is `row`.
    fn see(&mut self, row: u64, rows: u64, batch_rows: u64, page_bytes: u64) {
        let mut take = |batch: u64| {
            if batch != self.batch {
                (self.batch, self.bytes) = (batch, 0);
            }
            self.bytes = self.bytes.saturating_add(page_bytes);
            self.most = self.most.max(self.bytes);
        };
        let (first, last) = (row / batch_rows, (row + rows.max(1) - 1) / batch_rows);
        take(first);
        if last != first {
            take(last);
        }
    }
}

/// What a page's head says.
#[derive(Debug, Default)]
struct Head {
    kind: u64,
    /// Unpacked.
    bytes: u64,
    packed_bytes: u64,
    /// How many of them are not packed, and stand first.
    plain_bytes: u64,
    values: u64,
    encoding: u64,
}

impl Head {
    const DATA: u64 = 0;
    const DICTIONARY: u64 = 2;
    const DATA_V2: u64 = 3;

    /// The head at `place`, and how many bytes it has.
    fn read(input: &Positioned, place: u64, limit: u64) -> io::Result<(Head, u64)> {
        let mut head = Head::default();
        let mut thrift = Thrift::new(input.get_read(place)?, limit);
        // <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>, PageHeader
        let mut inner = [Inner::default(); 9];
        thrift.structure(|thrift, field, kind| {
            match field {
                1 => head.kind = thrift.count(kind)?,
                2 => head.bytes = thrift.count(kind)?,
                3 => head.packed_bytes = thrift.count(kind)?,
                5 | 7 | 8 => inner[field as usize] = Inner::read(thrift)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let [_, _, _, _, _, data, _, dictionary, data_v2] = &inner;
        let counts = |inner: &Inner, values: usize, encoding: usize| (inner.numbers[values], inner.numbers[encoding]);
        (head.values, head.encoding) = match head.kind {
            Head::DATA => counts(data, 1, 2),
            Head::DICTIONARY => counts(dictionary, 1, 2),
            Head::DATA_V2 => counts(data_v2, 1, 4),
            _ => (0, 0),
        };
        head.plain_bytes = data_v2.numbers[5] + data_v2.numbers[6];
        Ok((head, limit - thrift.left()))
    }
}

/// The numbers of a structure inside a page's head, by their fields.
#[derive(Debug, Default, Clone, Copy)]
struct Inner {
    numbers: [u64; 7],
}

impl Inner {
    fn read<R: Read>(thrift: &mut Thrift<R>) -> io::Result<Inner> {
        let mut numbers = [0; 7];
        thrift.structure(|thrift, field, kind| {
            let number = usize::try_from(field).ok().and_then(|field| numbers.get_mut(field));
            match number {
                Some(number) if kind == super::thrift::I32 => {
                    *number = thrift.count(kind)?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        })?;
        Ok(Inner { numbers })
    }
}
