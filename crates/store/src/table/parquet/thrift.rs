use std::io::{self, Read};

/// The kind of a 32-bit number.
pub(super) const I32: u8 = 5;
/// The kind of a list.
pub(super) const LIST: u8 = 9;
/// The kind of a structure.
pub(super) const STRUCT: u8 = 12;

/// How deep structures may stand in each other; Parquet's own stand less than ten deep.
const MAX_DEPTH: u32 = 64;

/// Reads Thrift's compact protocol, in which Parquet writes its footer and the heads of its pages, believing no length.
///
/// <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>
pub(super) struct Thrift<R> {
    input: R,
    left: u64,
    depth: u32,
}

impl<R: Read> Thrift<R> {
    /// Reads at most `limit` bytes.
    pub(super) fn new(input: R, limit: u64) -> Thrift<R> {
        Thrift { input, left: limit, depth: 0 }
    }

    /// How many bytes of the limit are left.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Reads a structure: `see` is told each field's number and kind, and says whether it has read the field.
    pub(super) fn structure(
        &mut self,
        mut see: impl FnMut(&mut Thrift<R>, i64, u8) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(malformed("it is nested too deeply"));
        }
        let mut field = 0;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                self.depth -= 1;
                return Ok(());
            }
            field = match head >> 4 {
                0 => self.integer()?,
                step => field + i64::from(step),
            };
            if !see(self, field, kind)? {
                self.skip(kind)?;
            }
        }
    }

    /// Reads a list's head: how many elements follow, and their kind.
    pub(super) fn list(&mut self) -> io::Result<(u64, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.unsigned()?,
            count => u64::from(count),
        };
        // Each element takes a byte at least, so that a count beyond the bytes is a lie.
        if count > self.left {
            return Err(malformed("a list is longer than its bytes"));
        }
        Ok((count, head & 0x0f))
    }

    /// Reads a whole number.
    pub(super) fn integer(&mut self) -> io::Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads a 32-bit number of this kind that counts something.
    pub(super) fn count(&mut self, kind: u8) -> io::Result<u64> {
        if kind != I32 {
            return Err(malformed("a number has another kind"));
        }
        let value = i32::try_from(self.integer()?).ok().and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| malformed("a count is out of range"))
    }

    /// Passes over a value of this kind.
    pub(super) fn skip(&mut self, kind: u8) -> io::Result<()> {
        match kind {
            // Truth values, which stand in the field's head.
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.unsigned().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.unsigned()?;
                self.pass(length)
            }
            LIST | 10 => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind))
            }
            11 => {
                let count = self.unsigned()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4)?;
                    self.skip_element(kinds & 0x0f)
                })
            }
            STRUCT => self.structure(|_, _, _| Ok(false)),
            _ => Err(malformed("a value has an unknown kind")),
        }
    }

    /// Passes over an element of a list, in which truth values have bytes of their own.
    fn skip_element(&mut self, kind: u8) -> io::Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(malformed("it is nested too deeply"));
        }
        if matches!(kind, 1 | 2) { self.pass(1) } else { self.skip(kind) }?;
        self.depth -= 1;
        Ok(())
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("a number is too long"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.take(1)?;
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn pass(&mut self, length: u64) -> io::Result<()> {
        self.take(length)?;
        let passed = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        if passed == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn take(&mut self, length: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(length).ok_or_else(|| malformed("it is longer than its bytes"))?;
        Ok(())
    }
}

/// The error that bytes are not what they should be.
pub(super) fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its description is malformed: {reason}"))
}
