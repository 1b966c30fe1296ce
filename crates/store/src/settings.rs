use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use wattle_core::{ParseError, nearest};

use crate::{Error, Result};

/// The most rows of a batch.
const MOST_BATCH_SIZE: u32 = 1 << 20;
/// The longest that a call may wait for others to join its batch, a minute.
const MOST_QUEUE_DELAY_MS: f64 = 60_000.0;
/// The most threads or processors; no machine has more.
const MOST_PROCESSORS: u32 = 4096;
/// The longest that an idle model may be kept, a year.
const MOST_KEEP_ALIVE_SECONDS: u64 = 365 * 86_400;
/// A process that serves a model needs this much for itself, 32 MiB.
const LEAST_MEMORY_LIMIT_BYTES: u64 = 32 << 20;
/// The most containers of a model.
const MOST_REPLICAS: u32 = 64;
/// The least share of a processor that moves at all.
const LEAST_CPU_LIMIT: f64 = 0.01;

/// A call needs some tokens at least.
const LEAST_CONTEXT_TOKENS: u32 = 16;
/// The least that an engine counts.
const LEAST_KV_CELLS: u32 = 256;
/// The most that an engine counts, 2^28.
const MOST_KV_CELLS: u32 = 1 << 28;
/// The longest that a token may take, a minute.
const MOST_INTER_TOKEN_MS: f64 = 60_000.0;

/// How a revision is served, as it was asked for. What is left open is decided when it is served: by the server's
/// configuration, and by [`Settings::resolve`] where that says nothing either.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The most rows that are computed at once; 1 computes every call alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_size: Option<u32>,
    /// How long a call may wait for others to join its batch; 0 takes whoever waits already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queue_delay_ms: Option<f64>,
    /// Where the model lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The threads that one call computes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// How long the model stays in memory after its last call; left open, what it costs to stay and to load again decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_seconds: Option<u64>,
    /// Whether the model stays in memory whatever else needs the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// How many containers serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The most memory that its process, or each of its containers, may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// The most processors that its process, or each of its containers, may use; 1.5 are one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// Tokens that one call of a language model may have, prompt and answer together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u32>,
    /// Tokens whose keys and values a language model keeps, of all its calls together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cells: Option<u32>,
    /// How long a token of a language model's answer may take while prompts of other calls are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_inter_token_ms: Option<f64>,
    /// Whether a language model's next tokens are drafted out of what was said before, and checked at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculate: Option<bool>,
    /// A canary is rolled back when the share of its calls that fail is larger than the stable revision's by more than
    /// this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_max_error_percent: Option<f64>,
    /// How many calls a canary answers before it is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_min_calls: Option<u32>,
}

/// Settings of which none is left open.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedSettings {
    /// The most rows that are computed at once.
    pub max_batch_size: u32,
    /// How long a call may wait for others to join its batch.
    pub max_queue_delay: Duration,
    /// Where the model lives; without, its kind decides.
    pub isolation: Option<Isolation>,
    /// The threads that one call computes on; without, the model's size decides.
    pub threads: Option<u32>,
    /// How long the model stays in memory after its last call; without, what it costs decides.
    pub keep_alive: Option<Duration>,
    /// Whether the model stays in memory whatever else needs the room.
    pub pin: bool,
    /// How many containers serve it; 1 for a model that lives elsewhere.
    pub replicas: u32,
    /// The most memory that its process, or each of its containers, may take.
    pub memory_limit_bytes: Option<u64>,
    /// The most processors that its process, or each of its containers, may use.
    pub cpu_limit: Option<f64>,
    /// Tokens that one call of a language model may have; without, the model and its cells decide.
    pub context_tokens: Option<u32>,
    /// Tokens whose keys and values a language model keeps; without, its context decides.
    pub kv_cells: Option<u32>,
    /// How long a token of a language model's answer may take while prompts of other calls are read.
    pub max_inter_token: Duration,
    /// Whether a language model's next tokens are drafted.
    pub speculate: bool,
    /// By how much the share of a canary's calls that fail may be larger than the stable revision's, in percent.
    pub gate_max_error_percent: f64,
    /// How many calls a canary answers before it is judged.
    pub gate_min_calls: u32,
}

/// Where a model lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// On threads of the server.
    Thread,
    /// In a process of its own, whose crash costs its own calls alone and whose end gives all memory back.
    Process,
    /// In containers of a Docker Engine.
    Container,
}

impl Settings {
    /// These settings, and what they leave open from `others`.
    #[must_use]
    pub fn or(&self, others: &Settings) -> Settings {
        Settings {
            max_batch_size: self.max_batch_size.or(others.max_batch_size),
            max_queue_delay_ms: self.max_queue_delay_ms.or(others.max_queue_delay_ms),
            isolation: self.isolation.or(others.isolation),
            threads: self.threads.or(others.threads),
            keep_alive_seconds: self.keep_alive_seconds.or(others.keep_alive_seconds),
            pin: self.pin.or(others.pin),
            replicas: self.replicas.or(others.replicas),
            memory_limit_bytes: self.memory_limit_bytes.or(others.memory_limit_bytes),
            cpu_limit: self.cpu_limit.or(others.cpu_limit),
            context_tokens: self.context_tokens.or(others.context_tokens),
            kv_cells: self.kv_cells.or(others.kv_cells),
            max_inter_token_ms: self.max_inter_token_ms.or(others.max_inter_token_ms),
            speculate: self.speculate.or(others.speculate),
            gate_max_error_percent: self.gate_max_error_percent.or(others.gate_max_error_percent),
            gate_min_calls: self.gate_min_calls.or(others.gate_min_calls),
        }
    }

    /// Decides what is left open, after the server's configuration had its say (see [`Settings::or`]).
    pub fn resolve(&self) -> ResolvedSettings {
        ResolvedSettings {
            max_batch_size: self.max_batch_size.unwrap_or(32),
            max_queue_delay: Duration::from_secs_f64(self.max_queue_delay_ms.unwrap_or(0.0) / 1000.0),
            isolation: self.isolation,
            threads: self.threads,
            keep_alive: self.keep_alive_seconds.map(Duration::from_secs),
            pin: self.pin.unwrap_or(false),
            replicas: self.replicas.filter(|_| self.isolation == Some(Isolation::Container)).unwrap_or(1),
            memory_limit_bytes: self.memory_limit_bytes,
            cpu_limit: self.cpu_limit,
            context_tokens: self.context_tokens,
            kv_cells: self.kv_cells,
            max_inter_token: Duration::from_secs_f64(self.max_inter_token_ms.unwrap_or(200.0) / 1000.0),
            speculate: self.speculate.unwrap_or(true),
            gate_max_error_percent: self.gate_max_error_percent.unwrap_or(5.0),
            gate_min_calls: self.gate_min_calls.unwrap_or(20),
        }
    }

    /// Refuses what no server can do.
    pub fn check(&self) -> Result<()> {
        within("max_batch_size", self.max_batch_size, 1, MOST_BATCH_SIZE)?;
        within("max_queue_delay_ms", self.max_queue_delay_ms, 0.0, MOST_QUEUE_DELAY_MS)?;
        within("threads", self.threads, 1, MOST_PROCESSORS)?;
        within("keep_alive_seconds", self.keep_alive_seconds, 0, MOST_KEEP_ALIVE_SECONDS)?;
        within("replicas", self.replicas, 1, MOST_REPLICAS)?;
        within("memory_limit_bytes", self.memory_limit_bytes, LEAST_MEMORY_LIMIT_BYTES, 1 << 60)?;
        within("cpu_limit", self.cpu_limit, LEAST_CPU_LIMIT, f64::from(MOST_PROCESSORS))?;
        within("context_tokens", self.context_tokens, LEAST_CONTEXT_TOKENS, MOST_KV_CELLS)?;
        within("kv_cells", self.kv_cells, LEAST_KV_CELLS, MOST_KV_CELLS)?;
        within("max_inter_token_ms", self.max_inter_token_ms, 1.0, MOST_INTER_TOKEN_MS)?;
        within("gate_max_error_percent", self.gate_max_error_percent, 0.0, 100.0)?;
        within("gate_min_calls", self.gate_min_calls, 1, u32::MAX)?;
        let limited =
            [("memory_limit_bytes", self.memory_limit_bytes.is_some()), ("cpu_limit", self.cpu_limit.is_some())];
        match limited.into_iter().find(|(_, given)| *given) {
            // The server's own default may change, and a limit must not become void with it.
            Some((limit, _)) if !matches!(self.isolation, Some(Isolation::Process | Isolation::Container)) => {
                return Err(Error::Invalid(format!(
                    "{limit} holds for a process of its own only: set isolation to process too"
                )));
            }
            _ => {}
        }
        match self.replicas {
            Some(2..) if self.isolation != Some(Isolation::Container) => {
                Err(Error::Invalid("only containers can be several: set isolation to container too".into()))
            }
            _ => Ok(()),
        }
    }
}

impl Isolation {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::Thread => "thread",
            Isolation::Process => "process",
            Isolation::Container => "container",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Isolation {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Isolation, ParseError> {
        let all = [Isolation::Thread, Isolation::Process, Isolation::Container];
        all.into_iter().find(|isolation| isolation.as_str() == text).ok_or_else(|| {
            let known = match nearest(text, all.map(Isolation::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => "use thread, process or container".into(),
            };
            ParseError(format!("unknown isolation {text:?}: {known}"))
        })
    }
}

/// An error unless a value that is given lies between both bounds, which NaN does not.
fn within<T: PartialOrd + Copy + fmt::Display>(name: &str, value: Option<T>, least: T, most: T) -> Result<()> {
    match value {
        Some(value) if !(value >= least && value <= most) => {
            Err(Error::Invalid(format!("{name} is {value}: use a value from {least} to {most}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_left_open_comes_from_the_others() {
        let own = Settings { max_batch_size: Some(8), pin: Some(false), ..Settings::default() };
        let configured =
            Settings { max_batch_size: Some(64), pin: Some(true), threads: Some(2), ..Settings::default() };
        let resolved = own.or(&configured).resolve();
        assert_eq!((resolved.max_batch_size, resolved.pin, resolved.threads), (8, false, Some(2)));
        assert_eq!((resolved.isolation, resolved.keep_alive), (None, None));
        assert_eq!(own.or(&Settings::default()), own);
    }

    #[test]
    fn what_no_server_can_do_is_refused_with_what_to_write() {
        let told = |text: &str| {
            let settings: Settings = serde_json::from_str(text).unwrap();
            settings.check().map_err(|error| error.to_string())
        };
        for text in [
            "{}",
            r#"{"max_queue_delay_ms": 0.5, "max_batch_size": 1, "threads": 2, "keep_alive_seconds": 0, "pin": true}"#,
            r#"{"isolation": "process", "memory_limit_bytes": 1073741824, "cpu_limit": 0.5}"#,
        ] {
            assert_eq!(told(text), Ok(()), "{text}");
        }
        for (text, words) in [
            (r#"{"max_batch_size": 0}"#, "max_batch_size is 0: use a value from 1 to 1048576"),
            (r#"{"max_queue_delay_ms": -1}"#, "max_queue_delay_ms is -1: use a value from 0 to 60000"),
            (r#"{"threads": 5000}"#, "threads is 5000: use a value from 1 to 4096"),
            (
                r#"{"memory_limit_bytes": 1, "isolation": "process"}"#,
                "memory_limit_bytes is 1: use a value from 33554432",
            ),
            (r#"{"cpu_limit": 1}"#, "cpu_limit holds for a process of its own only: set isolation to process too"),
            (r#"{"cpu_limit": 1, "isolation": "thread"}"#, "set isolation to process too"),
            (r#"{"gate_max_error_percent": 101}"#, "use a value from 0 to 100"),
        ] {
            let error = told(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let nan = Settings { cpu_limit: Some(f64::NAN), isolation: Some(Isolation::Process), ..Settings::default() };
        assert!(nan.check().is_err());
        assert_eq!(
            "proces".parse::<Isolation>().unwrap_err().0,
            r#"unknown isolation "proces": did you mean process?"#
        );
    }

    #[test]
    fn only_what_was_asked_for_is_kept() {
        let settings = Settings { threads: Some(2), ..Settings::default() };
        assert_eq!(serde_json::to_string(&settings).unwrap(), r#"{"threads":2}"#);
        assert_eq!(serde_json::to_string(&Settings::default()).unwrap(), "{}");
    }
}
