use parquet::file::reader::{ChunkReader, Length};

use super::{
    super::{MAX_COLUMNS, guarded, read::Positioned},
    refusal,
    thrift::{LIST, STRUCT, Thrift, malformed},
};
use crate::{Error, Result};

/// The longest footer, in bytes; in memory it takes some thirty times as much.
const MAX_FOOTER_BYTES: u32 = 16 << 20;

/// How deep columns may stand in each other. Those of a table stand side by side, but are refused by name later.
const MAX_NESTING: usize = 32;

/// Checks the footer before the Parquet library reads it, which takes memory by the lengths that the file claims, and
/// follows nested columns as deep as they go. Gives back how many bytes it has.
pub(super) fn check(input: &Positioned) -> Result<u64> {
    const TAIL_BYTES: u64 = 8;
    let Some(place) = input.len().checked_sub(TAIL_BYTES) else {
        return Err(refusal("it is too short"));
    };
    let tail = guarded(|| input.get_bytes(place, TAIL_BYTES as usize), refusal)?;
    if !tail.ends_with(b"PAR1") {
        return Err(refusal("its end is missing"));
    }
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if length > MAX_FOOTER_BYTES {
        return Err(Error::TooLarge(format!(
            "the Parquet file's footer takes {} MiB, more than {}: write the file with larger row groups or fewer columns",
            length >> 20,
            MAX_FOOTER_BYTES >> 20
        )));
    }
    let Some(place) = place.checked_sub(u64::from(length)) else {
        return Err(refusal("its footer is longer than the file"));
    };
    let footer = guarded(|| input.get_bytes(place, length as usize), refusal)?;
    check_columns(&guarded(|| Ok(children(&footer)?), refusal)?)?;
    Ok(u64::from(length))
}

/// How many children each element of the schema says it has, depth first.
fn children(footer: &[u8]) -> std::io::Result<Vec<u64>> {
    const SCHEMA: i64 = 2;
    const CHILDREN: i64 = 5;
    let mut counts = Vec::new();
    Thrift::new(footer, footer.len() as u64).structure(|thrift, field, kind| {
        if field != SCHEMA {
            return Ok(false);
        }
        let (LIST, (elements, STRUCT)) = (kind, thrift.list()?) else {
            return Err(malformed("the schema is no list of structures"));
        };
        for _ in 0..elements {
            let mut count = 0;
            thrift.structure(|thrift, field, kind| {
                if field == CHILDREN {
                    count = thrift.count(kind)?;
                }
                Ok(field == CHILDREN)
            })?;
            counts.push(count);
        }
        Ok(true)
    })?;
    Ok(counts)
}

fn check_columns(children: &[u64]) -> Result<()> {
    // Nested columns have elements of their own, and get a better answer than this one.
    if children.len() > 4 * MAX_COLUMNS {
        return Err(Error::TooLarge(format!("the table has more than {MAX_COLUMNS} columns: leave some out")));
    }
    let mut open: Vec<u64> = Vec::new();
    for count in children {
        if *count > children.len() as u64 {
            return Err(refusal("its columns are more than it describes"));
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if *count > 0 {
            open.push(*count);
        }
        if open.len() > MAX_NESTING {
            return Err(Error::Invalid(
                "the columns are nested too deeply: make a column of each of their parts".into(),
            ));
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}
