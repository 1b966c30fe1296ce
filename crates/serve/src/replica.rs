//! One deployment's model in this process: loaded at first use, once for all who wait.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, watch};
use wattle_core::{ModelVersionId, Name, Signature};
use wattle_engine::onnx::OnnxModel;
use wattle_store::Deployment;

use crate::{
    Error, Result,
    metrics::{Observation, Protocol, RevisionMetrics},
};

/// How long a failed load is answered from memory, so that many callers do not make a storm of loads.
const FAILURE_KEPT: Duration = Duration::from_secs(5);

/// A deployment as it is served here.
pub struct Replica {
    deployment: Deployment,
    served: Arc<Served>,
}

/// A version and how it fares. It stays the same while its deployment's record changes in other respects.
pub(crate) struct Served {
    signature: Signature,
    /// The model's file, or why there is none.
    path: Result<PathBuf>,
    state: Mutex<State>,
    /// Held by the one call that computes: a session is not entered twice at once.
    pub(crate) turn: Arc<Semaphore>,
    /// The places that this deployment may take of all that there are.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) counters: Counters,
    pub(crate) metrics: Arc<RevisionMetrics>,
}

enum State {
    Cold,
    Loading(watch::Receiver<Option<Result<Arc<OnnxModel>>>>),
    Ready(Arc<OnnxModel>),
    Failed(Instant, Error),
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
    /// A replica that loads its model from `path` when it is first called. A path that could not be found is told to
    /// whoever calls.
    pub(crate) fn new(
        deployment: Deployment,
        signature: Signature,
        path: Result<PathBuf>,
        places: usize,
        metrics: Arc<RevisionMetrics>,
    ) -> Replica {
        let served = Served {
            signature,
            path,
            state: Mutex::new(State::Cold),
            turn: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(places)),
            counters: Counters::default(),
            metrics,
        };
        Replica { deployment, served: Arc::new(served) }
    }

    /// The same replica under a record that names the same version.
    pub(crate) fn under(&self, deployment: Deployment) -> Replica {
        Replica { deployment, served: Arc::clone(&self.served) }
    }

    /// Begins to observe a call of this replica.
    pub fn observe(&self, protocol: Protocol) -> Observation {
        self.served.metrics.observe(protocol)
    }

    /// The record that it serves.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The deployment's name.
    pub fn name(&self) -> &Name {
        &self.deployment.name
    }

    /// The version that answers.
    pub fn model_version(&self) -> ModelVersionId {
        ModelVersionId { model: self.deployment.model.clone(), version: self.deployment.version }
    }

    /// The model's inputs and outputs as its manifest has them, with what may be missing.
    pub fn signature(&self) -> &Signature {
        &self.served.signature
    }

    /// Whether the model is in memory.
    pub fn is_loaded(&self) -> bool {
        matches!(*self.served.lock(), State::Ready(_))
    }

    /// Why the model cannot be loaded, if that was tried.
    pub fn failure(&self) -> Option<Error> {
        match (&self.served.path, &*self.served.lock()) {
            (Err(error), _) | (Ok(_), State::Failed(_, error)) => Some(error.clone()),
            _ => None,
        }
    }

    /// Fails where there is no file to load.
    pub(crate) fn check_path(&self) -> Result<()> {
        self.served.path.as_ref().map(|_| ()).map_err(Error::clone)
    }

    pub(crate) fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// The model; loads it when it is not, while all others who ask wait for that one load. The load goes on when those
    /// who wait for it leave.
    pub(crate) async fn model(&self) -> Result<Arc<OnnxModel>> {
        let mut loaded = {
            let mut state = self.served.lock();
            match &*state {
                State::Ready(model) => return Ok(Arc::clone(model)),
                State::Failed(at, error) if at.elapsed() < FAILURE_KEPT => return Err(error.clone()),
                State::Loading(loaded) => loaded.clone(),
                State::Cold | State::Failed(..) => {
                    let (teller, loaded) = watch::channel(None);
                    *state = State::Loading(loaded.clone());
                    let (served, name) = (Arc::clone(&self.served), self.deployment.name.clone());
                    tokio::task::spawn_blocking(move || {
                        let result = served.load(&name);
                        teller.send_replace(Some(result));
                    });
                    loaded
                }
            }
        };
        match loaded.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(Error::Internal("a load without a result".into()))),
            Err(_) => {
                // The load panicked; the next call tries again.
                *self.served.lock() = State::Cold;
                Err(Error::Internal(format!("loading {} panicked", self.deployment.name)))
            }
        }
    }
}

impl Served {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, name: &Name) -> Result<Arc<OnnxModel>> {
        let started = Instant::now();
        let told = |reason: String| Error::Load { deployment: name.to_string(), reason };
        let result = match &self.path {
            Ok(path) => OnnxModel::load(path, 1).map(Arc::new).map_err(|error| told(error.to_string())),
            Err(error) => Err(error.clone()),
        };
        self.metrics.loaded(started.elapsed(), result.is_ok());
        let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.load_micros.store(elapsed, Relaxed);
        *self.lock() = match &result {
            Ok(model) => {
                tracing::info!(deployment = %name, load_ms = elapsed / 1000, "model loaded");
                State::Ready(Arc::clone(model))
            }
            Err(error) => {
                tracing::warn!(%error, "model not loaded");
                State::Failed(Instant::now(), error.clone())
            }
        };
        result
    }
}
