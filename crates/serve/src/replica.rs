//! One revision of a deployment as it is served here: its model, loaded at first use once for all who wait, and its queue.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, watch};
use wattle_core::{LanguageModel, ModelVersionId, Name, Signature};
use wattle_meter::Meter;
use wattle_store::{Deployment, Isolation, ResolvedSettings};

use crate::{
    Error, InstanceStatus, Result,
    batcher::BatchLimits,
    engine::Engine,
    handover::Handover,
    memory::{Loaded, Memory},
    metrics::{Eviction, Observation, Protocol, RevisionMetrics},
    pipeline::Pipeline,
    queue::Queue,
    residency::Resident,
    shadow::Shadow,
    speaker::SpeakerSettings,
    tokens::Statistics,
    trial::{Door, Side, Trial},
    troubles::{CHANCE, Troubles, kept_after_crash, kept_after_load, waiting},
};

/// A model of a smaller file computes on one thread: to share its work among several would take longer than the work.
const SEVERAL_THREADS_FROM_BYTES: u64 = 4 << 20;

/// A revision of a deployment as it is served here.
pub struct Replica {
    pub(crate) deployment: Arc<Deployment>,
    pub(crate) served: Arc<Served>,
    /// Who shares the deployment's calls, where it was not yet decided whom a call meets.
    pub(crate) door: Option<Door>,
    pub(crate) trial: Option<(Arc<Trial>, Side)>,
    pub(crate) shadow: Option<Arc<Shadow>>,
    /// Who is taking over from it.
    pub(crate) handover: Option<Arc<Handover>>,
}

/// What a [`Served`] is made of.
pub(crate) struct Parts {
    pub(crate) name: Name,
    pub(crate) revision: u32,
    pub(crate) id: ModelVersionId,
    pub(crate) signature: Signature,
    pub(crate) language: Option<LanguageModel>,
    /// The model's file, or why there is none.
    pub(crate) path: Result<PathBuf>,
    /// The steps, if the version is no model but a pipeline.
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) file_bytes: u64,
    /// What loading it adds to memory, where that was measured when it was imported.
    pub(crate) measured_bytes: Option<u64>,
    pub(crate) settings: ResolvedSettings,
    pub(crate) speaker: Option<SpeakerSettings>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) metrics: Arc<RevisionMetrics>,
    pub(crate) meter: Meter,
    pub(crate) memory: Arc<Memory>,
}

/// A revision's model and how it fares. It stays the same while its deployment's traffic changes.
pub(crate) struct Served {
    /// Its own among all of the process.
    pub(crate) key: u64,
    pub(crate) name: Name,
    pub(crate) revision: u32,
    pub(crate) id: ModelVersionId,
    pub(crate) signature: Signature,
    /// What its file says of it, if it is a language model.
    pub(crate) language: Option<LanguageModel>,
    pub(crate) path: Result<PathBuf>,
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) settings: ResolvedSettings,
    /// Where the model lives.
    pub(crate) isolation: Isolation,
    /// How it is served, if it is a language model.
    pub(crate) speaker: Option<SpeakerSettings>,
    pub(crate) metrics: Arc<RevisionMetrics>,
    pub(crate) queue: Queue,
    /// The places that this deployment may take of all that there are.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) counters: Counters,
    pub(crate) file_bytes: u64,
    pub(crate) measured_bytes: Option<u64>,
    /// What the last load added to memory; zero before the first.
    pub(crate) known_bytes: AtomicU64,
    /// How many instances its next load starts, where it is not as many as there are to be.
    pub(crate) begins_with: AtomicUsize,
    state: Mutex<State>,
    troubles: Mutex<Troubles>,
    /// What its language model's scheduler had counted when it was last asked.
    pub(crate) counted: Mutex<Statistics>,
    use_of: Mutex<Use>,
    pub(crate) meter: Meter,
    memory: Arc<Memory>,
}

enum State {
    Cold,
    Loading(watch::Receiver<Option<Result<Arc<Loaded>>>>),
    Ready(Arc<Loaded>),
    /// Until then nobody tries again.
    Failed(Instant, Error),
}

/// When it was called.
struct Use {
    last: Instant,
    mean_gap: Duration,
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

impl Drop for Served {
    fn drop(&mut self) {
        // One that still answered calls when it was replaced goes with the last of them.
        if matches!(*self.lock(), State::Ready(_)) {
            self.metrics.evicted(Eviction::Replaced);
        }
    }
}

impl Replica {
    /// A revision that takes part in no trial.
    pub(crate) fn new(deployment: Arc<Deployment>, served: Arc<Served>) -> Replica {
        Replica { deployment, served, door: None, trial: None, shadow: None, handover: None }
    }

    /// The revision's number within its deployment.
    pub fn revision(&self) -> u32 {
        self.served.revision
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
    pub fn model_version(&self) -> &ModelVersionId {
        &self.served.id
    }

    /// The model's inputs and outputs as its manifest has them, with what may be missing.
    pub fn signature(&self) -> &Signature {
        &self.served.signature
    }

    /// What its file says of it, if it is a language model.
    pub fn language(&self) -> Option<&LanguageModel> {
        self.served.language.as_ref()
    }

    /// Refuses tensors where texts are wanted.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a language model.
    pub fn check_tensors(&self) -> Result<()> {
        self.served.check_tensors()
    }

    /// How it is served.
    pub fn settings(&self) -> &ResolvedSettings {
        &self.served.settings
    }

    /// Rows of a batch at most; 1 where calls are computed alone.
    pub fn max_batch_rows(&self) -> usize {
        self.served.queue.max_rows()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<RevisionMetrics> {
        &self.served.metrics
    }

    /// Whether the model is in memory; a pipeline always is, and its steps are deployments of their own.
    pub fn is_loaded(&self) -> bool {
        self.served.is_ready()
    }

    /// Where its language models keep what they read of prompts.
    pub(crate) fn prefix_folders(&self) -> Vec<PathBuf> {
        let folder = |served: &Arc<Served>| served.speaker.as_ref()?.saved.clone();
        self.all_served().into_iter().filter_map(folder).collect()
    }

    /// Whether it is a pipeline of other deployments.
    pub fn is_pipeline(&self) -> bool {
        self.served.pipeline.is_some()
    }

    /// What the model takes in memory, in bytes; zero while it is not there.
    pub fn resident_bytes(&self) -> u64 {
        self.served.loaded().map_or(0, |loaded| loaded.bytes)
    }

    /// What its language model's scheduler did since it was loaded; nothing of other models.
    pub fn statistics(&self) -> Statistics {
        match self.served.loaded().as_deref().map(|loaded| &loaded.engine) {
            Some(Engine::Language(speaker)) => speaker.statistics(),
            _ => Statistics::default(),
        }
    }

    /// By what the limits of its process hold, while it has one.
    pub fn limited_by(&self) -> Option<&'static str> {
        self.served.limited_by()
    }

    /// Why the model cannot be loaded, if that was tried.
    pub fn failure(&self) -> Option<Error> {
        self.served.failure()
    }

    pub(crate) fn served(&self) -> &Arc<Served> {
        &self.served
    }
}

impl Served {
    /// A revision that loads its model when it is first called. A path that could not be found is told to whoever calls.
    pub(crate) fn new(parts: Parts) -> Arc<Served> {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let Parts { name, revision, id, signature, path, file_bytes, measured_bytes, settings, .. } = parts;
        let Parts { language, speaker, pipeline, places, metrics, meter, memory, .. } = parts;
        // A language model's file says more than is checked before it computes.
        let usual = if language.is_some() { Isolation::Process } else { Isolation::Thread };
        let has_rows = signature.inputs.iter().chain(&signature.outputs).all(|spec| spec.shape.first() == Some(&-1));
        let max_rows = if has_rows { settings.max_batch_size as usize } else { 1 };
        Arc::new(Served {
            key: KEYS.fetch_add(1, Relaxed),
            queue: Queue::new(BatchLimits { max_rows, max_delay: settings.max_queue_delay }, settings.replicas),
            begins_with: AtomicUsize::new(0),
            places,
            counters: Counters::default(),
            measured_bytes,
            known_bytes: AtomicU64::new(measured_bytes.unwrap_or(0)),
            state: Mutex::new(State::Cold),
            troubles: Mutex::default(),
            counted: Mutex::default(),
            use_of: Mutex::new(Use { last: Instant::now(), mean_gap: Duration::from_secs(60) }),
            name,
            revision,
            id,
            signature,
            language,
            path,
            pipeline,
            file_bytes,
            isolation: settings.isolation.unwrap_or(usual),
            settings,
            speaker,
            metrics,
            meter,
            memory,
        })
    }

    /// Fails where there is no file to load.
    pub(crate) fn check_path(&self) -> Result<()> {
        self.path.as_ref().map(|_| ()).map_err(Error::clone)
    }

    /// Refuses tensors where texts are wanted.
    pub(crate) fn check_tensors(&self) -> Result<()> {
        match self.language {
            Some(_) => Err(Error::Invalid(format!(
                "deployment {} is a language model, which takes no tensors: call /v1/chat/completions or /v1/embeddings",
                self.name
            ))),
            None => Ok(()),
        }
    }

    /// Why the model cannot be loaded, if that was tried.
    pub(crate) fn failure(&self) -> Option<Error> {
        match (&self.path, &*self.lock()) {
            (Err(error), _) | (Ok(_), State::Failed(_, error)) => Some(error.clone()),
            _ => None,
        }
    }

    /// Whether the model is in memory. A pipeline has nothing of its own to load.
    pub(crate) fn is_ready(&self) -> bool {
        self.pipeline.is_some() || self.loaded().is_some()
    }

    /// Loads the model if it is not in memory.
    pub(crate) async fn make_ready(self: &Arc<Self>) -> Result<()> {
        match self.pipeline {
            Some(_) => Ok(()),
            None => self.load().await.map(drop),
        }
    }

    /// Lets the model go; says whether it was there.
    pub(crate) fn unload(&self, reason: Eviction) -> bool {
        self.memory.unload(self, reason)
    }

    /// Whether nobody waits for its answers.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_idle() && self.counters.in_flight.load(Relaxed) == 0
    }

    /// Rows of a batch at most, as it was asked for.
    pub(crate) fn max_rows(&self) -> usize {
        self.queue.max_rows()
    }

    /// How many instances there are to be.
    pub(crate) fn wanted_instances(&self) -> usize {
        self.settings.replicas as usize
    }

    /// How many a load starts.
    pub(crate) fn first_instances(&self) -> usize {
        match self.begins_with.swap(0, Relaxed) {
            0 => self.wanted_instances(),
            first => first,
        }
    }

    /// Its instances, where there may be several.
    pub(crate) fn instances(&self) -> Vec<InstanceStatus> {
        self.loaded().and_then(|loaded| Some(loaded.fleet.as_ref()?.instances())).unwrap_or_default()
    }

    /// The threads that a batch computes on: what somebody decided, or all processors for a model that has work for them.
    pub(crate) fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let decide = || if self.file_bytes >= SEVERAL_THREADS_FROM_BYTES { processors() } else { 1 };
        self.settings.threads.map_or_else(decide, |threads| threads as usize)
    }

    /// By what the limits of its process hold, while it has one.
    pub(crate) fn limited_by(&self) -> Option<&'static str> {
        match &self.loaded()?.engine {
            Engine::Local(_) => None,
            Engine::Remote(worker) => worker.limited_by(),
            Engine::Language(speaker) => speaker.limited_by(),
        }
    }

    /// The model, if it is in memory.
    pub(crate) fn loaded(&self) -> Option<Arc<Loaded>> {
        match &*self.lock() {
            State::Ready(loaded) => Some(Arc::clone(loaded)),
            _ => None,
        }
    }

    /// The model; loads it when it is not there, while all others who ask wait for that one load. The load goes on when
    /// those who wait for it leave.
    pub(crate) async fn load(self: &Arc<Self>) -> Result<Arc<Loaded>> {
        let mut loaded = {
            let mut state = self.lock();
            match &*state {
                State::Ready(loaded) => return Ok(Arc::clone(loaded)),
                State::Failed(until, error) if Instant::now() < *until => return Err(waiting(error, *until)),
                State::Loading(loaded) => loaded.clone(),
                State::Cold | State::Failed(..) => {
                    let (teller, loaded) = watch::channel(None);
                    *state = State::Loading(loaded.clone());
                    let served = Arc::clone(self);
                    tokio::spawn(async move { teller.send_replace(Some(served.load_now().await)) });
                    loaded
                }
            }
        };
        match loaded.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(Error::Internal("a load without a result".into()))),
            Err(_) => {
                // The load panicked; the next call tries again.
                *self.lock() = State::Cold;
                Err(Error::Internal(format!("loading {} panicked", self.name)))
            }
        }
    }

    async fn load_now(self: &Arc<Self>) -> Result<Arc<Loaded>> {
        let started = Instant::now();
        let result = self.memory.load(self).await.map(Arc::new);
        let took = started.elapsed();
        self.metrics.loaded(took, result.is_ok());
        self.counters.load_micros.store(micros(took), Relaxed);
        let mut state = self.lock();
        *state = match &result {
            Ok(loaded) => {
                let load_ms = took.as_millis();
                tracing::info!(deployment = %self.name, version = %self.id, load_ms, bytes = loaded.bytes, "model loaded");
                State::Ready(Arc::clone(loaded))
            }
            Err(error) => {
                tracing::warn!(%error, "model not loaded");
                let kept = kept_after_load(self.trouble());
                State::Failed(Instant::now() + kept, error.clone())
            }
        };
        drop(state);
        self.memory.came();
        result
    }

    /// Takes the model away from those who come.
    pub(crate) fn take_loaded(&self) -> Option<Arc<Loaded>> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Cold) {
            State::Ready(loaded) => Some(loaded),
            other => {
                *state = other;
                None
            }
        }
    }

    /// The process that has the model ended. It is started again by the next call, unless it ended before it answered
    /// anything, or several times in a row: then it is left alone for a while, for longer each time.
    pub(crate) fn crashed(&self, loaded: &Loaded) {
        if loaded.fleet.is_some() {
            // Its instances are replaced one by one.
            return;
        }
        let mut state = self.lock();
        if let State::Ready(present) = &*state
            && std::ptr::eq(Arc::as_ptr(present), loaded)
        {
            self.metrics.evicted(Eviction::Crash);
            tracing::error!(deployment = %self.name, version = %self.id, "the process that serves the model ended");
            let times = self.trouble();
            // If it has worked before, a few times are chance.
            let alone = if loaded.has_answered.load(Relaxed) { times.saturating_sub(CHANCE) } else { times };
            *state = match alone {
                0 => State::Cold,
                _ => State::Failed(
                    Instant::now() + kept_after_crash(alone),
                    Error::Busy {
                        reason: format!(
                            "the process that serves deployment {} ended {times} times in a row, and is left alone for a while",
                            self.name
                        ),
                        retry_after_seconds: 1,
                    },
                ),
            };
        }
    }

    /// One more failure; how many there were in a row.
    fn trouble(&self) -> u32 {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).another()
    }

    /// Notes that somebody calls.
    pub(crate) fn touch(&self) {
        let now = Instant::now();
        let mut use_of = self.use_of.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = now.saturating_duration_since(use_of.last);
        use_of.mean_gap = use_of.mean_gap - use_of.mean_gap / 8 + gap / 8;
        use_of.last = now;
    }

    /// What the policy has to know of a model in memory.
    pub(crate) fn as_resident(&self) -> Option<Resident<u64>> {
        let loaded = self.loaded()?;
        let use_of = self.use_of.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Resident {
            key: self.key,
            bytes: loaded.budgeted_bytes(),
            load_joules: loaded.load_joules,
            // One that answers just now is in use.
            last_used: if self.is_idle() { use_of.last.max(loaded.since) } else { Instant::now() },
            gap: use_of.mean_gap,
            // A container stays as long as it is deployed, unless somebody decided otherwise.
            pinned: self.settings.pin || (loaded.fleet.is_some() && self.settings.keep_alive.is_none()),
            keep_alive: self.settings.keep_alive,
        })
    }

    /// From now on every call is computed alone.
    pub(crate) fn stop_batching(&self, reason: &str) {
        if self.queue.stop_batching() {
            tracing::warn!(deployment = %self.name, version = %self.id, "calls are computed one at a time: {reason}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
