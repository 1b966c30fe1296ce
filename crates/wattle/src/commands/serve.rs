use std::{
    env,
    io::{self, IsTerminal},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;
use wattle_api::{
    Local, Service,
    http::{self, Limits},
    local::Parts,
};
use wattle_meter::{Meter, SensorConfig};
use wattle_serve::{ServeOptions, Server};
use wattle_store::{Settings, Store};
use wattle_train::jobs::{Jobs, JobsOptions};

use crate::{
    flags::{LogFormat, ServeFlags},
    output::print_line,
};

/// Everything that was decided about a server.
struct Config {
    listen: SocketAddr,
    data_dir: PathBuf,
    program: PathBuf,
    serving: ServeOptions,
    max_training: usize,
    limits: Limits,
    sensor: SensorConfig,
    grace: Duration,
}

/// How long the databases may take to close.
const CLOSING: Duration = Duration::from_secs(10);
/// Training jobs that may wait.
const MAX_WAITING_JOBS: usize = 100;

pub(crate) async fn run(flags: ServeFlags) -> Result<ExitCode> {
    start_log(flags.log_format)?;
    let config = resolve(flags)?;
    // From here on a signal waits until the server can end in order, also while it still starts.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: choose another address with --listen, or stop what has it", config.listen)
    })?;
    let address = listener.local_addr()?;
    let store = Store::open(&config.data_dir).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let meter = Meter::start(&config.data_dir.join("ledger.sqlite"), config.sensor).await?;
    let jobs_options = JobsOptions {
        program: config.program.clone(),
        max_running: config.max_training,
        max_waiting: MAX_WAITING_JOBS,
    };
    let jobs = Jobs::start(store.clone(), meter.clone(), jobs_options).await?;
    let server = Server::start(store.clone(), meter.clone(), config.serving, None).await?;
    let service = Local::new(Parts { store: store.clone(), meter, jobs, server, program: config.program });
    let router = http::router(Arc::clone(&service) as Arc<dyn Service>, config.limits);

    if !address.ip().is_loopback() {
        tracing::warn!(%address, "anyone who reaches this address can use and change this server: there are no keys");
    }
    print_line(&format!(
        "wattle {} listens on http://{address} and keeps its data in {}",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display()
    ))?;

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
    http::serve(listener, router, shutdown, config.grace).await?;
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
    Ok(ExitCode::SUCCESS)
}

fn resolve(flags: ServeFlags) -> Result<Config> {
    let data_dir = match flags.data_dir {
        Some(folder) => folder,
        None => default_data_dir()?,
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Ok(Config {
        listen: flags.listen,
        data_dir,
        program: env::current_exe().context("cannot tell where this program is")?,
        serving: ServeOptions {
            max_computing: flags.max_computing.unwrap_or(cores),
            max_waiting: flags.max_waiting,
            max_tenant_requests: (flags.max_computing.unwrap_or(cores) + flags.max_waiting).div_ceil(2),
            memory_budget_bytes: match flags.memory_budget {
                Some(bytes) => bytes,
                None => wattle_meter::memory_bytes()? / 2,
            },
            defaults: Settings::default(),
        },
        max_training: flags.max_training,
        limits: Limits {
            max_body_bytes: flags.max_body_bytes,
            max_upload_bytes: flags.max_upload_bytes,
            hosts: flags.listen.ip().is_loopback().then(|| {
                let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter();
                own.chain([url_host(flags.listen.ip())]).chain(flags.allow_host).collect()
            }),
        },
        sensor: SensorConfig { idle_watts: flags.idle_watts, full_watts: flags.full_watts, ..SensorConfig::default() },
        grace: Duration::from_secs(flags.grace_seconds),
    })
}

/// An address as it stands in the host of a URL.
fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn default_data_dir() -> Result<PathBuf> {
    let base = env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| env::home_dir().map(|home| home.join(".local/share")));
    Ok(base.context("there is no home folder: say where data goes with --data-dir")?.join("wattle"))
}

fn start_log(format: LogFormat) -> Result<()> {
    let filter = EnvFilter::builder()
        .with_env_var("WATTLE_LOG")
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
        .from_env()
        .context("WATTLE_LOG is not a filter, as in info or wattle_serve=debug")?;
    // Colours are for a terminal, not for the file that the log may go to.
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
