//! What Wattle can do, whatever protocol asks for it.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};
use uuid::Uuid;
use wattle_core::{ModelReference, Name};
use wattle_deploy::DeploymentRequest;
use wattle_engine::{Tensor, tokens::Token};
use wattle_meter::{SensorDescription, Total, UsageLine, UsageQuery};
use wattle_serve::{
    Call, Context, Logs, Prediction, Replica, ReplicaStatus,
    language::{Embedded, Generate, Pieces, Prompt},
    metrics::Metrics,
};
use wattle_store::{
    AliasChange, Collected, Dataset, Deployment, DeploymentHistory, Job, Model, ModelVersion, StagedFile,
    table::Overrides,
};
use wattle_train::spec::TrainingSpec;

use crate::Result;

/// Bytes that arrive piece by piece.
pub type Upload = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// How a file becomes a data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDataset {
    /// The file's name, for people.
    #[serde(default)]
    pub source: String,
    /// What to read otherwise than inferred.
    #[serde(default)]
    pub overrides: Overrides,
    /// What happens when the name has other data.
    #[serde(default)]
    pub conflict: OnConflict,
}

/// A data set that was added, and what to tell the person who did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddedDataset {
    /// The data set.
    #[serde(flatten)]
    pub dataset: Dataset,
    /// What looks like a slip in the file and was read all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What happens when a data set's name is taken by other data. The same data under the same name is never a conflict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Nothing is added.
    #[default]
    Refuse,
    /// The new data takes the name.
    Replace,
    /// The new data gets a name made of the wanted one and its digest.
    Rename,
}

/// An upload in a temporary file, and its place among all uploads.
pub struct Staged {
    pub(crate) file: StagedFile,
    pub(crate) _place: OwnedSemaphorePermit,
}

impl Staged {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// The files of a model from outside.
pub enum ImportFiles {
    /// One ONNX or GGUF file.
    Model(Staged),
    /// A pipeline as a TOML file.
    Pipeline(Staged),
    /// A linear model as two NumPy files.
    Linear {
        /// `.npy` of shape `[features]` or `[outputs, features]`.
        coef: Staged,
        /// `.npy` of shape `[]` or `[outputs]`; zeros when absent.
        intercept: Option<Staged>,
    },
}

/// What serves and how it knows what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// `wattle`.
    pub name: String,
    /// The software's version.
    pub version: String,
    /// Where joules come from.
    pub sensor: SensorDescription,
    /// Processor threads.
    pub cpus: usize,
}

/// Everything that Wattle does, for REST, gRPC and the command line alike.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Which server this is.
    fn info(&self) -> ServerInfo;

    /// Whether new work is accepted.
    fn is_ready(&self) -> bool;

    /// The same, told when it changes: once, when the server closes.
    fn readiness(&self) -> watch::Receiver<bool>;

    /// Writes an upload of at most `max_bytes` to a temporary file of the store's, if not too many are there already.
    async fn stage(&self, upload: Upload, max_bytes: u64) -> Result<Staged>;

    /// Makes a staged CSV or Parquet file the data set of this name.
    async fn add_dataset(&self, name: Name, file: Staged, options: AddDataset) -> Result<AddedDataset>;
    /// All data sets, by name.
    async fn datasets(&self) -> Result<Vec<Dataset>>;
    /// One data set.
    async fn dataset(&self, name: Name) -> Result<Dataset>;
    /// Removes a data set's name; its bytes go with the next garbage collection.
    async fn remove_dataset(&self, name: Name) -> Result<()>;

    /// Queues a training job.
    async fn create_job(&self, spec: TrainingSpec) -> Result<Job>;
    /// The latest jobs, newest first.
    async fn jobs(&self) -> Result<Vec<Job>>;
    /// One job.
    async fn job(&self, id: Uuid) -> Result<Job>;
    /// Stops a job that is queued or running.
    async fn cancel_job(&self, id: Uuid) -> Result<Job>;
    /// The job now and at each change, until it is final.
    async fn watch_job(&self, id: Uuid) -> Result<watch::Receiver<Job>>;

    /// Makes files from outside the next version of this model.
    async fn import_model(&self, name: Name, files: ImportFiles) -> Result<ModelVersion>;
    /// All models, by name.
    async fn models(&self) -> Result<Vec<Model>>;
    /// One model.
    async fn model(&self, name: Name) -> Result<Model>;
    /// The version that a reference means now.
    async fn resolve(&self, reference: ModelReference) -> Result<ModelVersion>;
    /// The version that a reference means now, and its file.
    async fn model_file(&self, reference: ModelReference) -> Result<(ModelVersion, PathBuf)>;
    /// Removes a version, or a model with all its versions.
    async fn remove_model(&self, name: Name, version: Option<u32>) -> Result<()>;
    /// Lets an alias name a version.
    async fn set_alias(&self, model: Name, alias: Name, version: u32) -> Result<Model>;
    /// Removes an alias.
    async fn remove_alias(&self, model: Name, alias: Name) -> Result<()>;
    /// Where a model's aliases pointed, oldest first.
    async fn alias_history(&self, model: Name) -> Result<Vec<AliasChange>>;

    /// Deploys a version, in place of what its name served before, or beside it.
    async fn deploy(&self, request: DeploymentRequest) -> Result<Deployment>;
    /// Gives the canary, or without one the shadow, all calls.
    async fn promote(&self, name: Name) -> Result<Deployment>;
    /// Goes back by one step: from what is tried, or to the revision that answered before.
    async fn roll_back(&self, name: Name) -> Result<Deployment>;
    /// What happened to a deployment's traffic.
    async fn deployment_history(&self, name: Name) -> Result<DeploymentHistory>;
    /// What was said of deployments.
    fn logs(&self) -> &Logs;
    /// Removes a deployment.
    async fn undeploy(&self, name: Name) -> Result<()>;
    /// Loads a deployment's model now, so that its first call need not wait for that.
    async fn load(&self, name: Name) -> Result<()>;
    /// Lets a deployment's model go; its next call loads it again.
    async fn unload(&self, name: Name) -> Result<()>;
    /// Every deployment and how it fares.
    async fn deployments(&self) -> Result<Vec<ReplicaStatus>>;

    /// The deployment of this name; without a name the default or only one.
    fn find(&self, deployment: Option<&Name>) -> Result<Arc<Replica>>;
    /// Gives a call its place, before anything costly is done for it.
    fn admit(&self, replica: Arc<Replica>, context: Context) -> Result<Call>;
    /// Computes a call.
    async fn predict(&self, call: Call, inputs: Vec<Tensor>) -> Result<Prediction>;

    /// Has a language model answer. The call keeps its place until the pieces have come or are dropped.
    async fn generate(&self, call: Call, request: Generate) -> Result<Pieces>;
    /// Embeds texts.
    async fn embed(&self, call: Call, texts: Vec<Prompt>) -> Result<Embedded>;
    /// The tokens of a prompt.
    async fn tokenize(&self, call: Call, prompt: Prompt) -> Result<Vec<Token>>;
    /// The bytes of tokens, names of special tokens among them.
    async fn detokenize(&self, call: Call, tokens: Vec<Token>) -> Result<Vec<u8>>;

    /// What serving counts.
    fn metrics(&self) -> &Metrics;
    /// What was used since the server started, by what for.
    fn totals(&self) -> Vec<Total>;
    /// What was used, summed.
    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageLine>>;
    /// Removes what nothing refers to.
    async fn collect_garbage(&self) -> Result<Collected>;
}
