use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
    str,
};

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};
use wattle_core::ColumnKind;

use super::{
    MAX_COLUMNS, MAX_FIELD_BYTES, MAX_RECORD_BYTES, Normalised, Overrides,
    infer::{Inference, Missing, check_names, not_a_number, number, wanted_kinds},
    too_long,
    write::Writer,
};
use crate::{Error, Result};

/// Turns a CSV file of `size` bytes into the normal form: reads it once to infer the kinds and once to write.
pub(super) fn normalise(
    mut input: File,
    size: u64,
    output: &Path,
    overrides: &Overrides,
    progress: &mut dyn FnMut(u64),
) -> Result<Normalised> {
    let start = Start::read(&mut input, overrides)?;
    let missing = Missing::new(overrides);

    let mut records = start.records(&mut input, 0, progress)?;
    let names = header(&mut records)?;
    check_names(&names)?;
    let mut inference = Inference::new(wanted_kinds(&names, overrides)?);
    let mut rows = 0;
    while let Some(record) = records.next()? {
        record.check(&names)?;
        for (column, text) in record.fields().enumerate() {
            if !inference.see(column, record.line, text, &missing) {
                return Err(not_a_number(&record.place(), &names[column], text));
            }
        }
        rows += 1;
    }
    if rows == 0 {
        return Err(Error::Invalid("the file has a header but no rows: give at least one".into()));
    }

    let kinds = inference.kinds();
    let mut writer = Writer::create(output, &names, &kinds)?;
    let mut records = start.records(&mut input, size, progress)?;
    let changed = || Error::Invalid("the file changed while it was read: add it again once it is complete".into());
    if header(&mut records)? != names {
        return Err(changed());
    }
    while let Some(record) = records.next()? {
        record.check(&names)?;
        for (column, text) in record.fields().enumerate() {
            match kinds[column] {
                _ if missing.contains(text) => writer.push_missing(column),
                ColumnKind::Number => writer.push_number(column, number(text).ok_or_else(changed)?),
                ColumnKind::Category => writer.push_category(column, text),
            }
        }
        writer.end_row()?;
    }
    let normalised = Normalised { warnings: inference.warnings(&names), ..writer.finish()? };
    if normalised.rows == rows { Ok(normalised) } else { Err(changed()) }
}

/// The columns' names, without the spaces around them.
pub(super) fn header(records: &mut Records) -> Result<Vec<String>> {
    let empty = || Error::Invalid("the file is empty: give a header line and at least one row".into());
    let record = records.next()?.ok_or_else(empty)?;
    Ok(record.fields().map(|name| name.trim_ascii().to_owned()).collect())
}

/// How a file's text begins and what its delimiter is.
pub(super) struct Start {
    offset: u64,
    delimiter: u8,
}

impl Start {
    /// From the file's first bytes and what the person said.
    pub(super) fn read(input: &mut impl Read, overrides: &Overrides) -> Result<Start> {
        // A header line that is longer has shown its delimiter by then.
        const HEAD_BYTES: u64 = 64 << 10;
        let mut head = Vec::new();
        input.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Err(Error::Invalid("line 1: the text is UTF-16: save the file as UTF-8 and send it again".into()));
        }
        let offset = if head.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let delimiter = match overrides.delimiter {
            None => sniff(&head[offset..]),
            Some(delimiter) if delimiter.is_ascii() && !matches!(delimiter, b'"' | b'\r' | b'\n' | 0) => delimiter,
            Some(delimiter) => {
                return Err(Error::Invalid(format!(
                    "byte {delimiter} cannot be the delimiter: use a comma, a semicolon, a tab or another ASCII character"
                )));
            }
        };
        Ok(Start { offset: offset as u64, delimiter })
    }

    pub(super) fn records<'a>(
        &self,
        input: &'a mut (impl Read + Seek),
        done: u64,
        progress: &'a mut dyn FnMut(u64),
    ) -> Result<Records<'a>> {
        input.seek(SeekFrom::Start(self.offset))?;
        Ok(Records::new(input, self.delimiter, done + self.offset, progress))
    }
}

/// The likeliest delimiter: the one that the header line has most of outside quotes.
fn sniff(head: &[u8]) -> u8 {
    const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
    let mut counts = [0; DELIMITERS.len()];
    let mut quoted = false;
    let mut begun = false;
    for byte in head {
        match byte {
            b'"' => quoted = !quoted,
            b'\r' | b'\n' if begun && !quoted => break,
            _ if quoted => {}
            byte => {
                if let Some(index) = DELIMITERS.iter().position(|delimiter| delimiter == byte) {
                    counts[index] += 1;
                }
            }
        }
        begun |= !matches!(byte, b'\r' | b'\n');
    }
    // The first of those that are equally frequent.
    let mut best = 0;
    for (index, count) in counts.iter().enumerate() {
        if *count > counts[best] {
            best = index;
        }
    }
    DELIMITERS[best]
}

/// The records of a CSV file, one at a time.
///
/// This drives `csv-core` and not the reader of `csv`, which lets a record grow without bound and takes a quote that is
/// never closed for the rest of the file.
pub(super) struct Records<'a> {
    input: &'a mut dyn Read,
    core: Reader,
    /// The part of the file at hand, of which `unread` is not parsed yet.
    buffer: Vec<u8>,
    unread: Range<usize>,
    at_end: bool,
    /// The record's values, one after the other, and where each stands.
    text: Vec<u8>,
    fields: Vec<Range<usize>>,
    /// How many line ends between records the parser did not see.
    skipped_lines: u64,
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Records<'a> {
    fn new(input: &'a mut dyn Read, delimiter: u8, done: u64, progress: &'a mut dyn FnMut(u64)) -> Records<'a> {
        Records {
            input,
            core: ReaderBuilder::new().delimiter(delimiter).build(),
            buffer: vec![0; 256 << 10],
            unread: 0..0,
            at_end: false,
            text: vec![0; 64 << 10],
            fields: Vec::new(),
            skipped_lines: 0,
            done,
            progress,
        }
    }

    /// The next record, or `None` at the end; empty lines are none.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>> {
        self.skip_line_ends()?;
        if self.at_end {
            return Ok(None);
        }
        let line = self.core.line() + self.skipped_lines;
        self.fields.clear();
        let mut start = 0;
        loop {
            let (end, at_record_end) = self.field(line, start)?;
            start = end;
            if at_record_end {
                break;
            }
            if self.fields.len() == MAX_COLUMNS {
                return Err(too_wide(line));
            }
        }
        Record::new(line, &self.text[..start], &self.fields).map(Some)
    }

    /// Reads the next value into the text from `start` on: where it ends, and whether it is the record's last.
    fn field(&mut self, line: u64, start: usize) -> Result<(usize, bool)> {
        if self.unread.is_empty() && !self.at_end {
            self.fill()?;
        }
        let is_quoted = !self.at_end && self.buffer[self.unread.start] == b'"';
        let mut end = start;
        loop {
            if self.unread.is_empty() && !self.at_end {
                self.fill()?;
            }
            // The parser would close an open quote at the end of the file. A line end in its place does not.
            let bytes = if self.at_end { b"\n" } else { &self.buffer[self.unread.clone()] };
            let (result, read, written) = self.core.read_field(bytes, &mut self.text[end..]);
            end += written;
            if !self.at_end {
                self.unread.start += read;
            }
            match result {
                ReadFieldResult::Field { record_end } => {
                    self.fields.push(if is_quoted { start..end } else { trimmed(&self.text, start..end) });
                    return Ok((end, record_end));
                }
                ReadFieldResult::InputEmpty if !self.at_end => {}
                ReadFieldResult::InputEmpty | ReadFieldResult::End => return Err(unclosed(line)),
                ReadFieldResult::OutputFull if self.text.len() >= MAX_RECORD_BYTES => return Err(endless(line)),
                ReadFieldResult::OutputFull => self.text.resize((2 * self.text.len()).min(MAX_RECORD_BYTES), 0),
            }
        }
    }

    fn skip_line_ends(&mut self) -> Result<()> {
        loop {
            if self.unread.is_empty() {
                self.fill()?;
                if self.at_end {
                    return Ok(());
                }
            }
            match self.buffer[self.unread.start] {
                b'\n' => self.skipped_lines += 1,
                b'\r' => {}
                _ => return Ok(()),
            }
            self.unread.start += 1;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let read = loop {
            match self.input.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        self.unread = 0..read;
        self.at_end = read == 0;
        self.done += read as u64;
        (self.progress)(self.done);
        Ok(())
    }
}

/// One record.
pub(super) struct Record<'a> {
    line: u64,
    text: &'a str,
    fields: &'a [Range<usize>],
}

impl<'a> Record<'a> {
    fn new(line: u64, text: &'a [u8], fields: &'a [Range<usize>]) -> Result<Record<'a>> {
        let not_text = |valid: usize, why: &str| {
            let line = line + text[..valid].iter().filter(|byte| **byte == b'\n').count() as u64;
            Error::Invalid(format!("line {line}: {why}: save the file as UTF-8 and send it again"))
        };
        if text.contains(&0) {
            let place = text.iter().take_while(|byte| **byte != 0).count();
            return Err(not_text(place, "there is a NUL byte in the text"));
        }
        let invalid = "the text is not UTF-8";
        let text = str::from_utf8(text).map_err(|error| not_text(error.valid_up_to(), invalid))?;
        // Two halves of a character may stand in two values, which together look valid.
        match fields.iter().find(|field| !text.is_char_boundary(field.end)) {
            Some(field) => Err(not_text(field.end, invalid)),
            None => Ok(Record { line, text, fields }),
        }
    }

    /// The values' texts.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'a str> {
        let text = self.text;
        self.fields.iter().map(move |field| &text[field.clone()])
    }

    /// Checks that there is a value of a reasonable length for each column.
    pub(super) fn check(&self, names: &[String]) -> Result<()> {
        let (expected, found) = (names.len(), self.fields.len());
        if found != expected {
            let hint = if self.text.contains('\n') {
                "is a quote in it never closed?"
            } else {
                "give every row a value, or an empty one, for each column"
            };
            return Err(Error::Invalid(format!(
                "{}: expected {expected} values as in the header, found {found}: {hint}",
                self.place()
            )));
        }
        if self.text.len() > MAX_FIELD_BYTES
            && let Some(column) = self.fields().position(|text| text.len() > MAX_FIELD_BYTES)
        {
            return Err(too_long(&self.place(), &names[column]));
        }
        Ok(())
    }

    pub(super) fn place(&self) -> String {
        format!("line {}", self.line)
    }
}

/// The part of the text without the spaces around it.
fn trimmed(text: &[u8], field: Range<usize>) -> Range<usize> {
    let end = field.start + text[field.clone()].trim_ascii_end().len();
    end - text[field.start..end].trim_ascii_start().len()..end
}

fn unclosed(line: u64) -> Error {
    Error::Invalid(format!("line {line}: a quote (\") in this record is never closed: close it, or write it twice"))
}

fn endless(line: u64) -> Error {
    Error::TooLarge(format!(
        "line {line}: the record is longer than {} MiB: check that its lines end and its quotes close",
        MAX_RECORD_BYTES >> 20
    ))
}

fn too_wide(line: u64) -> Error {
    Error::TooLarge(format!(
        "line {line}: there are more than {MAX_COLUMNS} columns: leave some out, or name the delimiter"
    ))
}
