//! The service over this machine's own store, jobs, replicas and meter.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use uuid::Uuid;
use wattle_core::{Digest, ModelReference, ModelVersionId, Name};
use wattle_deploy::{DeploymentRequest, Deployments};
use wattle_engine::{Tensor, tokens::Token};
use wattle_meter::{Meter, Total, UsageLine, UsageQuery};
use wattle_serve::{
    Call, Context, FailedCanary, Logs, Pipeline, Prediction, Prepared, Replica, ReplicaStatus, Server,
    language::{Embedded, Generate, Pieces, Prompt},
    metrics::Metrics,
};
use wattle_store::{
    AliasChange, Collected, Dataset, Deployment, DeploymentHistory, Job, Manifest, Model, ModelVersion, NewDataset,
    Revision, Store, table,
};
use wattle_train::{jobs::Jobs, spec::TrainingSpec};

use crate::{
    ApiError, Code, Result, Service,
    import::{Inspection, Usable, inspect_in_child},
    request,
    service::{AddDataset, AddedDataset, ImportFiles, OnConflict, ServerInfo, Staged, Upload},
};

/// How many conversions of data sets and inspections of models run at once; the others wait.
const CONCURRENT_IMPORTS: usize = 2;
/// How many uploads may be coming in or waiting to be imported; each takes room on the disk.
const MAX_UPLOADS: usize = 32;
/// An upload that sends nothing for so long is given up.
const UPLOAD_SILENCE: Duration = Duration::from_secs(60);
/// The largest pipeline; it is text that a person wrote.
const MAX_PIPELINE_BYTES: u64 = 1 << 20;
/// How soon it is tried again to roll back a canary, when the catalogue could not be written.
const ROLL_BACK_AGAIN: Duration = Duration::from_secs(5);
/// The most jobs that a listing shows.
const JOBS_LISTED: u32 = 200;

/// The parts that a [`Local`] joins.
pub struct Parts {
    /// Bytes and catalogue.
    pub store: Store,
    /// Energy and ledger.
    pub meter: Meter,
    /// Training jobs.
    pub jobs: Jobs,
    /// Replicas.
    pub server: Server,
    /// What was said of deployments.
    pub logs: Arc<Logs>,
    /// The binary that runs `worker inspect`.
    pub program: PathBuf,
    /// Whether what is served is decided for good: a worker changes nothing.
    pub is_fixed: bool,
}

/// Wattle in one process.
pub struct Local {
    store: Store,
    meter: Meter,
    jobs: Jobs,
    server: Server,
    logs: Arc<Logs>,
    deployments: Deployments,
    program: PathBuf,
    is_fixed: bool,
    imports: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    ready: watch::Sender<bool>,
    _canaries: AbortOnDropHandle<()>,
}

impl Local {
    /// Joins the parts.
    pub fn new(parts: Parts) -> Arc<Local> {
        let deployments = Deployments::new(parts.store.clone());
        let canaries = roll_back_failed_canaries(parts.server.clone(), deployments.clone());
        Arc::new(Local {
            _canaries: AbortOnDropHandle::new(tokio::spawn(canaries)),
            deployments,
            store: parts.store,
            meter: parts.meter,
            jobs: parts.jobs,
            server: parts.server,
            logs: parts.logs,
            program: parts.program,
            is_fixed: parts.is_fixed,
            imports: Arc::new(Semaphore::new(CONCURRENT_IMPORTS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            ready: watch::Sender::new(true),
        })
    }

    /// Refuses new work: readiness turns false, calls that have begun are answered.
    pub fn close(&self) {
        self.ready.send_replace(false);
        self.server.close();
    }

    /// Ends the jobs that run or wait, as interrupted; whoever watches one is told.
    pub async fn interrupt_jobs(&self) {
        self.jobs.shutdown().await;
    }

    /// Writes the ledger's last lines. After the last call.
    pub async fn shutdown(&self) -> Result<()> {
        Ok(self.meter.shutdown().await?)
    }

    async fn import_pipeline(&self, name: Name, file: Staged) -> Result<ModelVersion> {
        let bytes = tokio::fs::metadata(file.path()).await?.len();
        if bytes > MAX_PIPELINE_BYTES {
            let message = format!("a pipeline of {bytes} bytes, and {MAX_PIPELINE_BYTES} is the most");
            return Err(ApiError::new(Code::TooLarge, message));
        }
        let text = String::from_utf8(tokio::fs::read(file.path()).await?)
            .map_err(|_| ApiError::invalid("not a usable pipeline: it is not UTF-8"))?;
        let signature = self.server.pipeline_signature(&Pipeline::from_toml(&text)?)?;
        Ok(self
            .store
            .commit_version(
                &name,
                file.path(),
                imported(Pipeline::FORMAT, Usable { signature, language: None, resident_bytes: None }),
            )
            .await?)
    }

    /// Refuses a change where what is served is decided for good.
    fn may_change(&self) -> Result<()> {
        match self.is_fixed {
            true => Err(ApiError::new(
                Code::Forbidden,
                "this server is a worker, which serves what it was started with: ask the server that deployed it",
            )),
            false => Ok(()),
        }
    }

    async fn import_place(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.imports).acquire_owned().await.map_err(ApiError::internal)
    }
}

#[async_trait]
impl Service for Local {
    fn info(&self) -> ServerInfo {
        ServerInfo {
            name: "wattle".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            sensor: self.meter.sensor_description(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    async fn stage(&self, mut upload: Upload, max_bytes: u64) -> Result<Staged> {
        self.may_change()?;
        let place = Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| ApiError {
            code: Code::Unavailable,
            message: format!("{MAX_UPLOADS} uploads are under way already: try again in 10 s"),
            retry_after_seconds: Some(10),
        })?;
        let too_large = || {
            let advice = "start the server with a higher --max-upload-bytes";
            ApiError::new(Code::TooLarge, format!("the upload is larger than {max_bytes} bytes: {advice}"))
        };
        let staged = self.store.staging().file("")?;
        let mut file = tokio::fs::File::from_std(staged.create()?);
        let mut bytes: u64 = 0;
        loop {
            let piece = tokio::time::timeout(UPLOAD_SILENCE, upload.next()).await.map_err(|_| {
                ApiError::new(
                    Code::Timeout,
                    format!("the upload was silent for {} s: send it again", UPLOAD_SILENCE.as_secs()),
                )
            })?;
            let Some(piece) = piece.transpose()? else { break };
            bytes += piece.len() as u64;
            if bytes > max_bytes {
                return Err(too_large());
            }
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        Ok(Staged { file: staged, _place: place })
    }

    async fn add_dataset(&self, name: Name, file: Staged, options: AddDataset) -> Result<AddedDataset> {
        let place = self.import_place().await?;
        let normal = self.store.staging().file(".parquet")?;
        let (overrides, reading) = (options.overrides.clone(), options.overrides);
        // The closure owns the place and both files, so a caller that leaves does not take them away under it.
        let (normal, normalised) = tokio::task::spawn_blocking(move || {
            let _place = place;
            let result = table::normalise(file.path(), normal.path(), &overrides, &mut |_| {});
            (normal, result)
        })
        .await
        .map_err(ApiError::internal)?;
        let normalised = normalised?;
        let mut new = NewDataset {
            name,
            schema: normalised.schema,
            rows: normalised.rows,
            source: options.source,
            reading,
            replace: options.conflict == OnConflict::Replace,
        };
        let dataset = match self.store.put_dataset(new.clone(), normal.path()).await {
            Err(wattle_store::Error::Conflict(_)) if options.conflict == OnConflict::Rename => {
                let (digest, _) = wattle_store::digest_file(normal.path()).await?;
                new.name = renamed(&new.name, &digest.short())?;
                self.store.put_dataset(new, normal.path()).await?
            }
            result => result?,
        };
        Ok(AddedDataset { dataset, warnings: normalised.warnings })
    }

    async fn datasets(&self) -> Result<Vec<Dataset>> {
        Ok(self.store.datasets().await?)
    }

    async fn dataset(&self, name: Name) -> Result<Dataset> {
        Ok(self.store.dataset(&name).await?)
    }

    async fn remove_dataset(&self, name: Name) -> Result<()> {
        self.may_change()?;
        Ok(self.store.remove_dataset(&name).await?)
    }

    async fn create_job(&self, spec: TrainingSpec) -> Result<Job> {
        self.may_change()?;
        if !self.is_ready() {
            return Err(ApiError::new(Code::Unavailable, "the server is shutting down: try again when it is back"));
        }
        Ok(self.jobs.submit(spec).await?)
    }

    async fn jobs(&self) -> Result<Vec<Job>> {
        Ok(self.store.jobs(JOBS_LISTED).await?)
    }

    async fn job(&self, id: Uuid) -> Result<Job> {
        Ok(self.jobs.job(id).await?)
    }

    async fn cancel_job(&self, id: Uuid) -> Result<Job> {
        self.may_change()?;
        Ok(self.jobs.cancel(id).await?)
    }

    async fn watch_job(&self, id: Uuid) -> Result<watch::Receiver<Job>> {
        Ok(self.jobs.watch(id).await?)
    }

    async fn import_model(&self, name: Name, files: ImportFiles) -> Result<ModelVersion> {
        let _place = self.import_place().await?;
        // The files of a linear model are kept until its ONNX file is made.
        let (model, _files, inspection) = match files {
            ImportFiles::Pipeline(file) => return self.import_pipeline(name, file).await,
            ImportFiles::Model(file) => {
                let inspection = Inspection::Model { model: file.path().to_owned() };
                (file, None, inspection)
            }
            ImportFiles::Linear { coef, intercept } => {
                let made = self.store.staging().file(".onnx")?;
                let inspection = Inspection::Linear {
                    coef: coef.path().to_owned(),
                    intercept: intercept.as_ref().map(|file| file.path().to_owned()),
                    model: made.path().to_owned(),
                };
                let Staged { file: coef, _place } = coef;
                (Staged { file: made, _place }, Some((coef, intercept)), inspection)
            }
        };
        let usable = inspect_in_child(&self.program, &inspection).await?;
        let format = if usable.language.is_some() { "gguf" } else { "onnx" };
        let manifest = imported(format, usable);
        Ok(self.store.commit_version(&name, model.path(), manifest).await?)
    }

    async fn models(&self) -> Result<Vec<Model>> {
        Ok(self.store.models().await?)
    }

    async fn model(&self, name: Name) -> Result<Model> {
        Ok(self.store.model(&name).await?)
    }

    async fn resolve(&self, reference: ModelReference) -> Result<ModelVersion> {
        Ok(self.store.resolve(&reference).await?)
    }

    async fn model_file(&self, reference: ModelReference) -> Result<(ModelVersion, PathBuf)> {
        let version = self.store.resolve(&reference).await?;
        let path = self.store.blobs().local_path(version.manifest.digest).await?;
        Ok((version, path))
    }

    async fn remove_model(&self, name: Name, version: Option<u32>) -> Result<()> {
        self.may_change()?;
        match version {
            Some(version) => self.store.remove_version(&ModelVersionId { model: name, version }).await?,
            None => self.store.remove_model(&name).await?,
        }
        Ok(())
    }

    async fn set_alias(&self, model: Name, alias: Name, version: u32) -> Result<Model> {
        self.may_change()?;
        self.store.set_alias(&model, &alias, version).await?;
        self.model(model).await
    }

    async fn remove_alias(&self, model: Name, alias: Name) -> Result<()> {
        self.may_change()?;
        Ok(self.store.remove_alias(&model, &alias).await?)
    }

    async fn alias_history(&self, model: Name) -> Result<Vec<AliasChange>> {
        Ok(self.store.alias_history(&model).await?)
    }

    async fn deploy(&self, request: DeploymentRequest) -> Result<Deployment> {
        self.may_change()?;
        let (deployments, server) = (self.deployments.clone(), self.server.clone());
        see_through(async move {
            let (deployment, _held) = deployments.deploy(request, loaded_by(&server)).await?;
            server.reload().await?;
            Ok(deployment)
        })
        .await
    }

    async fn promote(&self, name: Name) -> Result<Deployment> {
        self.may_change()?;
        let (deployments, server) = (self.deployments.clone(), self.server.clone());
        see_through(async move {
            let (deployment, _held) = deployments.promote(&name, loaded_by(&server)).await?;
            server.reload().await?;
            Ok(deployment)
        })
        .await
    }

    async fn roll_back(&self, name: Name) -> Result<Deployment> {
        self.may_change()?;
        let (deployments, server) = (self.deployments.clone(), self.server.clone());
        see_through(async move {
            let (deployment, _held) = deployments.roll_back(&name, loaded_by(&server)).await?;
            server.reload().await?;
            Ok(deployment)
        })
        .await
    }

    async fn deployment_history(&self, name: Name) -> Result<DeploymentHistory> {
        Ok(self.deployments.history(&name).await?)
    }

    fn logs(&self) -> &Logs {
        &self.logs
    }

    async fn undeploy(&self, name: Name) -> Result<()> {
        self.may_change()?;
        let (deployments, server) = (self.deployments.clone(), self.server.clone());
        see_through(async move {
            deployments.undeploy(&name).await?;
            Ok(server.reload().await?)
        })
        .await
    }

    async fn load(&self, name: Name) -> Result<()> {
        self.may_change()?;
        Ok(self.server.load(&name).await?)
    }

    async fn unload(&self, name: Name) -> Result<()> {
        self.may_change()?;
        self.server.unload(&name)?;
        Ok(())
    }

    async fn deployments(&self) -> Result<Vec<ReplicaStatus>> {
        Ok(self.server.status())
    }

    fn find(&self, deployment: Option<&Name>) -> Result<Arc<Replica>> {
        Ok(self.server.find(deployment)?)
    }

    fn admit(&self, replica: Arc<Replica>, context: Context) -> Result<Call> {
        Ok(self.server.admit(replica, context)?)
    }

    async fn predict(&self, call: Call, inputs: Vec<Tensor>) -> Result<Prediction> {
        Ok(self.server.predict(call, inputs).await?)
    }

    async fn generate(&self, call: Call, request: Generate) -> Result<Pieces> {
        Ok(self.server.generate(call, request).await?)
    }

    async fn embed(&self, call: Call, texts: Vec<Prompt>) -> Result<Embedded> {
        Ok(self.server.embed(call, texts).await?)
    }

    async fn tokenize(&self, call: Call, prompt: Prompt) -> Result<Vec<Token>> {
        Ok(self.server.tokenize(call, prompt).await?)
    }

    async fn detokenize(&self, call: Call, tokens: Vec<Token>) -> Result<Vec<u8>> {
        Ok(self.server.detokenize(call, tokens).await?)
    }

    fn metrics(&self) -> &Metrics {
        self.server.metrics()
    }

    fn totals(&self) -> Vec<Total> {
        self.meter.totals()
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageLine>> {
        Ok(self.meter.usage(query).await?)
    }

    async fn collect_garbage(&self) -> Result<Collected> {
        self.may_change()?;
        self.server.collect_prefixes().await?;
        Ok(self.store.gc().await?)
    }
}

/// The manifest of a version from outside, by its file's digest and size.
fn imported(format: &str, usable: Usable) -> impl FnOnce(Digest, u64) -> Manifest {
    let format = format.to_owned();
    let Usable { signature, language, resident_bytes } = usable;
    move |digest, bytes| Manifest {
        format,
        digest,
        bytes,
        signature,
        language,
        resident_bytes,
        algorithm: None,
        parameters: json!({}),
        data: None,
        metrics: json!({}),
        software: format!("wattle {}", env!("CARGO_PKG_VERSION")),
        training: None,
        parent: None,
        created_at: chrono::Utc::now(),
    }
}

/// Has a revision loaded before it gets calls.
fn loaded_by(
    server: &Server,
) -> impl FnOnce(Name, Revision, bool) -> BoxFuture<'static, Result<Prepared, String>> + Send + use<> {
    let server = server.clone();
    move |name, revision, takes_over| {
        async move { server.prepare(&name, &revision, takes_over).await.map_err(|error| error.to_string()) }.boxed()
    }
}

/// Takes calls from canaries that fail, for as long as the server runs.
async fn roll_back_failed_canaries(server: Server, deployments: Deployments) {
    loop {
        server.canary_failed().await;
        while let Err(error) = roll_back_failed(&server, &deployments).await {
            // The canary gets no calls meanwhile.
            tracing::error!(%error, "a canary that failed is not rolled back");
            tokio::time::sleep(ROLL_BACK_AGAIN).await;
        }
    }
}

async fn roll_back_failed(server: &Server, deployments: &Deployments) -> Result<()> {
    for FailedCanary { deployment, revision, reason } in server.failed_canaries() {
        tracing::warn!(%deployment, revision, reason, "the canary is rolled back");
        match deployments.roll_back_canary(&deployment, revision, reason).await {
            // One that was undeployed meanwhile needs no more.
            Ok(_) | Err(wattle_store::Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(server.reload().await?)
}

/// Does to its end what has several steps, also when the caller leaves in between: its future is dropped then.
async fn see_through<T: Send + 'static>(steps: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(steps.instrument(request::span())).await.map_err(ApiError::internal)?
}

/// A name for other data than what has this one.
fn renamed(name: &Name, suffix: &str) -> Result<Name> {
    let kept = Name::MAX_LENGTH - suffix.len() - 1;
    Ok(format!("{}-{suffix}", name.as_str().chars().take(kept).collect::<String>()).parse()?)
}
