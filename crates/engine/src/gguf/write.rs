use std::io::{self, Write};

use super::{DEFAULT_ALIGNMENT, MAGIC, TensorKind, Value};
use crate::{Error, Result};

/// A tensor that a new file is going to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, the fastest first.
    pub shape: Vec<u64>,
    /// The type of its values.
    pub kind: TensorKind,
}

/// Writes a file, tensor by tensor: no more than one of them has to be in memory.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// The bytes of each tensor that is still to come, the next last.
    sizes: Vec<u64>,
}

impl NewTensor {
    /// How many bytes its values take; `None` if a row is no whole number of blocks.
    pub fn bytes(&self) -> Option<u64> {
        let row = self.kind.bytes_of(self.shape.first().copied().unwrap_or(1))?;
        self.shape.iter().skip(1).try_fold(row, |bytes, size| bytes.checked_mul(*size))
    }
}

impl<W: Write> Writer<W> {
    /// Writes the header of version 3. The tensors' bytes are to follow in the same order.
    ///
    /// # Errors
    /// [`Error::InvalidModel`] for a tensor whose rows are no whole number of its type's blocks; [`Error::Io`] when it
    /// cannot be written.
    pub fn begin(mut out: W, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Writer<W>> {
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&3_u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            header.extend_from_slice(&(value.kind() as u32).to_le_bytes());
            put(&mut header, value);
        }
        let mut sizes = Vec::with_capacity(tensors.len());
        let mut offset = 0_u64;
        for tensor in tensors {
            let bytes = tensor.bytes().ok_or_else(|| {
                Error::InvalidModel(format!(
                    "the tensor {:?} of shape {:?} has no whole number of {} blocks in a row",
                    tensor.name, tensor.shape, tensor.kind
                ))
            })?;
            put_text(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for size in &tensor.shape {
                header.extend_from_slice(&size.to_le_bytes());
            }
            header.extend_from_slice(&tensor.kind.number().to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            offset += bytes.next_multiple_of(DEFAULT_ALIGNMENT);
            sizes.push(bytes);
        }
        header.resize((header.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT) as usize, 0);
        out.write_all(&header)?;
        sizes.reverse();
        Ok(Writer { out, sizes })
    }

    /// Writes the bytes of the next tensor.
    ///
    /// # Errors
    /// When they cannot be written.
    ///
    /// # Panics
    /// If they are not as many as the tensor has, or no tensor is left.
    pub fn tensor(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(self.sizes.pop(), Some(bytes.len() as u64), "the bytes are not those of the next tensor");
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize) - bytes.len();
        self.out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding])
    }

    /// Ends the file, and gives back what it was written to.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    ///
    /// # Panics
    /// If a tensor was not written.
    pub fn finish(mut self) -> io::Result<W> {
        assert!(self.sizes.is_empty(), "{} tensors were not written", self.sizes.len());
        self.out.flush()?;
        Ok(self.out)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::U16(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I16(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::U32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::Text(text) => put_text(out, text),
        Value::U64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::I64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Array(kind, values) => {
            out.extend_from_slice(&(*kind as u32).to_le_bytes());
            out.extend_from_slice(&(values.len() as u64).to_le_bytes());
            for value in values {
                put(out, value);
            }
        }
    }
}
