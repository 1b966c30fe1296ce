//! One deployment's model in this process: loaded at first use, once for all who wait.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use wattle_core::Signature;
use wattle_engine::onnx::OnnxModel;
use wattle_store::Deployment;

use crate::{Error, Result};

/// How long a failed load is answered from memory, so that many callers do not make a storm of loads.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// A deployment as it is served here.
pub struct Replica {
    /// The record that it serves.
    pub deployment: Deployment,
    /// The model's inputs and outputs as its manifest has them, with what may be missing.
    pub signature: Signature,
    path: PathBuf,
    model: OnceLock<Arc<OnnxModel>>,
    loading: Mutex<Option<(Instant, Error)>>,
    pub(crate) counters: Counters,
}

/// What a replica did since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) compute_micros: AtomicU64,
    pub(crate) load_micros: AtomicU64,
}

impl Replica {
    pub(crate) fn new(deployment: Deployment, signature: Signature, path: PathBuf) -> Replica {
        Replica {
            deployment,
            signature,
            path,
            model: OnceLock::new(),
            loading: Mutex::new(None),
            counters: Counters::default(),
        }
    }

    /// Whether the model is loaded.
    pub fn is_loaded(&self) -> bool {
        self.model.get().is_some()
    }

    /// The model; loads it when it is not, while all others who ask wait for that one load.
    pub(crate) async fn model(&self) -> Result<Arc<OnnxModel>> {
        if let Some(model) = self.model.get() {
            return Ok(Arc::clone(model));
        }
        let mut failure = self.loading.lock().await;
        if let Some(model) = self.model.get() {
            return Ok(Arc::clone(model));
        }
        if let Some((at, error)) = failure.as_ref()
            && at.elapsed() < FAILURE_KEPT
        {
            return Err(error.clone());
        }
        let path = self.path.clone();
        let started = Instant::now();
        let loaded = tokio::task::spawn_blocking(move || OnnxModel::load(&path))
            .await
            .map_err(|error| Error::Internal(error.to_string()))?;
        match loaded {
            Ok(model) => {
                let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.counters.load_micros.store(elapsed, Relaxed);
                tracing::info!(deployment = %self.deployment.name, load_ms = elapsed / 1000, "model loaded");
                Ok(Arc::clone(self.model.get_or_init(|| Arc::new(model))))
            }
            Err(error) => {
                let error = Error::Load { deployment: self.deployment.name.to_string(), reason: error.to_string() };
                tracing::warn!(%error, "model not loaded");
                *failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
