use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use wattle_core::Digest;

use crate::Result;

/// Bytes of an image under their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What they are.
    pub media_type: &'static str,
    /// Their SHA-256.
    pub digest: Digest,
    /// How many there are.
    pub bytes: u64,
    /// Where they are.
    pub content: Content,
}

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Memory(Vec<u8>),
    /// In a file.
    File(PathBuf),
}

impl Blob {
    pub(super) fn new(media_type: &'static str, content: Vec<u8>) -> Blob {
        let digest = Digest::from_bytes(Sha256::digest(&content).into());
        Blob { media_type, digest, bytes: content.len() as u64, content: Content::Memory(content) }
    }

    /// A value as JSON.
    pub(super) fn of_json(media_type: &'static str, value: &impl Serialize) -> Result<Blob> {
        let content = serde_json::to_vec(value).map_err(|error| crate::Error::Io(error.into()))?;
        Ok(Blob::new(media_type, content))
    }

    /// How a manifest or an index refers to it.
    pub(super) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes })
    }

    /// Its place in a layout.
    pub(super) fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }

    /// Its bytes, from the first on.
    ///
    /// # Errors
    /// If the file is gone.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(match &self.content {
            Content::Memory(content) => Box::new(content.as_slice()),
            Content::File(path) => Box::new(File::open(path)?),
        })
    }
}

/// Writes, and computes the digest and the number of the bytes.
pub(super) struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    pub(super) fn new(inner: W) -> Hashed<W> {
        Hashed { inner, hasher: Sha256::new(), bytes: 0 }
    }

    pub(super) fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest::from_bytes(self.hasher.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
