mod fetch;
mod log;
mod models;

use std::{env, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use wattle_api::{
    Local, Service, Traces,
    http::{self, Edge, Tls},
    local::Parts,
    worker::{self, Containers, Workers},
};
use wattle_deploy::{docker::Docker, process::Processes};
use wattle_meter::Meter;
use wattle_serve::{Launcher, Launchers, Server};
use wattle_store::Store;
use wattle_train::jobs::{Jobs, JobsOptions};

use crate::{
    config::{Sources, home_folder},
    flags::ServeFlags,
    output::print_line,
};

/// How long the databases may take to close, and containers before them.
const CLOSING: Duration = Duration::from_secs(10);
/// Files that a server has open besides its connections.
const OTHER_FILES: u64 = 512;
/// Training jobs that may wait.
const MAX_WAITING_JOBS: usize = 100;

/// Runs a server; `ca_file` are the authorities that a worker trusts where it fetches models.
pub(crate) async fn run(flags: &ServeFlags, ca_file: Option<&Path>) -> Result<ExitCode> {
    let loaded = Sources::new(flags).load();
    let config = loaded.resolve()?;
    let program = env::current_exe().context("cannot tell where this program is")?;
    let logs = log::start(&config)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let tls = match config.tls {
        Some(files) => Some(Tls::open(files).await?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    allow_open_files(config.connections.max_connections as u64 + OTHER_FILES);
    let edge = Edge { hosts: config.hosts, tls, limits: config.connections, grace: config.grace };
    // From here on a signal waits until the server can end in order, also while it still starts.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: choose another address with --listen, or stop what has it", config.listen)
    })?;
    let address = listener.local_addr()?;
    let store = Store::open(&config.data_dir).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let models = match &config.worker {
        // A signal ends a fetch that takes long.
        Some(worker) => tokio::select! {
            models = models::deploy(worker, ca_file, &store) => models?,
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        },
        None => Vec::new(),
    };
    let meter = Meter::start(&config.data_dir.join("ledger.sqlite"), config.sensor).await?;
    let jobs_options =
        JobsOptions { program: program.clone(), max_running: config.max_training, max_waiting: MAX_WAITING_JOBS };
    let jobs = Jobs::start(store.clone(), meter.clone(), jobs_options).await?;
    // The folder is this server's since the store is.
    let processes = Processes::new(program.clone(), &["worker", "serve"], &config.data_dir.join("run"))?;
    let is_fixed = config.worker.is_some();
    // A worker is in a container, and starts none.
    let containers = (!is_fixed).then(|| {
        let cache = home_folder("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("wattle/image-layers"));
        let docker = Docker::new(&config.data_dir);
        Arc::new(Containers::new(docker, store.clone(), program.clone(), cache, Arc::clone(&logs)))
    });
    let launchers = Launchers {
        processes: Some(Arc::new(Workers::new(processes, Arc::clone(&logs)))),
        containers: containers.clone().map(|containers| containers as Arc<dyn Launcher>),
    };
    let server = Server::start(store.clone(), meter.clone(), config.serving, launchers).await?;
    // A signal ends a load that takes long.
    tokio::select! {
        loaded = models::load(&models, &server) => loaded?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    }
    let speech = worker::routes(&server, &models);
    let service = Local::new(Parts { store: store.clone(), meter, jobs, server, logs, program, is_fixed });
    let traces = config.traces.map(|(endpoint, name)| Traces::start(&endpoint, name.as_deref()));
    let traces = traces.transpose()?.map(Arc::new);
    let router = http::router(Arc::clone(&service) as Arc<dyn Service>, config.limits, traces.clone()).merge(speech);

    if !address.ip().is_loopback() && !is_fixed {
        tracing::warn!(%address, "anyone who reaches this address can use and change this server: there are no keys");
    }
    let about = match &config.worker {
        Some(worker) => format!("serves the models of {}", worker.models_dir.display()),
        None => format!("keeps its data in {}", config.data_dir.display()),
    };
    print_line(&format!("wattle {} listens on {scheme}://{address} and {about}", env!("CARGO_PKG_VERSION")))?;

    let closing = Arc::clone(&service);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down: calls under way are answered first");
        closing.close();
        closing.interrupt_jobs().await;
    };
    http::serve(listener, router, edge, shutdown).await;
    if let Some(containers) = containers
        && tokio::time::timeout(CLOSING, containers.close()).await.is_err()
    {
        tracing::warn!("the Docker Engine did not remove all containers in time: the next start does");
    }
    // What still holds a connection has had its grace; both databases are safe without an orderly end.
    let ended = tokio::time::timeout(CLOSING, async {
        service.shutdown().await?;
        store.close().await;
        anyhow::Ok(())
    });
    match ended.await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!("the databases were not closed in time"),
    }
    if let Some(traces) = traces {
        traces.shutdown().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Raises the number of files that this process may have open, which is often too low for that many connections.
fn allow_open_files(wanted: u64) {
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let allowed = limits.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), ..limits });
    if raised.is_err() || allowed < wanted {
        tracing::warn!(
            wanted,
            allowed,
            "this process may open too few files for --max-connections: raise the limit (ulimit -n), or lower the flag"
        );
    }
}
