//! The models in memory: within a budget in bytes, loaded once for all who wait, measured as they are loaded.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use wattle_engine::{
    memory::{heap_bytes, trim_heap},
    onnx::{OnnxModel, prepare_threads},
};
use wattle_meter::{MEMORY_WATTS_PER_BYTE, Meter, thread_cpu_seconds};
use wattle_store::Isolation;

use crate::{
    Error, Instance, Launcher, Launchers, Result, Worker, WorkerOrder,
    engine::Engine,
    fleet::{Fleet, Scale, Start},
    metrics::{Eviction, Metrics, RevisionMetrics},
    replica::Served,
    residency::{self, Resident},
    speaker::{LocalSpeaker, Speaker, SpeakerOrder, SpeakerSettings},
};

/// How long a load waits for models that are to go and still compute.
const LEAVING: Duration = Duration::from_secs(30);
/// A load adds no more than so many times the size of its file: the weights as they were read and as they are computed
/// with, and the plan. What is seen beyond that belongs to others.
const SEEN_AT_MOST: u64 = 4;
/// How often it is looked for models that have stayed too long, and for memory to give back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const TIDY: u8 = 0;
/// Nothing was loaded and nothing went since it was last looked.
const QUIET: u8 = 1;
const UNTIDY: u8 = 2;

/// A model in memory. Its memory is free when the last who use it are done.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    /// The instances, where there may be several that come and go.
    pub(crate) fleet: Option<Arc<dyn Scale>>,
    pub(crate) bytes: u64,
    pub(crate) load_joules: f64,
    pub(crate) since: Instant,
    /// Whether it has computed anything yet.
    pub(crate) has_answered: AtomicBool,
    metrics: Arc<RevisionMetrics>,
    room: Room,
}

/// What a [`Loaded`] is made of.
struct Parts {
    engine: Engine,
    fleet: Option<Arc<dyn Scale>>,
    bytes: u64,
    cpu_seconds: f64,
    room: Room,
}

impl Loaded {
    /// What it takes of the budget, in bytes.
    pub(crate) fn budgeted_bytes(&self) -> u64 {
        self.room.bytes
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.metrics.instances.add(-1);
        self.metrics.model_gone();
        self.metrics.resident_bytes.add(-gauge(self.bytes));
    }
}

/// The memory of one server's models.
pub(crate) struct Memory {
    budget_bytes: u64,
    /// What models take, and what was set aside for those that are being loaded.
    used_bytes: AtomicU64,
    /// The part of it that was set aside for models that are being loaded, which cannot go.
    loading_bytes: AtomicU64,
    /// Rung when room became free, or a model came that can go for it.
    changed: Notify,
    /// Held while a model asks for room and is loaded into this process, so that what is measured is its own.
    loading: tokio::sync::Mutex<()>,
    residents: Mutex<BTreeMap<u64, Weak<Served>>>,
    /// Whether memory that was used for loads, or for models that went, is still to be given back to the system.
    untidy: AtomicU8,
    launchers: Launchers,
    meter: Meter,
}

/// Room that was set aside; free again when this is dropped.
struct Room {
    memory: Arc<Memory>,
    bytes: u64,
    loading: bool,
}

impl Memory {
    pub(crate) fn new(budget_bytes: u64, launchers: Launchers, meter: Meter, metrics: &Metrics) -> Arc<Memory> {
        metrics.memory_budget_bytes.set(gauge(budget_bytes));
        let memory = Arc::new(Memory {
            budget_bytes,
            used_bytes: AtomicU64::new(0),
            loading_bytes: AtomicU64::new(0),
            changed: Notify::new(),
            loading: tokio::sync::Mutex::default(),
            residents: Mutex::default(),
            untidy: AtomicU8::new(TIDY),
            launchers,
            meter,
        });
        tokio::spawn(look_for_overdue(Arc::downgrade(&memory)));
        memory
    }

    /// Loads a model, for which others may have to go.
    pub(crate) async fn load(self: &Arc<Self>, served: &Arc<Served>) -> Result<Loaded> {
        let path = served.path.clone()?;
        if served.isolation == Isolation::Container {
            return self.load_in_containers(served, path).await;
        }
        let needed = match served.known_bytes.load(Relaxed) {
            // What its file says, or its size, is the least that it will take.
            0 => tokio::fs::metadata(&path).await.map(|file| file.len()).unwrap_or(0),
            known => known,
        };
        let told = |reason: String| Error::Load { deployment: served.name.to_string(), reason };
        // One load at a time asks for room: two that had half of theirs each would wait for each other.
        let loading = self.loading.lock().await;
        let mut room = self.make_room(served, needed, 0).await?;
        let (engine, bytes, cpu_seconds, _loading) = match (served.isolation, &served.speaker) {
            (Isolation::Container, _) => return Err(told("it has no place in this process".into())),
            (Isolation::Thread, Some(settings)) => {
                let settings = settings.clone();
                let load = move || LocalSpeaker::load(&path, &settings);
                let loaded = tokio::task::spawn_blocking(load).await.map_err(|error| told(error.to_string()))?;
                let speaker: Arc<dyn Speaker> = Arc::new(loaded.map_err(told)?);
                let (bytes, cpu_seconds) = (speaker.resident_bytes(), speaker.load_cpu_seconds());
                (Engine::Language(speaker), bytes, cpu_seconds, Some(loading))
            }
            (Isolation::Process, Some(settings)) => {
                drop(loading);
                let speaker = self.processes(served)?.launch_speaker(speaker_order(served, path, settings)).await?;
                let (bytes, cpu_seconds) = (speaker.resident_bytes(), speaker.load_cpu_seconds());
                (Engine::Language(speaker), bytes, cpu_seconds, None)
            }
            (Isolation::Thread, None) => {
                let (model, seen, cpu_seconds) = load_here(path, served.threads()).await.map_err(told)?;
                // What others allocate meanwhile is seen too, so what was measured in a process of its own counts for more,
                // and what can be counted for most.
                let bytes = model.known_bytes().or(served.measured_bytes);
                let bytes = bytes.unwrap_or_else(|| seen.min(SEEN_AT_MOST * served.file_bytes.max(1 << 20)));
                (Engine::Local(Arc::new(model)), bytes, cpu_seconds, Some(loading))
            }
            (Isolation::Process, None) => {
                drop(loading);
                let order = WorkerOrder { threads: Some(served.threads()), ..worker_order(served, path) };
                let worker = self.processes(served)?.launch(order).await?;
                let (bytes, cpu_seconds) = (worker.resident_bytes(), worker.load_cpu_seconds());
                (Engine::Remote(worker), bytes, cpu_seconds, None)
            }
        };
        served.known_bytes.store(bytes.max(1), Relaxed);
        served.begin_counting();
        if bytes > room.bytes {
            let more = self.make_room(served, bytes - room.bytes, room.bytes).await?;
            room.grow(more);
        } else {
            room.shrink(bytes);
        }
        room.settle();
        Ok(self.loaded(served, Parts { engine, fleet: None, bytes, cpu_seconds, room }))
    }

    /// Starts containers for a model. What they take is bounded by their own limits, and not of this server's budget.
    async fn load_in_containers(self: &Arc<Self>, served: &Arc<Served>, path: PathBuf) -> Result<Loaded> {
        let launcher = self.launchers.containers.clone().ok_or_else(|| Error::Load {
            deployment: served.name.to_string(),
            reason: "this server starts no containers: set isolation to thread or process".into(),
        })?;
        let (name, count) = (served.name.clone(), served.first_instances());
        let (engine, fleet): (Engine, Arc<dyn Scale>) = match served.speaker.clone() {
            Some(settings) => {
                let order = speaker_order(served, path, &settings);
                let start: Start<dyn Speaker> = Box::new(move || {
                    let (launcher, order) = (Arc::clone(&launcher), order.clone());
                    Box::pin(async move { launcher.launch_speaker(order).await })
                });
                let fleet = Fleet::start(name, start, count).await?;
                (Engine::Language(Arc::clone(&fleet) as Arc<dyn Speaker>), fleet)
            }
            None => {
                let order = worker_order(served, path);
                let start: Start<dyn Worker> = Box::new(move || {
                    let (launcher, order) = (Arc::clone(&launcher), order.clone());
                    Box::pin(async move { launcher.launch(order).await })
                });
                let fleet = Fleet::start(name, start, count).await?;
                (Engine::Remote(Arc::clone(&fleet) as Arc<dyn Worker>), fleet)
            }
        };
        let instance: &dyn Instance = match &engine {
            Engine::Language(speaker) => speaker.as_ref(),
            Engine::Remote(worker) => worker.as_ref(),
            Engine::Local(_) => return Err(Error::Internal("a container is in this process".into())),
        };
        let (bytes, cpu_seconds) = (instance.resident_bytes(), instance.load_cpu_seconds());
        served.known_bytes.store(bytes.max(1), Relaxed);
        served.begin_counting();
        let room = Room { memory: Arc::clone(self), bytes: 0, loading: false };
        Ok(self.loaded(served, Parts { engine, fleet: Some(fleet), bytes, cpu_seconds, room }))
    }

    /// Books a load, and remembers the model.
    fn loaded(&self, served: &Arc<Served>, parts: Parts) -> Loaded {
        let Parts { engine, fleet, bytes, cpu_seconds, room } = parts;
        served.account_load(cpu_seconds);
        self.residents().insert(served.key, Arc::downgrade(served));
        let load_joules = self.meter.dynamic_energy(cpu_seconds).joules;
        let metrics = Arc::clone(&served.metrics);
        metrics.instances.add(1);
        metrics.resident_bytes.add(gauge(bytes));
        let (since, has_answered) = (Instant::now(), AtomicBool::new(false));
        Loaded { engine, fleet, bytes, load_joules, since, has_answered, metrics, room }
    }

    fn processes(&self, served: &Served) -> Result<&Arc<dyn Launcher>> {
        self.launchers.processes.as_ref().ok_or_else(|| Error::Load {
            deployment: served.name.to_string(),
            reason: "this server starts no processes for models: set isolation to thread".into(),
        })
    }

    /// Tells those who wait for room that a model is in memory now, and can go for it.
    pub(crate) fn came(&self) {
        self.untidy.store(UNTIDY, Relaxed);
        self.changed.notify_waiters();
    }

    /// Lets a model go; says whether it was there. Whoever computes with it goes on to the end.
    pub(crate) fn unload(self: &Arc<Self>, served: &Served, reason: Eviction) -> bool {
        self.residents().remove(&served.key);
        let Some(loaded) = served.take_loaded() else { return false };
        served.metrics.evicted(reason);
        tracing::info!(deployment = %served.name, version = %served.id, bytes = loaded.bytes, reason = reason.as_str(), "model unloaded");
        // What is free for another model is used at once.
        let is_trimmed = matches!(loaded.engine, Engine::Local(_)) && reason != Eviction::Room;
        self.untidy.store(UNTIDY, Relaxed);
        if let Engine::Language(speaker) = &loaded.engine {
            let speaker = Arc::clone(speaker);
            served.count_tokens(speaker.as_ref());
            tokio::spawn(async move {
                speaker.save().await;
                drop(speaker);
                drop(tokio::task::spawn_blocking(|| drop(loaded)));
            });
            return true;
        }
        // To free a large model takes a while.
        tokio::task::spawn_blocking(move || {
            drop(loaded);
            if is_trimmed {
                trim_heap();
            }
        });
        true
    }

    /// Sets room aside, for which the least valuable models go; beside so much that this model has already.
    async fn make_room(self: &Arc<Self>, served: &Served, needed_bytes: u64, own_bytes: u64) -> Result<Room> {
        let no_room = |pinned_bytes: u64| Error::NoRoom {
            deployment: served.name.to_string(),
            needed_bytes,
            budget_bytes: self.budget_bytes,
            pinned_bytes,
        };
        let until = tokio::time::Instant::now() + LEAVING;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no bell is missed.
            changed.as_mut().enable();
            if let Some(room) = self.take(needed_bytes) {
                return Ok(room);
            }
            let residents = self.snapshot();
            let models: Vec<Resident<u64>> = residents.iter().map(|(resident, _)| resident.clone()).collect();
            let loading_bytes = self.loading_bytes.load(Relaxed);
            let victims = residency::victims(&models, needed_bytes + loading_bytes, self.budget_bytes, Instant::now());
            let going = match victims {
                Ok(going) => going,
                // What others are just loading can go once it is there.
                Err(no)
                    if loading_bytes > own_bytes && own_bytes + needed_bytes + no.pinned_bytes <= self.budget_bytes =>
                {
                    Vec::new()
                }
                Err(no) => return Err(no_room(no.pinned_bytes + loading_bytes)),
            };
            for (resident, served) in &residents {
                if going.contains(&resident.key) {
                    self.unload(served, Eviction::Room);
                }
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return Err(Error::Busy {
                    reason: format!("there is no room for deployment {} before other models are done", served.name),
                    retry_after_seconds: 1,
                });
            }
        }
    }

    /// Gives memory back to the system once no model has come or gone for a while.
    fn tidy(&self) {
        match self.untidy.load(Relaxed) {
            UNTIDY => self.untidy.store(QUIET, Relaxed),
            QUIET => {
                self.untidy.store(TIDY, Relaxed);
                tokio::task::spawn_blocking(trim_heap);
            }
            _ => {}
        }
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.budget_bytes);
        self.used_bytes.fetch_update(Relaxed, Relaxed, fits).ok()?;
        self.loading_bytes.fetch_add(bytes, Relaxed);
        Some(Room { memory: Arc::clone(self), bytes, loading: true })
    }

    fn snapshot(&self) -> Vec<(Resident<u64>, Arc<Served>)> {
        let served: Vec<Arc<Served>> = self.residents().values().filter_map(Weak::upgrade).collect();
        served.into_iter().filter_map(|served| Some((served.as_resident()?, served))).collect()
    }

    fn residents(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Served>>> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Takes over more room.
    fn grow(&mut self, mut more: Room) {
        self.bytes += std::mem::take(&mut more.bytes);
    }

    /// Gives back what is not needed.
    fn shrink(&mut self, bytes: u64) {
        let over = self.bytes.saturating_sub(bytes);
        self.bytes -= over;
        self.memory.loading_bytes.fetch_sub(over, Relaxed);
        self.memory.give_back(over);
    }

    /// The model is there, and can go.
    fn settle(&mut self) {
        self.loading = false;
        self.memory.loading_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Memory {
    fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Relaxed);
        self.changed.notify_waiters();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.loading {
            self.memory.loading_bytes.fetch_sub(self.bytes, Relaxed);
        }
        self.memory.give_back(self.bytes);
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn worker_order(served: &Served, model: PathBuf) -> WorkerOrder {
    WorkerOrder {
        deployment: served.name.clone(),
        id: served.id.clone(),
        model,
        signature: served.signature.clone(),
        threads: served.settings.threads.map(|threads| threads as usize),
        max_batch_rows: served.max_rows(),
        memory_limit_bytes: served.settings.memory_limit_bytes,
        cpu_limit: served.settings.cpu_limit,
    }
}

fn speaker_order(served: &Served, model: PathBuf, settings: &SpeakerSettings) -> SpeakerOrder {
    SpeakerOrder {
        deployment: served.name.clone(),
        id: served.id.clone(),
        model,
        settings: settings.clone(),
        memory_limit_bytes: served.settings.memory_limit_bytes,
        cpu_limit: served.settings.cpu_limit,
    }
}

/// Loads a model into this process; how many bytes and how much processor time that took.
async fn load_here(path: PathBuf, threads: usize) -> Result<(OnnxModel, u64, f64), String> {
    let (sender, loaded) = tokio::sync::oneshot::channel();
    prepare_threads();
    let load = move || {
        // Whoever calls a model that is there already goes first. Where it may not be said, loads take their share.
        let _ = rustix::process::setpriority_process(None, 10);
        let (heap, cpu) = (heap_bytes(), thread_cpu_seconds());
        let model = OnnxModel::load(&path, threads).map_err(|error| error.to_string());
        let (bytes, cpu_seconds) = (heap_bytes().saturating_sub(heap), thread_cpu_seconds() - cpu);
        let _ = sender.send(model.map(|model| (model, bytes, cpu_seconds.max(0.0))));
    };
    let loader = thread::Builder::new().name("wattle-loader".into()).spawn(load).map_err(|error| error.to_string())?;
    // The runtime's end waits for what it has begun, and so for a load that nobody waits for any more: a process must not
    // end while ONNX Runtime is at work.
    tokio::task::spawn_blocking(|| loader.join());
    loaded.await.unwrap_or_else(|_| Err("loading panicked".into()))
}

/// Lets models go that have stayed for longer than is worth while, and memory after them, as long as the server is there.
async fn look_for_overdue(memory: Weak<Memory>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(memory) = memory.upgrade() else { return };
        let residents = memory.snapshot();
        for (_, served) in &residents {
            if let Some(loaded) = served.loaded()
                && let Engine::Language(speaker) = &loaded.engine
            {
                served.count_tokens(speaker.as_ref());
            }
        }
        let models: Vec<Resident<u64>> = residents.iter().map(|(resident, _)| resident.clone()).collect();
        let going = residency::overdue(&models, MEMORY_WATTS_PER_BYTE, Instant::now());
        for (resident, served) in residents {
            // One that is called just now has been idle no longer.
            if going.contains(&resident.key) && served.is_idle() {
                memory.unload(&served, Eviction::Idle);
            }
        }
        memory.tidy();
    }
}
