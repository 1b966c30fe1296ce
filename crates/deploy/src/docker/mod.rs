//! Containers of a Docker Engine that serve one model each: replicas that a crash, or too much memory, of one costs nothing
//! of the others.
//!
//! What a server starts bears its mark, so that it finds and removes what it left when it was killed.

mod container;

use std::{collections::HashMap, path::Path, sync::Arc};

use bollard::{
    errors::Error as BollardError,
    models::{
        ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, PortBinding, RestartPolicy,
        RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, ImportImageOptionsBuilder, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder,
    },
};
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, RwLock};
use tokio_util::io::{ReaderStream, SyncIoBridge};

pub use container::{Container, Used};

use crate::{
    Error, Result,
    image::{Image, ImageReference},
};

/// The label that says whose a container is.
const SERVER: &str = "serving.wattle.server";
/// The label that says which deployment a container serves.
const DEPLOYMENT: &str = "serving.wattle.deployment";
/// The port that an image answers on, as an engine writes it.
const PORT: &str = "8080/tcp";
/// How much of an image is on its way to the engine at once, in bytes.
const SENT_AHEAD_BYTES: usize = 1 << 20;

/// A Docker Engine, and what one server has there.
pub struct Docker {
    server: String,
    engine: OnceCell<bollard::Docker>,
    /// Whether containers may still be started; held while one is.
    is_open: RwLock<bool>,
}

/// What a container is started for.
#[derive(Debug, Clone)]
pub struct ContainerOrder {
    /// What [`Docker::put`] gave back.
    pub image: String,
    /// What begins its name, and what it serves.
    pub deployment: String,
    /// Its environment.
    pub environment: Vec<(&'static str, String)>,
    /// The most memory that it may take.
    pub memory_bytes: Option<u64>,
    /// The most processors that it may use.
    pub processors: Option<f64>,
}

impl Docker {
    /// The engine that `DOCKER_HOST` names, or else this machine's; it is called when it is needed. Of servers with the
    /// same folder of data there is one at a time, so that this tells one from another.
    pub fn new(data_dir: &Path) -> Docker {
        let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
        let folder = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let hash = Sha256::new().chain_update(machine).chain_update(folder.as_os_str().as_encoded_bytes()).finalize();
        Docker {
            server: hash[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
            engine: OnceCell::new(),
            is_open: RwLock::new(true),
        }
    }

    /// Has the engine have an image, which is sent if it does not; what the engine calls it.
    ///
    /// # Errors
    /// If the engine cannot be called, or does not take the image.
    pub async fn put(&self, image: Arc<Image>, reference: &ImageReference) -> Result<String> {
        let engine = self.engine().await?;
        // An engine knows an image by its configuration, or, with containerd's store of images, by its manifest.
        for digest in [image.config.digest, image.manifest.digest] {
            if let Ok(present) = engine.inspect_image(&digest.to_string()).await {
                return Ok(present.id.unwrap_or_else(|| digest.to_string()));
            }
        }
        let name = reference.to_string();
        tracing::info!(image = name, bytes = image.bytes(), "sending an image to the Docker Engine");
        let (writer, reader) = tokio::io::duplex(SENT_AHEAD_BYTES);
        let reference = reference.clone();
        let packing = tokio::task::spawn_blocking(move || image.pack(SyncIoBridge::new(writer), &reference));
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let mut told = engine.import_image_stream(options, ReaderStream::new(reader), None);
        while let Some(line) = told.next().await {
            line.map_err(|error| unavailable("does not take an image", &error))?;
        }
        drop(told);
        packing.await.map_err(|error| Error::Unavailable(error.to_string()))??;
        let present = engine.inspect_image(&name).await;
        let present = present.map_err(|error| unavailable("does not have an image that it was sent", &error))?;
        Ok(present.id.unwrap_or(name))
    }

    /// Starts a container, as strictly as an engine can: no rights, a root that is not written, no way to more rights.
    ///
    /// # Errors
    /// If the engine cannot be called, or does not start it.
    pub async fn start(&self, order: ContainerOrder) -> Result<Container> {
        let is_open = self.is_open.read().await;
        if !*is_open {
            return Err(Error::Unavailable("the server is shutting down".into()));
        }
        let engine = self.engine().await?;
        let ContainerOrder { image, deployment, environment, memory_bytes, processors } = order;
        let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(String::new()) };
        let bytes = memory_bytes.and_then(|bytes| i64::try_from(bytes).ok());
        let log = [("max-size", "10m"), ("max-file", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let host = HostConfig {
            port_bindings: Some(HashMap::from([(PORT.to_owned(), Some(vec![binding]))])),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            memory: bytes,
            // To swap would only make it slow.
            memory_swap: bytes,
            nano_cpus: processors.map(|processors| (processors * 1e9) as i64),
            log_config: Some(HostConfigLogConfig { typ: Some("json-file".into()), config: Some(HashMap::from(log)) }),
            // It is this server that starts another one.
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ..HostConfig::default()
        };
        let labels = [(SERVER, self.server.clone()), (DEPLOYMENT, deployment.clone())];
        let body = ContainerCreateBody {
            image: Some(image),
            env: Some(environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
            // It is asked by this server, oftener than an engine would.
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let name = format!("wattle-{deployment}-{:08x}", fastrand::u32(..));
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        engine
            .create_container(Some(options), body)
            .await
            .map_err(|error| unavailable("does not make a container", &error))?;
        let started = Container::start(engine.clone(), name).await;
        drop(is_open);
        started
    }

    /// Removes every container that this server has there, and starts no more: what is removed would be replaced.
    pub async fn close(&self) {
        *self.is_open.write().await = false;
        if let Some(engine) = self.engine.get() {
            self.remove_all(engine).await;
        }
    }

    async fn remove_all(&self, engine: &bollard::Docker) {
        let filters = HashMap::from([("label", vec![format!("{SERVER}={}", self.server)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let found = match engine.list_containers(Some(options)).await {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "the Docker Engine does not say which containers it has"),
        };
        let remove = |id: String| async move {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            if let Err(error) = engine.remove_container(&id, Some(options)).await
                && !is_gone(&error)
            {
                tracing::warn!(%error, container = id, "a container is left");
            }
        };
        futures::future::join_all(found.into_iter().filter_map(|container| container.id).map(remove)).await;
    }

    async fn engine(&self) -> Result<&bollard::Docker> {
        let connect = || async {
            let engine = bollard::Docker::connect_with_defaults()?.negotiate_version().await?;
            // What is there already, this server left in an earlier life.
            self.remove_all(&engine).await;
            Ok::<_, BollardError>(engine)
        };
        self.engine.get_or_try_init(connect).await.map_err(|error| {
            Error::Unavailable(format!(
                "no Docker Engine answers ({error}): start Docker, or name one by DOCKER_HOST in the server's environment"
            ))
        })
    }
}

/// Whether a container is not there any more, or is just being removed.
fn is_gone(error: &BollardError) -> bool {
    matches!(error, BollardError::DockerResponseServerError { status_code: 404 | 409, .. })
}

fn unavailable(what: &str, error: &BollardError) -> Error {
    let said = match error {
        BollardError::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        other => other.to_string(),
    };
    Error::Unavailable(format!("the Docker Engine {what}: {said}"))
}
