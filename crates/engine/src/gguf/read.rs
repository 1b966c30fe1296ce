use std::{
    collections::HashSet,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use super::{ALIGNMENT, DEFAULT_ALIGNMENT, Kind, MAGIC, MAX_DIMENSIONS, TensorInfo, TensorKind, Value};
use crate::{Error, Result};

/// The most values of metadata: a vocabulary of a quarter of a million tokens with its merges has a third of it.
const MAX_VALUES: u64 = 4 << 20;
/// The most bytes of metadata and of the tensors' names; a large vocabulary takes a tenth of it.
const MAX_HEADER_BYTES: u64 = 128 << 20;
/// The longest name of a key or of a tensor.
const MAX_NAME_BYTES: u64 = 512;
/// Arrays of arrays of arrays.
const MAX_DEPTH: usize = 3;
/// The most tensors and the most keys.
const MAX_ENTRIES: u64 = 1 << 16;
/// The least that an entry of the list of tensors takes.
const LEAST_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// The header of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// What the file says of its model, in its order.
    pub metadata: Vec<(String, Value)>,
    /// Its tensors, in its order.
    pub tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Reads the header of a file. The tensors' bytes are not read, but have to be there.
    ///
    /// # Errors
    /// [`Error::InvalidModel`] if it is no GGUF file, is cut off or contradicts itself; [`Error::Io`] if the system cannot
    /// read it.
    pub fn open(path: &Path) -> Result<Gguf> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Gguf::read(BufReader::with_capacity(1 << 16, file), length)
    }

    /// Reads a header from the beginning of a file of this length, in bytes.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn read(source: impl Read, length: u64) -> Result<Gguf> {
        let mut reader = Reader { source, read: 0, end: length.min(MAX_HEADER_BYTES), length, values_left: MAX_VALUES };
        if &reader.array::<4>()? != MAGIC {
            return Err(invalid("it does not begin with GGUF"));
        }
        match reader.u32()? {
            2 | 3 => {}
            // What is read the wrong way round is a large number.
            version if version.swap_bytes() <= 3 => return Err(invalid("its numbers are big-endian")),
            version => return Err(invalid(format!("its version is {version}, and 2 and 3 are known"))),
        }
        let tensors = reader.count("tensors", MAX_ENTRIES, LEAST_TENSOR_BYTES)?;
        let keys = reader.count("keys", MAX_ENTRIES, 8 + 4 + 1)?;
        let mut metadata = Vec::new();
        let mut known = HashSet::new();
        for _ in 0..keys {
            let key = reader.name()?;
            let kind = reader.kind()?;
            let value = reader.value(kind, 0)?;
            if !known.insert(key.clone()) {
                return Err(invalid(format!("the key {key:?} is there twice")));
            }
            metadata.push((key, value));
        }
        let mut header = Gguf { metadata, tensors: Vec::new() };
        let alignment = match header.get(ALIGNMENT) {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value
                .as_u64()
                .filter(|alignment| alignment.is_power_of_two() && (8..=1 << 20).contains(alignment))
                .ok_or_else(|| invalid(format!("{ALIGNMENT} is no power of two from 8 to a million")))?,
        };
        known.clear();
        for _ in 0..tensors {
            let tensor = reader.tensor()?;
            if !known.insert(tensor.name.clone()) {
                return Err(invalid(format!("the tensor {:?} is there twice", tensor.name)));
            }
            header.tensors.push(tensor);
        }
        header.place(reader.read.next_multiple_of(alignment), alignment, length)?;
        Ok(header)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Makes places in the file of the tensors' offsets behind `start`, and checks that each has its own.
    fn place(&mut self, start: u64, alignment: u64, length: u64) -> Result<()> {
        for tensor in &mut self.tensors {
            if !tensor.offset.is_multiple_of(alignment) {
                return Err(invalid(format!("the tensor {:?} is not aligned to {alignment} bytes", tensor.name)));
            }
            let end = start.checked_add(tensor.offset).and_then(|offset| {
                tensor.offset = offset;
                offset.checked_add(tensor.bytes)
            });
            if end.is_none_or(|end| end > length) {
                return Err(invalid(format!(
                    "the tensor {:?} goes beyond the file's end: the file was cut off, copy it again",
                    tensor.name
                )));
            }
        }
        let mut places: Vec<&TensorInfo> = self.tensors.iter().collect();
        places.sort_by_key(|tensor| tensor.offset);
        match places.windows(2).find(|pair| pair[0].offset + pair[0].bytes > pair[1].offset) {
            Some(pair) => {
                Err(invalid(format!("the tensors {:?} and {:?} lie in the same place", pair[0].name, pair[1].name)))
            }
            None => Ok(()),
        }
    }
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::InvalidModel(format!("not a usable GGUF file: {why}"))
}

/// Reads numbers and texts from the beginning of a file, as long as that has bytes.
struct Reader<R> {
    source: R,
    read: u64,
    /// Nothing is read beyond this.
    end: u64,
    /// The file's length.
    length: u64,
    values_left: u64,
}

impl<R: Read> Reader<R> {
    fn left(&self) -> u64 {
        self.end - self.read
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<()> {
        let wanted = bytes.len() as u64;
        if wanted > self.left() {
            return Err(self.cut_off());
        }
        self.source.read_exact(bytes)?;
        self.read += wanted;
        Ok(())
    }

    fn cut_off(&self) -> Error {
        match self.end < self.length {
            true => invalid(format!("its header is longer than {} MiB", MAX_HEADER_BYTES >> 20)),
            false => invalid("it ends within its header: the file was cut off, copy it again"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least so many bytes each.
    fn count(&mut self, what: &str, most: u64, least_bytes: u64) -> Result<u64> {
        let count = self.u64()?;
        if count > most {
            return Err(invalid(format!("it says that it has {count} {what}, and {most} is the most")));
        }
        if count.saturating_mul(least_bytes) > self.left() {
            return Err(self.cut_off());
        }
        Ok(count)
    }

    fn text(&mut self, most: u64) -> Result<String> {
        let length = self.count("letters in a text", most, 1)?;
        let mut bytes = vec![0; length as usize];
        self.take(&mut bytes)?;
        // Vocabularies have been seen that are no UTF-8; they are not refused for a letter.
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn name(&mut self) -> Result<String> {
        self.text(MAX_NAME_BYTES)
    }

    fn kind(&mut self) -> Result<Kind> {
        let number = self.u32()?;
        Kind::of_number(number).ok_or_else(|| invalid(format!("a value has the type {number}, which is not known")))
    }

    fn value(&mut self, kind: Kind, depth: usize) -> Result<Value> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| invalid(format!("it has more than {MAX_VALUES} values in its metadata")))?;
        Ok(match kind {
            Kind::U8 => Value::U8(self.array::<1>()?[0]),
            Kind::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            Kind::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            Kind::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            Kind::U32 => Value::U32(self.u32()?),
            Kind::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            Kind::Bool => Value::Bool(self.array::<1>()?[0] != 0),
            Kind::Text => Value::Text(self.text(MAX_HEADER_BYTES)?),
            Kind::U64 => Value::U64(self.u64()?),
            Kind::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            Kind::Array => {
                if depth >= MAX_DEPTH {
                    return Err(invalid("its metadata has arrays within arrays within arrays"));
                }
                let kind = self.kind()?;
                let count = self.count("values in an array", self.values_left, kind.least_bytes())?;
                let mut values = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(kind, values)
            }
        })
    }

    /// An entry of the list of tensors; its offset is still one behind the header.
    fn tensor(&mut self) -> Result<TensorInfo> {
        let name = self.name()?;
        let dimensions = self.u32()? as usize;
        if dimensions > MAX_DIMENSIONS {
            return Err(invalid(format!(
                "the tensor {name:?} has {dimensions} dimensions, and {MAX_DIMENSIONS} is the most"
            )));
        }
        let shape = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        let number = self.u32()?;
        let kind = TensorKind::of_number(number)
            .ok_or_else(|| invalid(format!("the tensor {name:?} has the type {number}, which is not known")))?;
        let offset = self.u64()?;
        // A row is whole blocks, and all rows together have a size that a file can have.
        let row = kind.bytes_of(shape.first().copied().unwrap_or(1));
        let bytes = row.and_then(|row| shape.iter().skip(1).try_fold(row, |bytes, size| bytes.checked_mul(*size)));
        let values = shape.iter().try_fold(1_u64, |values, size| values.checked_mul(*size));
        let (Some(bytes), Some(_)) = (bytes.filter(|bytes| *bytes <= self.length), values) else {
            return Err(invalid(format!("the tensor {name:?} of the type {kind} cannot have the shape {shape:?}")));
        };
        Ok(TensorInfo { name, shape, kind, offset, bytes })
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
