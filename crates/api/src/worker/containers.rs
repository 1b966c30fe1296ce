//! Instances in containers: the image is made of the store's model and of this program, and sent to the engine when that
//! does not have it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::Mutex;
use wattle_core::{ModelVersionId, Name};
use wattle_deploy::{
    docker::{Container, ContainerOrder, Docker, Used},
    image::{Image, ImageReference, Model, Runtime},
};
use wattle_serve::{
    Error, Launcher, Logs, Result, Worker, WorkerOrder,
    speaker::{Speaker, SpeakerOrder},
};
use wattle_store::Store;

use super::{
    Loaded,
    line::{Host, Line},
    remote::RemoteWorker,
    speaker::RemoteSpeaker,
    speech,
};

/// How long a container may take until it is ready: as long as the largest models load.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// How often it is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A body that an instance takes: what this server took, which may be many calls' at once.
const MAX_BODY_BYTES: u64 = 1 << 32;
/// Calls that an instance takes at once: this server bounds them.
const MOST_CALLS: u32 = 100_000;

/// Starts containers that serve a model each.
pub struct Containers {
    docker: Docker,
    store: Store,
    program: PathBuf,
    /// Where the layer of the program is kept.
    cache: Option<PathBuf>,
    /// What the engine calls the images of versions; one is made at a time.
    images: Mutex<HashMap<ModelVersionId, String>>,
    logs: Arc<Logs>,
}

/// What a container is started for.
struct Order {
    deployment: Name,
    id: ModelVersionId,
    environment: Vec<(&'static str, String)>,
    memory_limit_bytes: Option<u64>,
    cpu_limit: Option<f64>,
}

impl Containers {
    /// Starts containers of this program with models of this store; what they say goes into the logs of their deployments.
    pub fn new(docker: Docker, store: Store, program: PathBuf, cache: Option<PathBuf>, logs: Arc<Logs>) -> Containers {
        Containers { docker, store, program, cache, images: Mutex::default(), logs }
    }

    /// Ends all containers of this server.
    pub async fn close(&self) {
        self.docker.close().await;
    }

    /// Starts a container and waits until it has its model.
    async fn start(&self, order: Order) -> Result<(Line, Loaded)> {
        let deployment = order.deployment.clone();
        let told = |reason: String| Error::Load { deployment: deployment.to_string(), reason };
        let image = self.image(&order.id).await.map_err(|error| told(error.to_string()))?;
        let mut environment = order.environment;
        environment.extend([
            ("WATTLE_LIMITS_MAX_BODY_BYTES", MAX_BODY_BYTES.to_string()),
            ("WATTLE_LIMITS_MAX_HTTP2_STREAMS", MOST_CALLS.to_string()),
        ]);
        let container = ContainerOrder {
            image,
            deployment: order.deployment.to_string(),
            environment,
            memory_bytes: order.memory_limit_bytes,
            processors: order.cpu_limit,
        };
        let container = self.docker.start(container).await.map_err(|error| told(error.to_string()))?;
        self.keep_log(&deployment, &container);
        let used = ready(&container).await.map_err(told)?;
        let loaded = Loaded { resident_bytes: used.memory_bytes, cpu_seconds: used.cpu_seconds };
        let prefix = speech::prefix(&order.id.model);
        let line = Line::open(order.deployment, Host::Container(container), prefix).await.map_err(told)?;
        Ok((line, loaded))
    }

    /// Keeps what a container says until it is gone.
    fn keep_log(&self, deployment: &Name, container: &Container) {
        let (logs, deployment, name) = (Arc::clone(&self.logs), deployment.clone(), container.name().to_owned());
        let lines = container.lines();
        tokio::spawn(async move {
            let mut lines = std::pin::pin!(lines);
            while let Some(line) = lines.next().await {
                logs.add(&deployment, &name, &line);
            }
        });
    }

    /// What the engine calls the image of a version, which it has then.
    async fn image(&self, id: &ModelVersionId) -> wattle_deploy::Result<String> {
        let mut images = self.images.lock().await;
        if let Some(image) = images.get(id) {
            return Ok(image.clone());
        }
        let version = self.store.version(id).await?;
        let file = self.store.blobs().local_path(version.manifest.digest).await?;
        let models = vec![Model { version, file }];
        let reference = ImageReference::of(&models);
        let work = tempfile::tempdir()?;
        let (program, cache, folder) = (self.program.clone(), self.cache.clone(), work.path().to_owned());
        let build = move || {
            let library = wattle_engine::onnx::library_path()
                .map_err(|error| wattle_deploy::Error::Unavailable(error.to_string()))?;
            Image::build(&Runtime::of(&program, &library)?, &models, &folder, cache.as_deref())
        };
        let built = tokio::task::spawn_blocking(build).await;
        let built = built.map_err(|error| wattle_deploy::Error::Unavailable(error.to_string()))??;
        let image = self.docker.put(Arc::new(built), &reference).await?;
        drop(work);
        images.insert(id.clone(), image.clone());
        Ok(image)
    }
}

#[async_trait]
impl Launcher for Containers {
    async fn launch(&self, order: WorkerOrder) -> Result<Arc<dyn Worker>> {
        let model = order.id.model.clone();
        let WorkerOrder { deployment, id, threads, max_batch_rows, memory_limit_bytes, cpu_limit, .. } = order;
        let mut environment = vec![("WATTLE_DEPLOYMENTS_MAX_BATCH_SIZE", max_batch_rows.to_string())];
        environment.extend(threads.map(|threads| ("WATTLE_DEPLOYMENTS_THREADS", threads.to_string())));
        let order = Order { deployment, id, environment, memory_limit_bytes, cpu_limit };
        let (line, loaded) = self.start(order).await?;
        Ok(Arc::new(RemoteWorker::new(line, Some(model), loaded)))
    }

    async fn launch_speaker(&self, order: SpeakerOrder) -> Result<Arc<dyn Speaker>> {
        let SpeakerOrder { deployment, id, settings, memory_limit_bytes, cpu_limit, .. } = order;
        // More threads than processors wait for each other.
        let threads = cpu_limit.map_or(settings.threads, |limit| settings.threads.min(limit.ceil().max(1.0) as u32));
        let mut environment = vec![
            ("WATTLE_DEPLOYMENTS_THREADS", threads.to_string()),
            ("WATTLE_DEPLOYMENTS_KV_CELLS", settings.cells.to_string()),
            ("WATTLE_DEPLOYMENTS_MAX_INTER_TOKEN_MS", (settings.max_inter_token.as_secs_f64() * 1000.0).to_string()),
            ("WATTLE_LIMITS_MAX_WAITING_GENERATIONS", settings.max_waiting.to_string()),
            ("WATTLE_LIMITS_MAX_CALLS_PER_TENANT", settings.max_tenant_requests.to_string()),
        ];
        let context = settings.context_tokens;
        environment.extend(context.map(|tokens| ("WATTLE_DEPLOYMENTS_CONTEXT_TOKENS", tokens.to_string())));
        let order = Order { deployment, id, environment, memory_limit_bytes, cpu_limit };
        let (line, loaded) = self.start(order).await?;
        Ok(Arc::new(RemoteSpeaker::new(line, loaded)))
    }
}

/// Waits until a container answers, and says what it has used until then.
async fn ready(container: &Container) -> std::result::Result<Used, String> {
    let until = Instant::now() + READY_WITHIN;
    while !super::line::is_ready_at(container.address()).await {
        if !container.is_alive() {
            return Err(format!("its container ended before it was ready: {}", container.last_lines().await));
        }
        if Instant::now() >= until {
            let within = READY_WITHIN.as_secs();
            return Err(format!("its container was not ready after {within} s: {}", container.last_lines().await));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = container.ended() => {}
        }
    }
    Ok(container.used().await)
}
