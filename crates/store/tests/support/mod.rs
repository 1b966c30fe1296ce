//! What several tests of the store need.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use chrono::Utc;
use serde_json::json;
use tempfile::TempDir;
use wattle_core::{
    Column, ColumnKind, Datatype, Digest, Energy, Label, ModelReference, Name, Schema, Signature, TensorSpec,
};
use wattle_store::{
    Change, Deployment, Manifest, ModelVersion, NewDataset, NewRevision, NewTraffic, Result, Settings, Store, Traffic,
    table::Overrides,
};

/// A store in a folder of its own, and a place for files from outside.
pub struct Fixture {
    pub store: Store,
    pub folder: TempDir,
}

impl Fixture {
    pub async fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("data")).await.unwrap();
        Fixture { store, folder }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A file with this content.
    pub fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join("file");
        fs::write(&path, content).unwrap();
        path
    }

    pub async fn version(&self, model: &str, content: &[u8]) -> ModelVersion {
        let path = self.file(content);
        self.store.commit_version(&name(model), &path, manifest).await.unwrap()
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn energy() -> Energy {
    Energy { joules_low: 3.0, joules: 3.5, joules_high: 4.0, label: Label::Estimated, source: "cpu model".into() }
}

pub fn manifest(digest: Digest, bytes: u64) -> Manifest {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp64, shape: vec![-1, 1], missing: false };
    Manifest {
        format: "onnx".into(),
        digest,
        bytes,
        language: None,
        resident_bytes: None,
        signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y_pred")] },
        algorithm: Some("linear-regression".into()),
        parameters: json!({"epochs": 3}),
        data: None,
        metrics: json!({"held_out": {"rmse": 0.1}}),
        software: "wattle 0.1.0".into(),
        training: None,
        parent: None,
        created_at: Utc::now(),
    }
}

pub fn dataset(text: &str, replace: bool) -> NewDataset {
    let column = |name: &str| Column {
        name: name.into(),
        kind: ColumnKind::Number,
        missing: 0,
        distinct: None,
        range: Some([0.1, 2.5]),
    };
    NewDataset {
        name: name(text),
        schema: Schema { columns: vec![column("x"), column("y")] },
        rows: 2,
        source: "C:\\tables\\some/folder/line.csv".into(),
        reading: Overrides::default(),
        replace,
    }
}

/// Gives a version all calls of a deployment.
pub async fn deploy(store: &Store, text: &str, reference: &str, version: u32, default: bool) -> Result<Deployment> {
    let revision = add_revision(store, text, reference, version, Settings::default()).await?;
    let new = NewTraffic { name: name(text), what: Change::Deployed, revision, reason: None, default };
    store.change_traffic(new, |_| Ok(Traffic::all(revision))).await
}

/// The number of a revision of a deployment.
pub async fn add_revision(store: &Store, text: &str, reference: &str, version: u32, settings: Settings) -> Result<u32> {
    let reference: ModelReference = reference.parse().unwrap();
    let new = NewRevision { deployment: name(text), model: reference.model.clone(), version, reference, settings };
    Ok(store.add_revision(new).await?.revision)
}

/// The message of an error, for tests of what it says.
pub fn message<T: std::fmt::Debug>(result: wattle_store::Result<T>) -> String {
    result.unwrap_err().to_string()
}
