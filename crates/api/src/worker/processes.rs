//! Instances in processes of this binary.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use wattle_core::Name;
use wattle_deploy::process::{Limits, Processes};
use wattle_serve::{
    Error, Launcher, Logs, Result, Worker, WorkerOrder,
    speaker::{Speaker, SpeakerOrder},
};

use super::{
    Answer, Loaded, Order, Task,
    line::{Host, Line},
    remote::RemoteWorker,
    speaker::RemoteSpeaker,
};

/// Starts processes that serve a model each.
pub struct Workers {
    processes: Processes,
    logs: Arc<Logs>,
}

#[async_trait]
impl Launcher for Workers {
    async fn launch(&self, order: WorkerOrder) -> Result<Arc<dyn Worker>> {
        let WorkerOrder { deployment, model, threads, memory_limit_bytes, cpu_limit, .. } = order;
        let limits = Limits { memory_bytes: memory_limit_bytes, processors: cpu_limit };
        let task = Task::Tensors { threads: threads.unwrap_or(1) };
        let (line, loaded) = self.start(&deployment, limits, model, task).await?;
        Ok(Arc::new(RemoteWorker::new(line, None, loaded)))
    }

    async fn launch_speaker(&self, order: SpeakerOrder) -> Result<Arc<dyn Speaker>> {
        let SpeakerOrder { deployment, model, settings, memory_limit_bytes, cpu_limit, .. } = order;
        let limits = Limits { memory_bytes: memory_limit_bytes, processors: cpu_limit };
        let (line, loaded) = self.start(&deployment, limits, model, Task::Language(settings)).await?;
        Ok(Arc::new(RemoteSpeaker::new(line, loaded)))
    }
}

impl Workers {
    /// What they say goes into the logs of their deployments, and where the server's own goes.
    pub fn new(processes: Processes, logs: Arc<Logs>) -> Workers {
        Workers { processes, logs }
    }

    /// Starts a process and waits until it has its model.
    async fn start(&self, deployment: &Name, limits: Limits, model: PathBuf, task: Task) -> Result<(Line, Loaded)> {
        let told = |reason: String| Error::Load { deployment: deployment.to_string(), reason };
        let order = |socket: &Path| Order { socket: socket.to_owned(), model, task };
        let (logs, name) = (Arc::clone(&self.logs), deployment.clone());
        let said = move |line: &str| logs.add(&name, "process", line);
        let (process, answer) =
            self.processes.start(limits, order, said).await.map_err(|error| told(error.to_string()))?;
        match answer {
            Answer::Ready(loaded) => {
                let line = Line::open(deployment.clone(), Host::Process(process), String::new()).await.map_err(told)?;
                Ok((line, loaded))
            }
            Answer::Failed { reason } => Err(told(reason)),
        }
    }
}
