//! The replicas of all deployments, and a prediction's way through them.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

use tokio::sync::{Notify, OwnedSemaphorePermit};
use wattle_core::{Energy, ModelVersionId, Name, nearest};
use wattle_engine::{Tensor, in_order};
use wattle_meter::Meter;
use wattle_store::{Isolation, Settings, Store};

use crate::{
    Context, Error, Launchers, Result,
    admit::{Admission, Place},
    batch::Answered,
    memory::Memory,
    metrics::{Eviction, Metrics, Phases, Refusal},
    replica::{Replica, Served},
    status::{FailedCanary, ReplicaStatus},
    table::Table,
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
    /// The bounds of each language model.
    pub language: LanguageOptions,
}

/// The bounds of each language model.
#[derive(Debug, Clone)]
pub struct LanguageOptions {
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Where prefixes are kept while their models are not loaded; nowhere when absent.
    pub prefixes: Option<PathBuf>,
    /// How many bytes of them for each model.
    pub prefix_bytes: u64,
    /// The folder by which models take turns on the machine's processors; they take none when absent.
    pub processors: Option<PathBuf>,
}

/// An answer and what it cost.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The version that answered.
    pub model: ModelVersionId,
    /// Every output of the model.
    pub outputs: Vec<Tensor>,
    /// Processor time that it took.
    pub cpu_seconds: f64,
    /// Energy that it took.
    pub energy: Energy,
    /// How long it waited and computed; who reads requests and writes answers adds how long that took.
    pub phases: Phases,
}

/// Serves every deployment of a store from this process.
#[derive(Clone)]
pub struct Server {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) meter: Meter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Admission,
    pub(crate) memory: Arc<Memory>,
    pub(crate) defaults: Settings,
    pub(crate) max_tenant_requests: usize,
    pub(crate) language: LanguageOptions,
    pub(crate) places_a_deployment: usize,
    table: RwLock<Table>,
    /// Revisions that are being made ready to answer, by deployment and number.
    pub(crate) prepared: Mutex<HashMap<(Name, u32), Weak<Served>>>,
    /// One reload at a time, so that an older view never overwrites a newer one.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// Rung when a canary has failed.
    pub(crate) failed: Notify,
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

    /// What its caller says of it.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn shared(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// What its caller says of it; the body may say more than was known when it got its place.
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }
}

impl Server {
    /// A server of the store's deployments. Nothing is loaded before it is called, but containers are started at once.
    pub async fn start(store: Store, meter: Meter, options: ServeOptions, launchers: Launchers) -> Result<Server> {
        let places = options.max_computing + options.max_waiting;
        let metrics = Arc::<Metrics>::default();
        let server = Server {
            inner: Arc::new(Inner {
                store,
                memory: Memory::new(options.memory_budget_bytes, launchers, meter.clone(), &metrics),
                meter,
                metrics,
                admission: Admission::new(options.max_computing, options.max_waiting, options.max_tenant_requests),
                defaults: options.defaults,
                language: options.language,
                max_tenant_requests: options.max_tenant_requests,
                // The others always find a quarter, however slow one is.
                places_a_deployment: places - places / 4,
                table: RwLock::default(),
                prepared: Mutex::default(),
                reloading: tokio::sync::Mutex::default(),
                failed: Notify::new(),
            }),
        };
        server.reload().await?;
        server.start_containers();
        Ok(server)
    }

    /// Starts the containers of all deployments that have them, which are there whether somebody calls or not.
    fn start_containers(&self) {
        let all: Vec<Arc<Served>> = self.table().values().flat_map(|replica| replica.all_served()).cloned().collect();
        for served in all.into_iter().filter(|served| served.isolation == Isolation::Container) {
            tokio::spawn(async move { served.make_ready().await });
        }
    }

    /// The deployment of this name, or, without a name, the default or only one.
    pub fn find(&self, name: Option<&Name>) -> Result<Arc<Replica>> {
        let replicas = self.table();
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
        let replicas = self.table();
        replicas.values().map(|replica| replica.status()).collect()
    }

    /// What all revisions count.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// Gives a call its place, or says at once that there is none. Where it was not yet decided, it is now decided which
    /// of the deployment's revisions it meets (see [`Replica::route`]).
    pub fn admit(&self, replica: Arc<Replica>, context: Context) -> Result<Call> {
        let replica = replica.route(context.key.as_deref());
        let served = replica.served();
        served.check_path()?;
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
        let (replica, served) = (&call.replica, call.replica.served());
        served.check_tensors()?;
        let inputs = in_order(&served.signature, inputs).map_err(|error| Error::Invalid(error.to_string()))?;
        let answered = self.ask(replica, &call.context, inputs, 0).await?;
        let Answered { outputs, cpu_seconds, queue, batch, compute } = answered;
        let phases = Phases { queue, batch, compute, ..Phases::default() };
        let energy = self.inner.meter.dynamic_energy(cpu_seconds);
        Ok(Prediction { model: served.id.clone(), outputs, cpu_seconds, energy, phases })
    }

    /// Has a revision answer inputs that fit: its shadow gets a copy, and its trial counts the call.
    pub(crate) async fn ask(
        &self,
        replica: &Replica,
        context: &Context,
        inputs: Vec<Tensor>,
        depth: usize,
    ) -> Result<Answered> {
        let (inputs, copy) = match &replica.shadow {
            Some(shadow) => shadow.copy(inputs),
            None => (inputs, None),
        };
        let result = self.compute(replica.served(), context, inputs, depth).await;
        if replica.count(&result) {
            self.inner.failed.notify_one();
        }
        let answered = result?;
        Ok(match copy {
            Some(copy) => Answered { outputs: copy.send(answered.outputs), ..answered },
            None => answered,
        })
    }

    /// Loads a deployment's models now, so that their first calls need not wait for that.
    pub async fn load(&self, name: &Name) -> Result<()> {
        for served in self.find(Some(name))?.all_served() {
            served.make_ready().await?;
        }
        Ok(())
    }

    /// Lets a deployment's models go; their next calls load them again. Says whether one was there.
    pub fn unload(&self, name: &Name) -> Result<bool> {
        let replica = self.find(Some(name))?;
        Ok(replica.all_served().into_iter().filter(|served| served.unload(Eviction::Request)).count() > 0)
    }

    /// Removes what was kept of prompts for revisions that are not served any more.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn collect_prefixes(&self) -> Result<()> {
        let Some(folder) = self.inner.language.prefixes.clone() else { return Ok(()) };
        let kept: Vec<PathBuf> = self.table().values().flat_map(|replica| replica.prefix_folders()).collect();
        let remove = move || {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry?.path();
                if !kept.contains(&path) {
                    std::fs::remove_dir_all(path)?;
                }
            }
            Ok(())
        };
        let removed: std::io::Result<()> =
            tokio::task::spawn_blocking(remove).await.map_err(|error| Error::Internal(error.to_string()))?;
        removed.map_err(|error| Error::Internal(format!("prefixes cannot be removed: {error}")))
    }

    /// Waits until a canary fails.
    pub async fn canary_failed(&self) {
        self.inner.failed.notified().await;
    }

    /// The canaries that have failed and are not yet rolled back; they get no calls.
    pub fn failed_canaries(&self) -> Vec<FailedCanary> {
        self.table().values().filter_map(|replica| replica.failed_canary()).collect()
    }

    /// Refuses new calls from now on; those under way are answered.
    pub fn close(&self) {
        self.inner.admission.close();
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.inner.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
