//! What computes a batch: a model in this process, or a process of its own that has the model.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use wattle_core::{ModelVersionId, Name, Signature};
use wattle_engine::{Tensor, onnx::OnnxModel};
use wattle_meter::{thread_cpu_seconds, threads_cpu_seconds};

use crate::{
    Error, Result,
    speaker::{Speaker, SpeakerOrder},
    tokens::Statistics,
};

/// The outputs of a batch, and what it took.
#[derive(Debug)]
pub struct Computed {
    /// Every output of the model, in the signature's order.
    pub outputs: Vec<Tensor>,
    /// Processor time of all threads that computed.
    pub cpu_seconds: f64,
}

/// What an instance is started for.
#[derive(Debug, Clone)]
pub struct WorkerOrder {
    /// The deployment, for logs and messages.
    pub deployment: Name,
    /// The version of the model.
    pub id: ModelVersionId,
    /// The model's file.
    pub model: PathBuf,
    /// The model's inputs and outputs.
    pub signature: Signature,
    /// The threads that one batch computes on, where somebody decided.
    pub threads: Option<usize>,
    /// The most rows of a batch.
    pub max_batch_rows: usize,
    /// The most memory that the instance may take.
    pub memory_limit_bytes: Option<u64>,
    /// The most processors that it may use.
    pub cpu_limit: Option<f64>,
}

/// What starts the instances of one server; those that it cannot start are absent.
#[derive(Clone, Default)]
pub struct Launchers {
    /// Processes of this machine.
    pub processes: Option<Arc<dyn Launcher>>,
    /// Containers.
    pub containers: Option<Arc<dyn Launcher>>,
}

/// Starts instances that serve one model each.
#[async_trait]
pub trait Launcher: Send + Sync + 'static {
    /// Starts one and waits until it has its model.
    ///
    /// # Errors
    /// [`Error::Load`] when it cannot be started, or cannot load its model.
    async fn launch(&self, order: WorkerOrder) -> Result<Arc<dyn Worker>>;

    /// Starts one with a language model and waits until it has it.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    async fn launch_speaker(&self, order: SpeakerOrder) -> Result<Arc<dyn Speaker>>;
}

/// Something that has a model. It ends when this is dropped.
#[async_trait]
pub trait Instance: Send + Sync + 'static {
    /// What it is called where it runs.
    fn name(&self) -> &str;

    /// Whether it is still there.
    fn is_alive(&self) -> bool;

    /// Whether it says of itself that it can answer.
    async fn is_well(&self) -> bool {
        self.is_alive()
    }

    /// What it takes in memory with its model, in bytes.
    fn resident_bytes(&self) -> u64;

    /// Processor time that loading took.
    fn load_cpu_seconds(&self) -> f64;

    /// By what its limits hold, for people: `cgroup`, `affinity and rlimit`, `container`, or `none`; nothing where there
    /// can be none.
    fn limited_by(&self) -> Option<&'static str>;

    /// What a language model did since it was loaded, a second old at most; nothing of other models.
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}

/// Computes the batches of one model.
#[async_trait]
pub trait Worker: Instance {
    /// Computes a batch.
    ///
    /// # Errors
    /// [`Error::Unreached`] when it never began; [`Error::Crashed`] when the instance ended before it answered;
    /// [`Error::Run`] and [`Error::Invalid`] as the model says.
    async fn run(&self, inputs: &[Tensor]) -> Result<Computed>;
}

/// What computes.
#[derive(Clone)]
pub(crate) enum Engine {
    Local(Arc<OnnxModel>),
    Remote(Arc<dyn Worker>),
    Language(Arc<dyn Speaker>),
}

impl Engine {
    /// The threads that a batch computes on.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Engine::Local(model) => model.threads(),
            // Its own process is scheduled by the system, within its own limits.
            Engine::Remote(_) | Engine::Language(_) => 1,
        }
    }

    /// Computes a batch; a model of this process on the calling thread, without a pause in between.
    pub(crate) async fn run(&self, inputs: &[Tensor]) -> Result<Computed> {
        match self {
            Engine::Local(model) => compute(model, inputs),
            Engine::Remote(worker) => worker.run(inputs).await,
            Engine::Language(_) => Err(Error::Internal("a language model got tensors".into())),
        }
    }
}

/// Runs a model on this thread and its pool, whose clocks are what the batch costs.
pub(crate) fn compute(model: &OnnxModel, inputs: &[Tensor]) -> Result<Computed> {
    let pool = if model.threads() > 1 { model.pool_thread_ids() } else { Vec::new() };
    let cpu_before = thread_cpu_seconds() + threads_cpu_seconds(&pool);
    let outputs = model.run_in_order(inputs).map_err(|error| match error {
        wattle_engine::Error::InvalidInput(text) => Error::Invalid(text),
        other => Error::Run(other.to_string()),
    })?;
    let cpu_seconds = (thread_cpu_seconds() + threads_cpu_seconds(&pool) - cpu_before).max(0.0);
    Ok(Computed { outputs, cpu_seconds })
}
