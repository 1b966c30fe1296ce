//! Files from outside are looked at in a child process before they may become a version, so that a file that crashes
//! or stalls its reader costs that child alone.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, process::Command};
use wattle_core::Signature;
use wattle_engine::onnx::{self, Inspected};

use crate::{ApiError, Code, Result};

/// A model that takes longer to load is refused.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// What the child is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inspection {
    /// Check this ONNX file.
    Onnx {
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
    Usable(Usable),
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
    /// What loading it added to the child's memory, in bytes.
    pub resident_bytes: u64,
}

/// The child's side.
pub fn inspect(inspection: &Inspection) -> Finding {
    let result = match inspection {
        Inspection::Onnx { model } => onnx::inspect(model),
        Inspection::Linear { coef, intercept, model } => {
            onnx::linear::from_npy(coef, intercept.as_deref(), model).and_then(|()| onnx::inspect(model))
        }
    };
    match result {
        Ok(Inspected { signature, resident_bytes }) => Finding::Usable(Usable { signature, resident_bytes }),
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
            "not a usable ONNX model: the process that loaded it ended with {}",
            output.status
        ))),
    }
}

fn usable(finding: Finding) -> Result<Usable> {
    Err(match finding {
        Finding::Usable(usable) => return Ok(usable),
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
