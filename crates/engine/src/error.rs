use std::{io, path::PathBuf};

/// What can go wrong between a model's file and its outputs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model's file cannot be used; the text says why.
    #[error("{0}")]
    InvalidModel(String),
    /// The inputs do not fit the model's signature.
    #[error("{0}")]
    InvalidInput(String),
    /// The ONNX Runtime library is not where it was looked for.
    #[error(
        "the ONNX Runtime library was not found (looked at {}): run `make setup` in Wattle's source folder, or unpack libonnxruntime.so from the PyPI wheel onnxruntime=={version} and set ORT_DYLIB_PATH to it",
        .looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    RuntimeMissing {
        /// Where it was looked for.
        looked_at: Vec<PathBuf>,
        /// The version that this build was tested with.
        version: &'static str,
    },
    /// The library is there and does not load.
    #[error("the ONNX Runtime library {} does not load: {reason}", .path.display())]
    RuntimeBroken {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The disk or the system failed; a full disk is `StorageFull` or `QuotaExceeded`.
    #[error("the model's file cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The model failed while it ran.
    #[error("the model failed: {0}")]
    Run(String),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
