//! Files from outside are looked at in a child process before they may become a version, so that a file that crashes
//! or stalls its reader costs that child alone.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, process::Command};
use wattle_core::{LanguageModel, Signature};
use wattle_engine::{
    gguf::{self, Gguf},
    onnx::{self, Inspected},
};

use crate::{ApiError, Code, Result};

/// A model that takes longer to load is refused.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// What the child is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inspection {
    /// Check this ONNX or GGUF file.
    Model {
        /// The file.
        model: PathBuf,
    },
    /// Make this ONNX file out of a linear model's NumPy files, then check it.
    Linear {
        /// The coefficients.
        coef: PathBuf,
        /// The intercepts.
        intercept: Option<PathBuf>,
        /// Where the ONNX file goes.
        model: PathBuf,
    },
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// A usable model.
    Usable(Box<Usable>),
    /// Not usable, and why.
    Refused(String),
    /// This machine lacks something.
    Unavailable(String),
    /// The disk is full.
    DiskFull,
    /// The system failed, and how: the file may be good.
    Failed(String),
}

/// What is found out of a usable model.
#[derive(Debug, Serialize, Deserialize)]
pub struct Usable {
    /// Its inputs and outputs.
    pub signature: Signature,
    /// What a language model's file says of it.
    pub language: Option<LanguageModel>,
    /// What loading it added to the child's memory, in bytes; nothing where it depends on how the model is served.
    pub resident_bytes: Option<u64>,
}

/// The child's side.
pub fn inspect(inspection: &Inspection) -> Finding {
    let result = match inspection {
        Inspection::Model { model } => match is_gguf(model) {
            Ok(true) => inspect_gguf(model),
            Ok(false) => inspect_onnx(model),
            Err(error) => Err(error.into()),
        },
        Inspection::Linear { coef, intercept, model } => {
            onnx::linear::from_npy(coef, intercept.as_deref(), model).and_then(|()| inspect_onnx(model))
        }
    };
    match result {
        Ok(usable) => Finding::Usable(Box::new(usable)),
        Err(error @ (wattle_engine::Error::RuntimeMissing { .. } | wattle_engine::Error::RuntimeBroken { .. })) => {
            Finding::Unavailable(error.to_string())
        }
        Err(wattle_engine::Error::Io(error)) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Finding::DiskFull,
            _ => Finding::Failed(error.to_string()),
        },
        Err(error) => Finding::Refused(error.to_string()),
    }
}

fn inspect_onnx(model: &Path) -> wattle_engine::Result<Usable> {
    let Inspected { signature, resident_bytes } = onnx::inspect(model)?;
    Ok(Usable { signature, language: None, resident_bytes: Some(resident_bytes) })
}

fn inspect_gguf(model: &Path) -> wattle_engine::Result<Usable> {
    let header = Gguf::open(model)?;
    let language = gguf::describe(&header)?;
    try_out(model, &language)?;
    Ok(Usable {
        signature: Signature { inputs: Vec::new(), outputs: Vec::new() },
        language: Some(language),
        resident_bytes: None,
    })
}

/// Loads it, with as little beside its weights as can be.
#[cfg(feature = "llama")]
fn try_out(model: &Path, language: &LanguageModel) -> wattle_engine::Result<()> {
    use std::num::NonZeroU32;

    use wattle_engine::llama::{LlamaEngine, Settings};

    let settings = Settings {
        sequences: u32::from(!language.embeds),
        cells: 256,
        context_tokens: None,
        batch_tokens: 256,
        rows: 1,
        threads: NonZeroU32::MIN,
        identity: String::new(),
    };
    LlamaEngine::load(model, &settings).map(drop)
}

#[cfg(not(feature = "llama"))]
fn try_out(_: &Path, _: &LanguageModel) -> wattle_engine::Result<()> {
    Err(wattle_engine::Error::InvalidModel("this server was built without llama.cpp and serves no GGUF files".into()))
}

/// Whether a file begins as GGUF files do.
fn is_gguf(path: &Path) -> io::Result<bool> {
    let mut magic = Vec::new();
    fs::File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == b"GGUF")
}

/// The server's side: asks a child of `program`, `PROGRAM worker inspect`.
pub(crate) async fn inspect_in_child(program: &Path, inspection: &Inspection) -> Result<Usable> {
    let mut child = Command::new(program)
        .args(["worker", "inspect"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let question = serde_json::to_vec(inspection).map_err(ApiError::internal)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that died before reading says so by its exit.
        let _ = stdin.write_all(&question).await;
    }
    let output = tokio::time::timeout(TIME_LIMIT, child.wait_with_output())
        .await
        .map_err(|_| ApiError::invalid(format!("the model did not load within {} s", TIME_LIMIT.as_secs())))??;
    match serde_json::from_slice::<Finding>(&output.stdout) {
        Ok(finding) => usable(finding),
        Err(_) => Err(ApiError::invalid(format!(
            "not a usable model: the process that loaded it ended with {}",
            output.status
        ))),
    }
}

fn usable(finding: Finding) -> Result<Usable> {
    Err(match finding {
        Finding::Usable(usable) => return Ok(*usable),
        Finding::Refused(reason) => ApiError::invalid(reason),
        Finding::Unavailable(reason) => ApiError::new(Code::Unavailable, reason),
        Finding::DiskFull => io::Error::from(io::ErrorKind::StorageFull).into(),
        Finding::Failed(reason) => ApiError::internal(reason),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_full_disk_is_not_a_bad_model() {
        let coef = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/model.npy");
        let code = |model: &str| {
            let finding = inspect(&Inspection::Linear { coef: coef.clone(), intercept: None, model: model.into() });
            usable(serde_json::from_slice(&serde_json::to_vec(&finding).unwrap()).unwrap()).unwrap_err().code
        };
        assert_eq!(code("/dev/full"), Code::OutOfSpace);
        assert_eq!(code("/nowhere/model.onnx"), Code::Internal);
    }
}
