//! GGUF, the file format of language models: what a file says of itself, and how one is written.
//!
//! Source: `docs/gguf.md` of the ggml project, versions 2 and 3. A file is a header of metadata and of the tensors' names,
//! shapes and places; the tensors' bytes follow it. Only the header is read here, of which nothing is trusted.

mod describe;
mod kind;
mod read;
mod value;
mod write;

pub use describe::describe;
pub use kind::TensorKind;
pub use read::Gguf;
pub use value::{Kind, Value};
pub use write::{NewTensor, Writer};

/// The first bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors begin is a multiple of this, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The key of another alignment.
const ALIGNMENT: &str = "general.alignment";
/// A tensor has no more dimensions (`GGML_MAX_DIMS`).
const MAX_DIMENSIONS: usize = 4;

/// A tensor's name, shape and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions, the fastest first: a matrix that maps `n` values to `m` is `[n, m]`.
    pub shape: Vec<u64>,
    /// The type of its values.
    pub kind: TensorKind,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
}

impl TensorInfo {
    /// How many values it has.
    pub fn values(&self) -> u64 {
        self.shape.iter().product()
    }
}
