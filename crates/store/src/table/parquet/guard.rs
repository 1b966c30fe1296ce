use std::{iter::once, sync::Arc};

use parquet::{
    arrow::arrow_reader::RowGroups,
    basic::Encoding,
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        serialized_reader::SerializedPageReader,
    },
};

use super::super::read::Positioned;

/// One row group, whose pages are checked for lengths that the Parquet library would believe.
pub(super) struct GuardedGroup {
    /// The file.
    pub(super) input: Arc<Positioned>,
    /// What the footer says.
    pub(super) metadata: Arc<ParquetMetaData>,
    /// Which row group it is.
    pub(super) group: usize,
}

impl GuardedGroup {
    fn group(&self) -> &RowGroupMetaData {
        self.metadata.row_group(self.group)
    }
}

impl RowGroups for GuardedGroup {
    fn num_rows(&self) -> usize {
        usize::try_from(self.group().num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let chunk = self.group().column(column);
        let pages = SerializedPageReader::new(self.input.clone(), chunk, self.num_rows(), None)?;
        Ok(Box::new(OneChunk(Some(GuardedPages { pages, is_nullable: chunk.column_descr().max_def_level() > 0 }))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(once(self.group()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

struct OneChunk(Option<GuardedPages>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|pages| Ok(Box::new(pages) as Box<dyn PageReader>))
    }
}

impl PageIterator for OneChunk {}

struct GuardedPages {
    pages: SerializedPageReader<Positioned>,
    is_nullable: bool,
}

impl Iterator for GuardedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for GuardedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            check_lengths(page, self.is_nullable).ok_or_else(|| {
                ParquetError::General("a page's lengths do not fit the number of its values".to_owned())
            })?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

/// Checks that a page whose texts have their lengths apart has no more lengths than values: the library allots memory
/// for as many as the page claims, and a few bytes can claim billions. `None` when it has more.
fn check_lengths(page: &Page, is_nullable: bool) -> Option<()> {
    let lists = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Some(()),
    };
    let values = page.num_values();
    let levels_bytes = match page {
        Page::DictionaryPage { .. } => return Some(()),
        Page::DataPage { .. } if !is_nullable => 0,
        Page::DataPage { buf, def_level_encoding: Encoding::RLE, .. } => {
            4 + u32::from_le_bytes(*buf.first_chunk::<4>()?) as usize
        }
        // The deprecated way to pack levels, here of one bit each.
        Page::DataPage { .. } => (values as usize).div_ceil(8),
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            (*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)?
        }
    };
    let mut deltas = page.buffer().get(levels_bytes..)?;
    for _ in 0..lists {
        deltas = skip_deltas(deltas, u64::from(values))?;
    }
    Some(())
}

/// What follows a list of at most `most` numbers, packed as the differences of each to the one before.
///
/// <https://github.com/apache/parquet-format/blob/master/Encodings.md#delta-encoding-delta_binary_packed--5>
fn skip_deltas(mut bytes: &[u8], most: u64) -> Option<&[u8]> {
    let block_values = number(&mut bytes)?;
    let parts = number(&mut bytes)?;
    let count = number(&mut bytes)?;
    number(&mut bytes)?;
    if count > most {
        return None;
    }
    let part_values = block_values.checked_div(parts)?;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        if part_values == 0 {
            return None;
        }
        number(&mut bytes)?;
        let (widths, rest) = bytes.split_at_checked(usize::try_from(parts).ok()?)?;
        bytes = rest;
        for width in widths {
            if left == 0 {
                break;
            }
            let part_bytes = part_values.checked_mul(u64::from(*width))? / 8;
            // The last part may be cut short.
            bytes = bytes.get(usize::try_from(part_bytes).ok()?..).unwrap_or_default();
            left = left.saturating_sub(part_values);
        }
    }
    Some(bytes)
}

/// The next number, seven bits a byte.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(deltas: &[u8], encoding: Encoding) -> Page {
        let buf = [&[2, 0, 0, 0, 6, 1], deltas].concat().into();
        let level = Encoding::RLE;
        Page::DataPage {
            buf,
            num_values: 3,
            encoding,
            def_level_encoding: level,
            rep_level_encoding: level,
            statistics: None,
        }
    }

    #[test]
    fn lengths_beyond_the_number_of_values_are_found_in_either_list() {
        // Blocks of 128 in one part: three lengths, the first 1, then one block of differences of no bits.
        let honest = [0x80, 0x01, 0x01, 0x03, 0x02, 0x00, 0x00];
        let lying = [0x80, 0x01, 0x01, 0xff, 0xff, 0xff, 0xff, 0x07, 0x02, 0x00, 0x00];
        let fits = |deltas: &[u8], encoding| check_lengths(&page(deltas, encoding), true).is_some();
        assert!(fits(&honest, Encoding::DELTA_LENGTH_BYTE_ARRAY));
        assert!(!fits(&lying, Encoding::DELTA_LENGTH_BYTE_ARRAY));
        assert!(fits(&honest.repeat(2), Encoding::DELTA_BYTE_ARRAY));
        assert!(!fits(&[honest.as_slice(), &lying].concat(), Encoding::DELTA_BYTE_ARRAY));
        assert!(fits(&lying, Encoding::PLAIN));
    }
}
