use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use serde::Serialize;

use super::Wanted;

/// What the keys say, one field for each; `keys` tells what they mean.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(super) role: Role,
    pub(super) listen: SocketAddr,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) allow_hosts: Vec<String>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) grace: Duration,
    pub(super) max_computing: usize,
    pub(super) max_waiting: usize,
    pub(super) max_calls_per_tenant: Option<usize>,
    pub(super) max_waiting_generations: usize,
    pub(super) max_body_bytes: usize,
    pub(super) max_upload_bytes: u64,
    pub(super) max_connections: usize,
    pub(super) max_header_bytes: usize,
    pub(super) max_http2_streams: u32,
    pub(super) header_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) memory_budget_bytes: u64,
    pub(super) prefix_bytes: u64,
    pub(super) deployments: wattle_store::Settings,
    pub(super) models_dir: Option<PathBuf>,
    pub(super) models: Vec<Wanted>,
    pub(super) models_source: Option<String>,
    pub(super) max_training: usize,
    pub(super) idle_watts: Option<f64>,
    pub(super) full_watts: Option<f64>,
    pub(super) log_format: LogFormat,
    pub(super) log_filter: String,
    pub(super) otlp_endpoint: Option<String>,
    pub(super) service_name: Option<String>,
}

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything.
    All,
    /// To serve what it was started with, and nothing else.
    Worker,
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Settings {
    /// What holds on this machine where nobody says otherwise.
    pub(crate) fn defaults() -> Settings {
        Settings::said_by_nobody().complete()
    }

    /// Decides what follows from other keys where nobody said it.
    #[must_use]
    pub(super) fn complete(self) -> Settings {
        let half = (self.max_computing + self.max_waiting).div_ceil(2);
        Settings { max_calls_per_tenant: self.max_calls_per_tenant.or(Some(half)), ..self }
    }

    pub(super) fn said_by_nobody() -> Settings {
        Settings {
            role: Role::All,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            data_dir: home_folder("XDG_DATA_HOME", ".local/share").map(|base| base.join("wattle")),
            allow_hosts: Vec::new(),
            tls_cert: None,
            tls_key: None,
            grace: Duration::from_secs(30),
            max_computing: thread::available_parallelism().map_or(1, usize::from),
            max_waiting: 2048,
            max_calls_per_tenant: None,
            max_waiting_generations: 256,
            max_body_bytes: 16 << 20,
            max_upload_bytes: 64 << 30,
            max_connections: 4096,
            max_header_bytes: 32 << 10,
            max_http2_streams: 200,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            // Whole MiB are easier to read.
            memory_budget_bytes: wattle_meter::memory_bytes().map_or(1 << 30, |bytes| (bytes >> 21).max(1) << 20),
            prefix_bytes: 512 << 20,
            deployments: deployments(),
            models_dir: None,
            models: Vec::new(),
            models_source: None,
            max_training: 1,
            idle_watts: None,
            full_watts: None,
            log_format: LogFormat::Text,
            log_filter: "info".into(),
            otlp_endpoint: None,
            service_name: None,
        }
    }
}

/// What deployments do where neither they nor the configuration say anything.
fn deployments() -> wattle_store::Settings {
    let decided = wattle_store::Settings::default().resolve();
    wattle_store::Settings {
        max_batch_size: Some(decided.max_batch_size),
        max_queue_delay_ms: Some(decided.max_queue_delay.as_secs_f64() * 1000.0),
        isolation: decided.isolation,
        threads: decided.threads,
        keep_alive_seconds: decided.keep_alive.map(|time| time.as_secs()),
        max_inter_token_ms: Some(decided.max_inter_token.as_secs_f64() * 1000.0),
        ..wattle_store::Settings::default()
    }
}

/// A folder of the user, by the XDG Base Directory Specification.
pub(crate) fn home_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let given = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    given.or_else(|| env::home_dir().map(|home| home.join(below_home)))
}
