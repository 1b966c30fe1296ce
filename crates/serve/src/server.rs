//! The replicas of all deployments, and a prediction's way through them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use wattle_core::{Activity, ModelVersionId, Name, Signature, Usage, nearest};
use wattle_engine::{Tensor, onnx::OnnxModel};
use wattle_meter::{Meter, thread_cpu_seconds};
use wattle_store::{Deployment, Store};

use crate::{
    Error, Result,
    admit::{Admission, Place},
    metrics::{Metrics, Phases, Refusal, Revision},
    replica::Replica,
};

/// The bounds of one server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How many requests compute at once; the machine's cores, usually.
    pub max_computing: usize,
    /// How many more may wait.
    pub max_waiting: usize,
}

/// An answer and what it cost.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The version that answered.
    pub model: ModelVersionId,
    /// Every output of the model.
    pub outputs: Vec<Tensor>,
    /// Processor time and energy.
    pub usage: Usage,
    /// How long it waited and computed; who reads requests and writes answers adds how long that took.
    pub phases: Phases,
}

/// A deployment and how it fares in this process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The record.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// Whether its model is in memory; otherwise the first call loads it.
    pub loaded: bool,
    /// Why it cannot be loaded, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Calls answered since this version was deployed, or since the server started.
    pub requests: u64,
    /// Calls that failed in the model.
    pub failures: u64,
    /// Calls being answered now.
    pub in_flight: u64,
    /// Mean time in the engine for a call; absent before the first.
    pub mean_compute_ms: Option<f64>,
    /// How long loading took; absent while not loaded.
    pub load_ms: Option<f64>,
}

/// Serves every deployment of a store from this process.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    meter: Meter,
    metrics: Arc<Metrics>,
    admission: Admission,
    places_a_deployment: usize,
    replicas: RwLock<BTreeMap<Name, Arc<Replica>>>,
    /// One reload at a time, so that an older view never overwrites a newer one.
    reloading: tokio::sync::Mutex<()>,
}

/// A call that has its place: on one version, whatever the deployment's name serves meanwhile.
pub struct Call {
    replica: Arc<Replica>,
    place: Place,
    _share: OwnedSemaphorePermit,
}

impl Call {
    /// What is called.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }
}

impl Server {
    /// A server of the store's deployments. Nothing is loaded before it is called.
    pub async fn start(store: Store, meter: Meter, options: ServeOptions) -> Result<Server> {
        let places = options.max_computing + options.max_waiting;
        let server = Server {
            inner: Arc::new(Inner {
                store,
                meter,
                metrics: Arc::default(),
                admission: Admission::new(options.max_computing, options.max_waiting),
                // The others always find a quarter, however slow one is.
                places_a_deployment: places - places / 4,
                replicas: RwLock::default(),
                reloading: tokio::sync::Mutex::default(),
            }),
        };
        server.reload().await?;
        Ok(server)
    }

    /// Takes over the deployments as the store has them now. A replica whose version did not change stays loaded; one
    /// that is gone answers the calls that it has begun; one whose model is not there says so to its callers.
    pub async fn reload(&self) -> Result<()> {
        let _reloading = self.inner.reloading.lock().await;
        let deployments = self.inner.store.deployments().await.map_err(|error| Error::Internal(error.to_string()))?;
        let mut replicas = BTreeMap::new();
        for deployment in deployments {
            let name = deployment.name.clone();
            let same = |replica: &Arc<Replica>| {
                replica.deployment().model == deployment.model && replica.deployment().version == deployment.version
            };
            let replica = match self.replica(&name).filter(same) {
                Some(replica) => replica.under(deployment),
                None => self.new_replica(deployment).await,
            };
            replicas.insert(name, Arc::new(replica));
        }
        self.inner.metrics.retain(|revision| {
            replicas.get(&revision.deployment).is_some_and(|replica| replica.model_version() == revision.model)
        });
        *self.inner.replicas.write().unwrap_or_else(PoisonError::into_inner) = replicas;
        Ok(())
    }

    async fn new_replica(&self, deployment: Deployment) -> Replica {
        let id = ModelVersionId { model: deployment.model.clone(), version: deployment.version };
        let found = async {
            let manifest = self.inner.store.version(&id).await?.manifest;
            let path = self.inner.store.blobs().local_path(manifest.digest).await;
            Ok::<_, wattle_store::Error>((manifest.signature, path))
        };
        let told = |error: wattle_store::Error| {
            tracing::error!(deployment = %deployment.name, %error, "a deployed model is not there");
            Error::Load { deployment: deployment.name.to_string(), reason: error.to_string() }
        };
        let (signature, path) = match found.await {
            Ok((signature, path)) => (signature, path.map_err(told)),
            Err(error) => (Signature { inputs: Vec::new(), outputs: Vec::new() }, Err(told(error))),
        };
        let metrics = self.inner.metrics.revision(Revision { deployment: deployment.name.clone(), model: id });
        Replica::new(deployment, signature, path, self.inner.places_a_deployment, metrics)
    }

    /// The deployment of this name, or, without a name, the default or only one.
    pub fn find(&self, name: Option<&Name>) -> Result<Arc<Replica>> {
        let replicas = self.inner.replicas.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = name {
            return replicas.get(name).cloned().ok_or_else(|| {
                Error::NotFound(match nearest(name.as_str(), replicas.keys().map(Name::as_str)) {
                    Some(nearest) => format!("there is no deployment {name}: did you mean {nearest}?"),
                    None => format!("there is no deployment {name}: `wattle ps` lists them"),
                })
            });
        }
        let mut all = replicas.values();
        let chosen = match (all.next(), all.next()) {
            (Some(only), None) => Some(only),
            _ => replicas.values().find(|replica| replica.deployment().default),
        };
        chosen.cloned().ok_or_else(|| {
            Error::NotFound(match replicas.len() {
                0 => "nothing is deployed: `wattle deploy MODEL` deploys a model".into(),
                count => format!(
                    "{count} deployments and none is the default: call /models/NAME/predict, or mark one with `wattle deploy MODEL --default`"
                ),
            })
        })
    }

    /// Every deployment and how it fares.
    pub fn status(&self) -> Vec<ReplicaStatus> {
        let replicas = self.inner.replicas.read().unwrap_or_else(PoisonError::into_inner);
        replicas.values().map(|replica| replica.status()).collect()
    }

    /// What all revisions count.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Gives a call its place, or says at once that there is none.
    pub fn admit(&self, replica: Arc<Replica>) -> Result<Call> {
        replica.check_path()?;
        let metrics = &replica.served().metrics;
        let share = Arc::clone(&replica.served().places).try_acquire_owned().map_err(|_| {
            metrics.refused(Refusal::Share);
            Error::Busy {
                reason: format!("deployment {} has as many calls waiting as one may", replica.name()),
                retry_after_seconds: 1,
            }
        })?;
        let place = self.inner.admission.enter().inspect_err(|_| {
            metrics.refused(if self.inner.admission.is_closed() { Refusal::Closing } else { Refusal::Full });
        })?;
        Ok(Call { replica, place, _share: share })
    }

    /// Computes the model's outputs for these inputs.
    ///
    /// The caller's leaving (this future's being dropped) gives its place back while it waits; what computes already
    /// runs to its end and is accounted for.
    pub async fn predict(&self, call: Call, inputs: Vec<Tensor>) -> Result<Prediction> {
        let replica = Arc::clone(&call.replica);
        for spec in &replica.signature().inputs {
            if let Some(tensor) = inputs.iter().find(|tensor| tensor.name == spec.name) {
                tensor.check(spec).map_err(|error| Error::Invalid(error.to_string()))?;
            }
        }
        let begun = Instant::now();
        let queued = replica.served().metrics.queued.hold();
        let model = replica.model().await?;
        // Its own model's turn comes first: who waits for a slow model holds none of the processors that others need.
        let own_turn = Arc::clone(&replica.served().turn).acquire_owned().await;
        let own_turn = own_turn.map_err(|error| Error::Internal(error.to_string()))?;
        let turn = self.inner.admission.turn().await?;
        drop(queued);
        let meter = self.inner.meter.clone();
        let compute = move || {
            let _held = (call.place, call._share, own_turn, turn);
            let queue = begun.elapsed();
            let mut prediction = compute(&replica, &model, &inputs, &meter)?;
            prediction.phases.queue = queue;
            Ok(prediction)
        };
        tokio::task::spawn_blocking(compute).await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// Refuses new calls from now on; those under way are answered.
    pub fn close(&self) {
        self.inner.admission.close();
    }

    fn replica(&self, name: &Name) -> Option<Arc<Replica>> {
        self.inner.replicas.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// Runs the model on this thread, whose clock is what the call costs.
fn compute(replica: &Replica, model: &OnnxModel, inputs: &[Tensor], meter: &Meter) -> Result<Prediction> {
    let counters = &replica.served().counters;
    counters.in_flight.fetch_add(1, Relaxed);
    let (started, cpu_before) = (Instant::now(), thread_cpu_seconds());
    let result = model.run(inputs);
    let cpu_seconds = (thread_cpu_seconds() - cpu_before).max(0.0);
    let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    let phases = Phases { compute: started.elapsed(), ..Phases::default() };
    counters.in_flight.fetch_sub(1, Relaxed);
    counters.compute_micros.fetch_add(elapsed, Relaxed);
    counters.requests.fetch_add(1, Relaxed);
    if matches!(result, Err(wattle_engine::Error::Run(_))) {
        counters.failures.fetch_add(1, Relaxed);
    }
    let id = replica.model_version();
    let usage = Usage {
        activity: Activity::Predict,
        deployment: Some(replica.name().clone()),
        model: Some(id.model.clone()),
        version: Some(id.version),
        requests: u64::from(result.is_ok()),
        rows: result.as_ref().map_or(0, |_| inputs.first().map_or(0, |tensor| tensor.rows() as u64)),
        cpu_seconds,
        energy: meter.dynamic_energy(cpu_seconds),
    };
    replica.served().metrics.spent(&usage);
    replica.served().metrics.batch(1, inputs.first().map_or(0, Tensor::rows));
    meter.record(usage.clone());
    let outputs = result.map_err(|error| match error {
        wattle_engine::Error::InvalidInput(text) => Error::Invalid(text),
        other => uneven_rows(replica.signature(), inputs).unwrap_or_else(|| Error::Run(other.to_string())),
    })?;
    Ok(Prediction { model: id, outputs, usage, phases })
}

/// Why a model may have failed: inputs that take any number of rows got different ones. It is asked only afterwards,
/// since a graph may take inputs that are not rows of the same table.
fn uneven_rows(signature: &Signature, inputs: &[Tensor]) -> Option<Error> {
    let free = |tensor: &&Tensor| {
        signature.input(&tensor.name).and_then(|spec| spec.shape.first()).is_some_and(|dimension| *dimension < 0)
    };
    let mut tensors = inputs.iter().filter(free);
    let first = tensors.next()?;
    let other = tensors.find(|tensor| tensor.rows() != first.rows())?;
    Some(Error::Invalid(format!(
        "{:?} has {} rows and {:?} has {}: send the same number in every input",
        first.name,
        first.rows(),
        other.name,
        other.rows()
    )))
}

impl Replica {
    /// How it fares.
    pub fn status(&self) -> ReplicaStatus {
        let counters = &self.served().counters;
        let requests = counters.requests.load(Relaxed);
        let ms = |micros: u64| micros as f64 / 1000.0;
        ReplicaStatus {
            deployment: self.deployment().clone(),
            loaded: self.is_loaded(),
            error: self.failure().map(|error| error.to_string()),
            requests,
            failures: counters.failures.load(Relaxed),
            in_flight: counters.in_flight.load(Relaxed),
            mean_compute_ms: (requests > 0).then(|| ms(counters.compute_micros.load(Relaxed)) / requests as f64),
            load_ms: self.is_loaded().then(|| ms(counters.load_micros.load(Relaxed))),
        }
    }
}
