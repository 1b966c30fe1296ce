use std::{net::SocketAddr, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    query_parameters::{
        InspectContainerOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        StatsOptionsBuilder, StopContainerOptionsBuilder, WaitContainerOptions,
    },
};
use futures::{Stream, StreamExt};
use tokio::{sync::watch, task::AbortHandle};

use super::{PORT, is_gone, unavailable};
use crate::{Error, Result};

/// How long a container may take to end in order, in seconds.
const STOPS_WITHIN_SECONDS: i32 = 10;
/// How long the engine may take to say what a container uses.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// The lines of a container's log that tell why it ended.
const LAST_LINES: &str = "5";

/// A container that serves. It is stopped and removed when this is dropped.
pub struct Container {
    engine: Docker,
    name: String,
    address: SocketAddr,
    ended: watch::Receiver<bool>,
    watch: AbortHandle,
}

/// What a container has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Memory that it takes now.
    pub memory_bytes: u64,
    /// Processor time since it was started.
    pub cpu_seconds: f64,
}

impl Container {
    /// Starts one that was made.
    pub(super) async fn start(engine: Docker, name: String) -> Result<Container> {
        let (tell, ended) = watch::channel(false);
        // From here on it goes with this.
        let mut container = Container {
            engine: engine.clone(),
            name: name.clone(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ended,
            watch: tokio::spawn(async {}).abort_handle(),
        };
        let started = engine.start_container(&name, None::<StartContainerOptions>).await;
        started.map_err(|error| unavailable("does not start a container", &error))?;
        let watched = (engine.clone(), name.clone());
        container.watch = tokio::spawn(async move {
            let (engine, name) = watched;
            until_ended(&engine, &name).await;
            tell.send_replace(true);
        })
        .abort_handle();
        let inspected = engine.inspect_container(&name, None::<InspectContainerOptions>).await;
        let inspected = inspected.map_err(|error| unavailable("does not know a container that it started", &error))?;
        let ports = inspected.network_settings.and_then(|network| network.ports).unwrap_or_default();
        let binding = ports.get(PORT).and_then(|bindings| bindings.as_ref()?.first()?.host_port.clone());
        let Some(port) = binding.and_then(|port| port.parse().ok()) else {
            let said = container.last_lines().await;
            return Err(Error::Unavailable(format!("the Docker Engine gave container {name} no port: {said}")));
        };
        container.address.set_port(port);
        Ok(container)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it answers, once it does.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // Whoever would tell is gone only with this.
        if ended.wait_for(|ended| *ended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What it has used; nothing, where the engine does not say.
    pub async fn used(&self) -> Used {
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let mut stats = self.engine.stats(&self.name, Some(options));
        let Ok(Some(Ok(stats))) = tokio::time::timeout(TOLD_WITHIN, stats.next()).await else { return Used::default() };
        let memory = stats.memory_stats.unwrap_or_default();
        // Files that it has read stay in memory as long as nobody needs the room.
        let kinds = memory.stats.unwrap_or_default();
        let files = ["inactive_file", "total_inactive_file"].into_iter().find_map(|kind| kinds.get(kind)).copied();
        let usage = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage).unwrap_or(0);
        Used {
            memory_bytes: memory.usage.unwrap_or(0).saturating_sub(files.unwrap_or(0)),
            cpu_seconds: usage as f64 / 1e9,
        }
    }

    /// What it says, line by line, from its start until it is gone.
    pub fn lines(&self) -> impl Stream<Item = String> + Send + use<> {
        let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
        self.engine.logs(&self.name, Some(options)).filter_map(|line| async move { line.ok().map(text) })
    }

    /// The last that it said, for whoever has to be told why it ended.
    pub async fn last_lines(&self) -> String {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(LAST_LINES).build();
        let lines: Vec<String> = self
            .engine
            .logs(&self.name, Some(options))
            .filter_map(|line| async { line.ok().map(text) })
            .collect()
            .await;
        match lines.is_empty() {
            true => "it said nothing".into(),
            false => lines.join(" / "),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.watch.abort();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (engine, name) = (self.engine.clone(), self.name.clone());
        runtime.spawn(async move {
            let options = StopContainerOptionsBuilder::default().t(STOPS_WITHIN_SECONDS).build();
            // One that cannot be stopped is removed all the same.
            let _ = engine.stop_container(&name, Some(options)).await;
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            if let Err(error) = engine.remove_container(&name, Some(options)).await
                && !is_gone(&error)
            {
                tracing::warn!(%error, container = name, "a container is left");
            }
        });
    }
}

/// Waits until a container does not run any more.
async fn until_ended(engine: &Docker, name: &str) {
    loop {
        let mut ended = engine.wait_container(name, None::<WaitContainerOptions>);
        match ended.next().await {
            // The code of one that failed comes as an error of this library's.
            Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => return,
            Some(Err(error)) if is_gone(&error) => return,
            // The engine did not answer, which says nothing of the container.
            Some(Err(_)) | None => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

fn text(output: LogOutput) -> String {
    String::from_utf8_lossy(&output.into_bytes()).trim_end().to_owned()
}
