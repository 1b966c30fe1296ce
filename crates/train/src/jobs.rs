//! Training jobs on the server's side: a bounded queue, a child process for each, and what it says.
//!
//! The child computes and writes only into its own folder; the server alone writes the catalogue. The child ends when
//! its standard input does, so it never outlives its server.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch},
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use wattle_core::{Activity, Energy, ModelVersionId, Usage};
use wattle_meter::{Meter, child_cpu_seconds};
use wattle_store::{DataReference, Dataset, Job, JobCost, JobEnd, JobState, Manifest, Store, TrainingCost};

use crate::{
    Error, Result,
    events::{Done, Event},
    spec::{ResolvedSpec, TrainingSpec},
    worker::WorkerRequest,
};

/// How often a job's progress is kept in the catalogue, for those who ask after a crash; watchers see all of it.
const PROGRESS_KEPT_EVERY: Duration = Duration::from_secs(2);
/// How often the end of a job is tried to be kept, where the catalogue cannot be written.
const END_TRIED_EVERY: Duration = Duration::from_secs(2);
/// How much of the child's last words is kept for an error.
const STDERR_KEPT_BYTES: u64 = 64 << 10;

/// The bounds of the jobs of one server.
#[derive(Debug, Clone)]
pub struct JobsOptions {
    /// The binary whose `worker train` computes.
    pub program: PathBuf,
    /// How many run at once.
    pub max_running: usize,
    /// How many more may wait.
    pub max_waiting: usize,
}

/// The training jobs of one server.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    meter: Meter,
    options: JobsOptions,
    /// One for each job that may be here at all; closed when the server ends.
    places: Arc<Semaphore>,
    /// One for each job that may run.
    turns: Semaphore,
    live: Mutex<HashMap<Uuid, Live>>,
    /// Submissions and jobs under way.
    tasks: TaskTracker,
}

/// A job that has not ended.
struct Live {
    job: watch::Sender<Job>,
    /// The state in which somebody wants it to end.
    stop: watch::Sender<Option<JobState>>,
}

/// What a job was given.
struct Order {
    job: Job,
    spec: ResolvedSpec,
    data: Dataset,
    parent: Option<ModelVersionId>,
    request: WorkerRequest,
    _place: OwnedSemaphorePermit,
}

impl Jobs {
    /// Takes over the jobs of this store; what an earlier server left running is marked as interrupted.
    pub async fn start(store: Store, meter: Meter, options: JobsOptions) -> Result<Jobs> {
        for id in store.interrupt_running_jobs().await? {
            tracing::warn!(%id, "a training job was interrupted when the server stopped");
        }
        // No job of this server has a folder yet, so what is there was left by an earlier one.
        if let Some(folders) = store.job_dir(Uuid::nil()).parent() {
            remove_folder(folders);
        }
        let places = Arc::new(Semaphore::new(options.max_running + options.max_waiting));
        let turns = Semaphore::new(options.max_running);
        let (live, tasks) = (Mutex::default(), TaskTracker::new());
        Ok(Jobs { inner: Arc::new(Inner { store, meter, options, places, turns, live, tasks }) })
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a job that cannot succeed, [`Error::Store`] for data that is not there, [`Error::Busy`]
    /// when too many wait.
    pub async fn submit(&self, spec: TrainingSpec) -> Result<Job> {
        let inner = &self.inner;
        let resolved = spec.resolve()?;
        let data = inner.store.dataset(&resolved.data).await?;
        resolved.check_columns(&data.schema)?;
        let parent = match &resolved.parent {
            Some(reference) => Some(inner.store.resolve(reference).await?.id()),
            None => None,
        };
        let place = Arc::clone(&inner.places).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => Error::Busy(format!(
                "{} training jobs are queued or running already: try again later",
                inner.options.max_running + inner.options.max_waiting
            )),
            TryAcquireError::Closed => Error::Busy("the server is shutting down: try again when it is back".into()),
        })?;
        // A task of its own, so that a caller that leaves now does not leave half a job behind.
        let submission = Arc::clone(inner).enqueue(spec, resolved, data, parent, place);
        inner.tasks.spawn(submission).await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// The job as it is now.
    pub async fn job(&self, id: Uuid) -> Result<Job> {
        if let Some(live) = self.inner.lock_live().get(&id) {
            return Ok(live.job.borrow().clone());
        }
        Ok(self.inner.store.job(id).await?)
    }

    /// The job now and at each change; the last value has a final state.
    pub async fn watch(&self, id: Uuid) -> Result<watch::Receiver<Job>> {
        if let Some(live) = self.inner.lock_live().get(&id) {
            return Ok(live.job.subscribe());
        }
        Ok(watch::channel(self.inner.store.job(id).await?).1)
    }

    /// Stops a job and waits until it has ended.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it has ended already.
    pub async fn cancel(&self, id: Uuid) -> Result<Job> {
        let changes = self.inner.lock_live().get(&id).map(|live| {
            live.stop.send_replace(Some(JobState::Cancelled));
            live.job.subscribe()
        });
        let Some(mut changes) = changes else {
            let job = self.inner.store.job(id).await?;
            if job.state.is_final() {
                return Err(Error::Conflict(format!("job {id} has ended already: it is {}", job.state)));
            }
            // It is between the catalogue and the queue.
            return Err(Error::Busy(format!("job {id} is just being queued: try again")));
        };
        // The sender goes only after the job's end was told.
        let _ = changes.wait_for(|job| job.state.is_final()).await;
        let job = changes.borrow().clone();
        match job.state {
            JobState::Cancelled => Ok(job),
            state => Err(Error::Conflict(format!("job {id} ended before it could be cancelled: it is {state}"))),
        }
    }

    /// Ends what runs or waits, as interrupted, and returns when that is written.
    pub async fn shutdown(&self) {
        {
            let live = self.inner.lock_live();
            self.inner.places.close();
            for live in live.values() {
                live.interrupt();
            }
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Live {
    fn interrupt(&self) {
        self.stop.send_if_modified(|stop| stop.is_none() && stop.replace(JobState::Interrupted).is_none());
    }
}

impl Inner {
    fn lock_live(&self) -> MutexGuard<'_, HashMap<Uuid, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, job: Job) {
        if let Some(live) = self.lock_live().get(&job.id) {
            live.job.send_replace(job);
        }
    }

    /// Writes a job into the catalogue, prepares its folder, and starts the task that sees it through.
    async fn enqueue(
        self: Arc<Self>,
        spec: TrainingSpec,
        resolved: ResolvedSpec,
        data: Dataset,
        parent: Option<ModelVersionId>,
        place: OwnedSemaphorePermit,
    ) -> Result<Job> {
        let parameters = serde_json::to_value(&spec).map_err(|error| Error::Internal(error.to_string()))?;
        let job = self.store.create_job(&resolved.name, parameters.clone()).await?;
        let work_dir = self.store.job_dir(job.id);
        let table = match prepare_folder(&self.store, &work_dir, &data).await {
            Ok(table) => table,
            Err(error) => {
                remove_folder(&work_dir);
                let end = JobEnd { state: JobState::Failed, error: Some(error.to_string()), cost: JobCost::default() };
                self.store.end_job(job.id, end).await?;
                return Err(error);
            }
        };
        let request = WorkerRequest { table, work_dir, spec: parameters };
        let (changes, _) = watch::channel(job.clone());
        let (stop, stopped) = watch::channel(None);
        let order = Order { job: job.clone(), spec: resolved, data, parent, request, _place: place };
        let entry = Live { job: changes, stop };
        {
            let mut live = self.lock_live();
            if self.places.is_closed() {
                entry.interrupt();
            }
            live.insert(job.id, entry);
        }
        self.tasks.spawn(Arc::clone(&self).run(order, stopped));
        Ok(job)
    }

    async fn run(self: Arc<Self>, order: Order, mut stop: watch::Receiver<Option<JobState>>) {
        let id = order.job.id;
        let mut account = Account::default();
        let outcome = tokio::select! {
            biased;
            state = stopped(&mut stop) => Outcome::Stopped(state),
            turn = self.turns.acquire() => match turn {
                Ok(_turn) => self.compute(&order, &mut stop, &mut account).await,
                Err(error) => Outcome::Failed(error.to_string()),
            },
        };
        let ended = match outcome {
            Outcome::Succeeded(done) => self.commit(&order, &done, &account).await,
            Outcome::Failed(error) => self.end(id, JobState::Failed, Some(error), &account).await,
            Outcome::Stopped(state) => self.end(id, state, None, &account).await,
        };
        remove_folder(&order.request.work_dir);
        let ended = match ended {
            Ok(job) => Ok(job),
            Err(error) => {
                tracing::error!(%id, %error, "the end of a training job could not be kept");
                self.end(id, JobState::Failed, Some(error.to_string()), &account).await
            }
        };
        let ended = match ended {
            Ok(job) => job,
            Err(error) => self.end_at_last(&order.job, error, &account).await,
        };
        tracing::info!(%id, state = %ended.state, "training job ended");
        self.publish(ended);
        self.lock_live().remove(&id);
    }

    /// Ends a job whose end the catalogue did not take, as on a full disk: watchers are told at once, and writing is tried
    /// until it succeeds or the server ends; then the next start marks the job as interrupted.
    async fn end_at_last(&self, job: &Job, mut error: Error, account: &Account) -> Job {
        loop {
            // The write may have succeeded and only its answer have failed.
            if let Ok(kept) = self.store.job(job.id).await
                && kept.state.is_final()
            {
                return kept;
            }
            let failed = Job { state: JobState::Failed, error: Some(error.to_string()), ..job.clone() };
            self.publish(failed.clone());
            if self.places.is_closed() {
                return failed;
            }
            tokio::time::sleep(END_TRIED_EVERY).await;
            match self.end(job.id, JobState::Failed, failed.error.clone(), account).await {
                Ok(job) => return job,
                Err(again) => error = again,
            }
        }
    }

    /// Runs the child to its end.
    async fn compute(
        &self,
        order: &Order,
        stop: &mut watch::Receiver<Option<JobState>>,
        account: &mut Account,
    ) -> Outcome {
        let job = match self.store.start_job(order.job.id).await {
            Ok(job) => job,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        self.publish(job.clone());
        let (mut child, stdin) = match spawn(&self.options.program, &order.request).await {
            Ok(child) => child,
            Err(error) => return Outcome::Failed(format!("the training process could not be started: {error}")),
        };
        let last_words = child.stderr.take().map(|stderr| {
            tokio::spawn(async move {
                let mut text = Vec::new();
                let _ = stderr.take(STDERR_KEPT_BYTES).read_to_end(&mut text).await;
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let Some(stdout) = child.stdout.take() else {
            return Outcome::Failed("the training process has no output".into());
        };
        let mut lines = BufReader::new(stdout).lines();
        let mut kept_at = Instant::now();
        let outcome = loop {
            let line = tokio::select! {
                biased;
                state = stopped(stop) => break Some(Outcome::Stopped(state)),
                line = lines.next_line() => line,
            };
            let line = match line {
                Ok(Some(line)) => line,
                Ok(None) => break None,
                Err(error) => {
                    break Some(Outcome::Failed(format!("the training process's output is unreadable: {error}")));
                }
            };
            match serde_json::from_str(&line) {
                Ok(Event::Progress(progress)) => {
                    account.charge(&self.meter, order, progress.cpu_seconds, 0);
                    let Ok(progress) = serde_json::to_value(progress) else { continue };
                    if kept_at.elapsed() >= PROGRESS_KEPT_EVERY {
                        kept_at = Instant::now();
                        if let Err(error) = self.store.job_progress(job.id, &progress, &account.cost()).await {
                            tracing::warn!(id = %job.id, %error, "progress not kept");
                        }
                    }
                    let JobCost { cpu_seconds, energy } = account.cost();
                    self.publish(Job { progress: Some(progress), cpu_seconds, energy, ..job.clone() });
                }
                Ok(Event::Done(done)) => {
                    account.charge(&self.meter, order, done.cpu_seconds, 1);
                    break Some(Outcome::Succeeded(done));
                }
                Ok(Event::Failed(failed)) => break Some(Outcome::Failed(failed.error)),
                Err(error) => tracing::warn!(id = %job.id, %error, "a line of the training process is not an event"),
            }
        };
        if matches!(outcome, Some(Outcome::Stopped(_))) {
            // It may have ended by itself in this instant, which is as good.
            let _ = child.start_kill();
        }
        drop(stdin);
        // It has closed its output or was killed, so it is at its end. Its last work is charged before it is forgotten.
        let used = match (child.id(), &outcome) {
            (_, Some(Outcome::Succeeded(_))) | (None, _) => None,
            (Some(id), _) => child_cpu_seconds(id),
        };
        account.charge(&self.meter, order, used.unwrap_or(0.0), 0);
        let status = child.wait().await;
        outcome.unwrap_or_else(|| {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            if let Some(words) = last_words {
                tokio::spawn(async move {
                    if let Ok(words) = words.await {
                        tracing::error!(%words, "a training process ended without a result");
                    }
                });
            }
            Outcome::Failed(format!(
                "the training process ended without a result ({status}): it may have run out of memory; try a smaller `memory`, or see the server's log"
            ))
        })
    }

    async fn commit(&self, order: &Order, done: &Done, account: &Account) -> Result<Job> {
        let id = order.job.id;
        let artefact = &done.artefact;
        let training = account.energy.clone().map(|energy| TrainingCost {
            job: id,
            wall_seconds: done.wall_seconds,
            cpu_seconds: account.cpu_seconds,
            energy,
        });
        let mut parameters = serde_json::to_value(&order.spec).map_err(|error| Error::Internal(error.to_string()))?;
        if let Some(parameters) = parameters.as_object_mut() {
            // These say how this machine computed, and change nothing of the model.
            parameters.remove("threads");
            parameters.remove("memory");
        }
        let algorithm = parameters.get("algorithm").and_then(|name| name.as_str()).map(str::to_owned);
        let manifest = |digest, bytes| Manifest {
            format: "onnx".into(),
            digest,
            bytes,
            signature: artefact.signature.clone(),
            language: None,
            resident_bytes: None,
            algorithm,
            parameters,
            data: Some(DataReference {
                name: order.data.name.clone(),
                digest: order.data.digest,
                rows: order.data.rows,
                reading: order.data.reading.clone(),
            }),
            metrics: artefact.metrics.clone(),
            software: format!("wattle {}", env!("CARGO_PKG_VERSION")),
            training,
            parent: order.parent.clone(),
            created_at: chrono::Utc::now(),
        };
        let model = order.request.work_dir.join("model.onnx");
        self.store.finish_job_with_version(id, &model, account.cost(), manifest).await?;
        Ok(self.store.job(id).await?)
    }

    async fn end(&self, id: Uuid, state: JobState, error: Option<String>, account: &Account) -> Result<Job> {
        Ok(self.store.end_job(id, JobEnd { state, error, cost: account.cost() }).await?)
    }
}

enum Outcome {
    Succeeded(Box<Done>),
    Failed(String),
    Stopped(JobState),
}

/// What a job has cost so far.
#[derive(Default)]
struct Account {
    cpu_seconds: f64,
    energy: Option<Energy>,
}

impl Account {
    /// Charges what the child used since it was last asked, and writes it into the ledger.
    fn charge(&mut self, meter: &Meter, order: &Order, cpu_seconds: f64, requests: u64) {
        let used = (cpu_seconds - self.cpu_seconds).max(0.0);
        let energy = meter.dynamic_energy(used);
        self.cpu_seconds += used;
        match &mut self.energy {
            Some(sum) => *sum += &energy,
            none => *none = Some(energy.clone()),
        }
        meter.record(Usage {
            activity: Activity::Train,
            deployment: None,
            model: Some(order.spec.name.clone()),
            version: None,
            requests,
            rows: if requests > 0 { order.data.rows } else { 0 },
            cpu_seconds: used,
            in_child: true,
            energy,
        });
    }

    fn cost(&self) -> JobCost {
        JobCost { cpu_seconds: self.cpu_seconds, energy: self.energy.clone() }
    }
}

/// Completes when somebody wants the job to stop.
async fn stopped(stop: &mut watch::Receiver<Option<JobState>>) -> JobState {
    loop {
        if let Some(state) = *stop.borrow_and_update() {
            return state;
        }
        if stop.changed().await.is_err() {
            // Nobody is left who could want it.
            std::future::pending::<()>().await;
        }
    }
}

/// The child, and its standard input, whose end ends the child.
async fn spawn(program: &Path, request: &WorkerRequest) -> io::Result<(Child, ChildStdin)> {
    let mut child = Command::new(program)
        .args(["worker", "train"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stdin.write_all(&line).await?;
    Ok((child, stdin))
}

/// The job's folder with the table in it: a second name of the blob, so that removing the data set does not take it away
/// while the job waits.
async fn prepare_folder(store: &Store, folder: &Path, data: &Dataset) -> Result<PathBuf> {
    let blob = store.blobs().local_path(data.digest).await?;
    let table = folder.join("data.parquet");
    fs::create_dir_all(folder)?;
    fs::hard_link(blob, &table)?;
    Ok(table)
}

fn remove_folder(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a training job was not removed");
        }
        _ => {}
    }
}
