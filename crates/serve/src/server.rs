//! The replicas of all deployments, and a prediction's way through them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use wattle_core::{ModelVersionId, Name, Signature, Usage, nearest};
use wattle_engine::{Tensor, in_order};
use wattle_meter::Meter;
use wattle_store::{Deployment, Isolation, Settings, Store};

use crate::{
    Context, Error, Launcher, Result,
    admit::{Admission, Place},
    batch::{Answered, rows_of},
    memory::Memory,
    metrics::{Eviction, Metrics, Phases, Refusal, Revision},
    pipeline::Pipeline,
    replica::{Parts, Replica},
};

/// The bounds of one server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How many threads compute at once; the machine's processors, usually.
    pub max_computing: usize,
    /// How many requests more may wait.
    pub max_waiting: usize,
    /// How many requests of one tenant may be here.
    pub max_tenant_requests: usize,
    /// The memory that models may take, in bytes.
    pub memory_budget_bytes: u64,
    /// What deployments do not say themselves.
    pub defaults: Settings,
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
    /// What the model takes in memory, in bytes; 0 while not loaded.
    #[serde(default)]
    pub resident_bytes: u64,
    /// Where its model lives.
    #[serde(default = "thread")]
    pub isolation: Isolation,
    /// By what the limits of its process hold; absent without a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
}

fn thread() -> Isolation {
    Isolation::Thread
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
    memory: Arc<Memory>,
    defaults: Settings,
    places_a_deployment: usize,
    replicas: RwLock<BTreeMap<Name, Arc<Replica>>>,
    /// One reload at a time, so that an older view never overwrites a newer one.
    reloading: tokio::sync::Mutex<()>,
}

/// A call that has its place: on one version, whatever the deployment's name serves meanwhile.
pub struct Call {
    replica: Arc<Replica>,
    context: Context,
    _place: Place,
    _share: OwnedSemaphorePermit,
}

impl Call {
    /// What is called.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What its caller says of it; the body may say more than was known when it got its place.
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }
}

impl Server {
    /// A server of the store's deployments. Nothing is loaded before it is called. Without a launcher no model gets a
    /// process of its own.
    pub async fn start(
        store: Store,
        meter: Meter,
        options: ServeOptions,
        launcher: Option<Arc<dyn Launcher>>,
    ) -> Result<Server> {
        let places = options.max_computing + options.max_waiting;
        let metrics = Arc::<Metrics>::default();
        let server = Server {
            inner: Arc::new(Inner {
                store,
                memory: Memory::new(options.memory_budget_bytes, launcher, meter.clone(), &metrics),
                meter,
                metrics,
                admission: Admission::new(options.max_computing, options.max_waiting, options.max_tenant_requests),
                defaults: options.defaults,
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
            replicas.get(&revision.deployment).is_some_and(|replica| *replica.model_version() == revision.model)
        });
        let served: Vec<u64> = replicas.values().map(|replica| replica.served().key).collect();
        let before =
            std::mem::replace(&mut *self.inner.replicas.write().unwrap_or_else(PoisonError::into_inner), replicas);
        // What still answers calls goes when the last of them is answered.
        for replica in before.into_values().filter(|replica| !served.contains(&replica.served().key)) {
            if replica.served().queue.is_idle() {
                replica.unload(Eviction::Replaced);
            }
        }
        Ok(())
    }

    async fn new_replica(&self, deployment: Deployment) -> Replica {
        let inner = &self.inner;
        let id = ModelVersionId { model: deployment.model.clone(), version: deployment.version };
        let found = async {
            let manifest = inner.store.version(&id).await?.manifest;
            let path = inner.store.blobs().local_path(manifest.digest).await;
            Ok::<_, wattle_store::Error>((manifest, path))
        };
        let told = |error: wattle_store::Error| {
            tracing::error!(deployment = %deployment.name, %error, "a deployed model is not there");
            Error::Load { deployment: deployment.name.to_string(), reason: error.to_string() }
        };
        let (manifest, mut path) = match found.await {
            Ok((manifest, path)) => (Some(manifest), path.map_err(told)),
            Err(error) => (None, Err(told(error))),
        };
        let mut pipeline = None;
        if let (Some(manifest), Ok(file)) = (&manifest, &path)
            && manifest.format == Pipeline::FORMAT
        {
            let read = tokio::fs::read_to_string(file).await.map_err(|error| Error::Internal(error.to_string()));
            match read.and_then(|text| Pipeline::from_toml(&text)) {
                Ok(read) => pipeline = Some(read),
                Err(error) => {
                    path = Err(Error::Load { deployment: deployment.name.to_string(), reason: error.to_string() });
                }
            }
        }
        let settings = inner.defaults.clone();
        let parts = Parts {
            name: deployment.name.clone(),
            metrics: inner.metrics.revision(Revision { deployment: deployment.name.clone(), model: id.clone() }),
            id,
            file_bytes: manifest.as_ref().map_or(0, |manifest| manifest.bytes),
            measured_bytes: manifest.as_ref().and_then(|manifest| manifest.resident_bytes),
            signature: match manifest {
                Some(manifest) => manifest.signature,
                None => Signature { inputs: Vec::new(), outputs: Vec::new() },
            },
            path,
            pipeline,
            threads: settings.threads.map(|threads| threads as usize),
            settings: settings.resolve(),
            places: inner.places_a_deployment,
            meter: inner.meter.clone(),
            memory: Arc::clone(&inner.memory),
        };
        Replica::new(deployment, parts)
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
    pub fn admit(&self, replica: Arc<Replica>, context: Context) -> Result<Call> {
        replica.check_path()?;
        let served = replica.served();
        let share = Arc::clone(&served.places).try_acquire_owned().map_err(|_| {
            served.metrics.refused(Refusal::Share);
            Error::Busy {
                reason: format!("deployment {} has as many calls waiting as one may", replica.name()),
                retry_after_seconds: 1,
            }
        })?;
        let place = self.inner.admission.enter(context.tenant.as_deref()).map_err(|(refusal, error)| {
            served.metrics.refused(refusal);
            error
        })?;
        served.touch();
        Ok(Call { replica, context, _place: place, _share: share })
    }

    /// Computes the model's outputs for these inputs.
    ///
    /// The caller's leaving (this future's being dropped) gives its place back while it waits; what computes already
    /// runs to its end and is accounted for.
    pub async fn predict(&self, call: Call, inputs: Vec<Tensor>) -> Result<Prediction> {
        let served = call.replica.served();
        let inputs = in_order(&served.signature, inputs).map_err(|error| Error::Invalid(error.to_string()))?;
        let rows = rows_of(&inputs) as u64;
        let answered = self.compute(served, &call.context, inputs, 0).await?;
        let Answered { outputs, cpu_seconds, queue, batch, compute } = answered;
        let phases = Phases { queue, batch, compute, ..Phases::default() };
        Ok(Prediction { model: served.id.clone(), outputs, usage: served.usage(1, rows, cpu_seconds), phases })
    }

    /// Loads a deployment's model now, so that its first call need not wait for that.
    pub async fn load(&self, name: &Name) -> Result<()> {
        self.find(Some(name))?.load().await
    }

    /// Lets a deployment's model go; its next call loads it again. Says whether it was there.
    pub fn unload(&self, name: &Name) -> Result<bool> {
        Ok(self.find(Some(name))?.unload(Eviction::Request))
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    /// Refuses new calls from now on; those under way are answered.
    pub fn close(&self) {
        self.inner.admission.close();
    }

    fn replica(&self, name: &Name) -> Option<Arc<Replica>> {
        self.inner.replicas.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
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
            resident_bytes: self.resident_bytes(),
            isolation: self.settings().isolation,
            limited_by: self.limited_by().map(str::to_owned),
        }
    }
}
