use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use wattle_api::http::{ConnectionLimits, Limits, TlsFiles};
use wattle_meter::SensorConfig;
use wattle_serve::{LanguageOptions, ServeOptions};

use super::{
    Loaded, Problem, Problems, Settings, Wanted,
    settings::{LogFormat, Role},
};

/// Everything that was decided about a server, in the form that its parts take.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// What a worker serves; absent where the server is for everything.
    pub(crate) worker: Option<Worker>,
    pub(crate) grace: Duration,
    pub(crate) serving: ServeOptions,
    pub(crate) limits: Limits,
    pub(crate) connections: ConnectionLimits,
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) max_training: usize,
    pub(crate) sensor: SensorConfig,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
    /// The collector of traces, and the name that they are sent under where one was said.
    pub(crate) traces: Option<(String, Option<String>)>,
}

/// What a worker serves.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The folder that has its models, or is to have them.
    pub(crate) models_dir: PathBuf,
    /// The versions; all that the folder has when empty.
    pub(crate) models: Vec<Wanted>,
    /// Where they are fetched from.
    pub(crate) source: Option<String>,
}

impl Loaded {
    /// Decides everything.
    ///
    /// # Errors
    /// Everything that is wrong with what was said, each value for itself and all together.
    pub(crate) fn resolve(&self) -> Result<Config, Problems> {
        let mut problems = self.problems.clone();
        let said = self.settings.clone();
        let sensor = sensor(&said);
        let is_default = |key: &str| self.origin(key).kind() == "default";
        if let Err(error) = sensor.check() {
            // What is wrong is one of the two, and the second is the rarer one to be given.
            let key = ["energy.full_watts", "energy.idle_watts"];
            let key = key.into_iter().find(|key| !is_default(key)).unwrap_or(key[0]);
            problems.push(Problem::new(self.origin(key), error.to_string()));
        }
        if said.data_dir.is_none() {
            let problem = "has no default where there is no home folder: say where data goes, as with --data-dir";
            problems.push(Problem::of_key(self.origin("server.data_dir"), "server.data_dir", problem));
        }
        let given = [
            ("worker.models_dir", said.models_dir.is_some()),
            ("worker.models", !said.models.is_empty()),
            ("worker.source", said.models_source.is_some()),
        ];
        match (said.role, given.into_iter().find(|(_, is_given)| *is_given)) {
            (Role::Worker, _) if said.models_dir.is_none() => {
                let problem = "is missing: a worker serves a folder of models; say which, as with --models-dir";
                problems.push(Problem::of_key(self.origin("worker.models_dir"), "worker.models_dir", problem));
            }
            (Role::All, Some((key, _))) => {
                let problem = "is for a worker: say --role worker too, or import the models";
                problems.push(Problem::of_key(self.origin(key), key, problem));
            }
            _ => {}
        }
        let worker =
            said.models_dir.map(|models_dir| Worker { models_dir, models: said.models, source: said.models_source });
        // What a worker serves has its container for itself.
        let memory_budget_bytes = match said.role {
            Role::Worker if is_default("memory.budget_bytes") => said.memory_budget_bytes / 4 * 7,
            _ => said.memory_budget_bytes,
        };
        let tls = match (said.tls_cert, said.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (cert, _) => {
                let (given, missing) = match cert {
                    Some(_) => ("server.tls_cert", "server.tls_key"),
                    None => ("server.tls_key", "server.tls_cert"),
                };
                let problem = format!("is of no use alone: say {missing} too");
                problems.push(Problem::of_key(self.origin(given), given, problem));
                None
            }
        };
        match said.data_dir {
            Some(data_dir) if problems.is_empty() => Ok(Config {
                grace: said.grace,
                serving: ServeOptions {
                    max_computing: said.max_computing,
                    max_waiting: said.max_waiting,
                    max_tenant_requests: said.max_calls_per_tenant.unwrap_or(usize::MAX),
                    memory_budget_bytes,
                    defaults: said.deployments,
                    language: LanguageOptions {
                        max_waiting: said.max_waiting_generations,
                        prefixes: Some(data_dir.join("prefixes")),
                        prefix_bytes: said.prefix_bytes,
                        processors: Some(data_dir.join("processors")),
                    },
                },
                limits: Limits {
                    max_body_bytes: said.max_body_bytes,
                    max_upload_bytes: said.max_upload_bytes,
                    body_timeout: said.body_timeout,
                },
                connections: ConnectionLimits {
                    max_connections: said.max_connections,
                    max_header_bytes: said.max_header_bytes,
                    header_timeout: said.header_timeout,
                    idle_timeout: said.idle_timeout,
                    write_timeout: said.write_timeout,
                    max_http2_streams: said.max_http2_streams,
                },
                hosts: hosts(said.listen.ip(), said.allow_hosts),
                tls,
                listen: said.listen,
                max_training: said.max_training,
                sensor,
                log_format: said.log_format,
                log_filter: said.log_filter,
                data_dir,
                worker,
                traces: said.otlp_endpoint.map(|endpoint| (endpoint, said.service_name)),
            }),
            _ => Err(Problems(problems)),
        }
    }
}

fn sensor(said: &Settings) -> SensorConfig {
    SensorConfig { idle_watts: said.idle_watts, full_watts: said.full_watts, ..SensorConfig::default() }
}

/// The names that a server on this address answers to; any when it is not on loopback.
fn hosts(address: IpAddr, further: Vec<String>) -> Option<Vec<String>> {
    let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter();
    address.is_loopback().then(|| own.chain([url_host(address)]).chain(further).collect())
}

/// An address as it stands in the host of a URL.
fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
