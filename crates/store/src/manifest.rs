use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use wattle_core::{Digest, Energy, LanguageModel, ModelVersionId, Name, Signature};

use crate::table::Overrides;

/// All that is known of a version of a model; it never changes, and export writes it beside the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the artefact: `onnx`, `gguf`, `pipeline`.
    pub format: String,
    /// The digest of the artefact.
    pub digest: Digest,
    /// The size of the artefact, in bytes.
    pub bytes: u64,
    /// The named inputs and outputs.
    pub signature: Signature,
    /// What a language model's file says of itself; absent for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<LanguageModel>,
    /// What loading it adds to memory, in bytes, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// How it was trained, for example `linear-regression`; absent when it was imported.
    pub algorithm: Option<String>,
    /// The parameters of the training, as they were resolved; empty when it was imported.
    pub parameters: Value,
    /// What it was trained on; absent when it was imported.
    pub data: Option<DataReference>,
    /// The metrics on the training and the held-out rows; empty when it was imported.
    pub metrics: Value,
    /// The software that made it, for example `wattle 0.1.0`.
    pub software: String,
    /// What its training cost; absent when it was imported.
    pub training: Option<TrainingCost>,
    /// The version that it was made from, if any.
    pub parent: Option<ModelVersionId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The data that a version was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataReference {
    /// The data set's name at that time.
    pub name: Name,
    /// The digest of its normal form.
    pub digest: Digest,
    /// How many rows it has.
    pub rows: u64,
    /// How its file was read otherwise than inferred; a table to be answered is read with the same marks.
    #[serde(default, skip_serializing_if = "Overrides::is_default")]
    pub reading: Overrides,
}

/// What a training job cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingCost {
    /// The job.
    pub job: Uuid,
    /// Time that passed, in seconds.
    pub wall_seconds: f64,
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Energy.
    pub energy: Energy,
}
