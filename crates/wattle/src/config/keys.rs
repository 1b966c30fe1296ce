//! The one table of all keys, from which everything else is made: reading, variables, flags, `wattle config` and
//! `docs/configuration.md`.
//!
//! A new key is a row here, a field and its default in [`Settings`], and a line in `resolve`; then `make docs`.

use std::{
    fmt,
    path::Path,
    sync::{Arc, LazyLock},
};

use serde_json::Value;
use wattle_store::Isolation;

use super::{
    Settings,
    form::{
        Form, Written, address, bytes, choice, collector, filter, name, names, optional, path, quantity, seconds,
        server, versions, whole,
    },
    settings::{LogFormat, Role},
};

/// The sections of the file, in its order, and what they are about.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("server", "Where the server answers, and where it keeps things."),
    ("limits", "What it takes at most; over a limit a caller is told so at once."),
    ("memory", "The memory of models."),
    ("deployments", "What holds for a deployment that does not say otherwise."),
    ("worker", "What a server with the role of a worker serves."),
    ("training", "Training jobs."),
    ("energy", "What the machine draws, for one without energy counters, or read off a wall meter."),
    ("log", "The log, which goes to the standard error."),
    ("telemetry", "Traces, for a collector."),
];

/// The most calls that may compute or wait; each costs memory, and callers lose patience long before.
const MOST_CALLS: u64 = 1_000_000;
/// The most training jobs at once; each is a process.
const MOST_JOBS: u64 = 1000;
/// The largest body of a call may be this large, since it has to be in memory.
const MOST_BODY_BYTES: u64 = 1 << 40;
/// The largest upload may be this large.
const MOST_UPLOAD_BYTES: u64 = 1 << 60;
/// Models may take this much together, 1 PiB.
const MOST_MEMORY_BYTES: u64 = 1 << 50;
/// No machine draws more, a gigawatt.
const MOST_WATTS: f64 = 1e9;
/// The longest time that calls are given to end, a day.
const MOST_GRACE_SECONDS: f64 = 86_400.0;
/// The longest that a client may be waited for, a day.
const MOST_TIMEOUT_SECONDS: f64 = 86_400.0;
/// The most open connections; each is a file descriptor.
const MOST_CONNECTIONS: u64 = 1 << 20;
/// The least room for the head of a request, which must fit a path and a few headers.
const LEAST_HEADER_BYTES: u64 = 1 << 10;
/// The most room for the head of a request; each connection may take it.
const MOST_HEADER_BYTES: u64 = 1 << 20;
/// The most requests at once on a connection.
const MOST_STREAMS: u64 = 100_000;

const ISOLATIONS: &[(&str, Isolation)] =
    &[("thread", Isolation::Thread), ("process", Isolation::Process), ("container", Isolation::Container)];
const ROLES: &[(&str, Role)] = &[("all", Role::All), ("worker", Role::Worker)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

/// All keys, in the order of [`SECTIONS`].
pub(crate) fn keys() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(table);
    &KEYS
}

fn table() -> Vec<Key> {
    vec![
        Key::new("server.listen", address(), |s| &mut s.listen)
            .about("The address to listen on; port 0 takes a free one.")
            .flag("listen")
            .variable("WATTLE_LISTEN"),
        Key::new("server.role", choice("all|worker", ROLES), |s| &mut s.role)
            .about(
                "What the server is for: everything, or to serve the models that it is started with, which is what a \
                 container does; a worker refuses whatever would change that.",
            )
            .flag("role")
            .variable("WATTLE_ROLE"),
        Key::new("server.data_dir", optional(path("folder")), |s| &mut s.data_dir)
            .about("Where models, data sets and the ledger are kept.")
            .flag("data-dir")
            .variable("WATTLE_DATA_DIR")
            .default_is("~/.local/share/wattle"),
        Key::new("server.allow_hosts", names(), |s| &mut s.allow_hosts)
            .about("Further names under which callers reach a server on loopback, for example behind a reverse proxy.")
            .flag("allow-host"),
        Key::new("server.tls_cert", optional(path("file")), |s| &mut s.tls_cert)
            .about(
                "A certificate, as PEM, and after it those of the authorities between it and the root; the server then \
                 speaks https alone, and reads the files again when they change.",
            )
            .flag("tls-cert")
            .default_is("none, and connections are in the clear"),
        Key::new("server.tls_key", optional(path("file")), |s| &mut s.tls_key)
            .about("The certificate's private key, as PEM without a passphrase.")
            .flag("tls-key")
            .default_is("none"),
        Key::new("server.grace_seconds", seconds(0.0..=MOST_GRACE_SECONDS), |s| &mut s.grace)
            .about("How long calls under way are given to end on SIGTERM.")
            .flag("grace-seconds"),
        Key::new("limits.max_computing", whole(1..=MOST_CALLS), |s| &mut s.max_computing)
            .about("Threads that compute at once.")
            .flag("max-computing")
            .default_is("the machine's cores"),
        Key::new("limits.max_waiting", whole(0..=MOST_CALLS), |s| &mut s.max_waiting)
            .about("Calls that may wait beyond those; more are refused with 503.")
            .flag("max-waiting"),
        Key::new("limits.max_calls_per_tenant", optional(whole(1..=MOST_CALLS)), |s| &mut s.max_calls_per_tenant)
            .about("Calls of one named tenant that may compute or wait; more are refused with 429.")
            .default_is("half of those that may compute or wait"),
        Key::new("limits.max_waiting_generations", whole(1..=MOST_CALLS), |s| &mut s.max_waiting_generations)
            .about("Calls of one language model that may wait for their turn; more are refused with 429."),
        Key::new("limits.max_body_bytes", bytes(1..=MOST_BODY_BYTES), |s| &mut s.max_body_bytes)
            .about("The largest body of a call.")
            .flag("max-body-bytes"),
        Key::new("limits.max_upload_bytes", bytes(1..=MOST_UPLOAD_BYTES), |s| &mut s.max_upload_bytes)
            .about("The largest data set or model that may be sent.")
            .flag("max-upload-bytes"),
        Key::new("limits.max_connections", whole(1..=MOST_CONNECTIONS), |s| &mut s.max_connections)
            .about("Open connections; more are refused with 503.")
            .flag("max-connections"),
        Key::new("limits.max_header_bytes", bytes(LEAST_HEADER_BYTES..=MOST_HEADER_BYTES), |s| &mut s.max_header_bytes)
            .about("The largest head of a request, its first line and headers.")
            .flag("max-header-bytes"),
        Key::new("limits.max_http2_streams", whole(1..=MOST_STREAMS), |s| &mut s.max_http2_streams)
            .about("Requests at once on one connection of HTTP/2.")
            .flag("max-http2-streams"),
        Key::new("limits.header_timeout_seconds", seconds(0.1..=MOST_TIMEOUT_SECONDS), |s| &mut s.header_timeout)
            .about("How long the head of a request may take to come in.")
            .flag("header-timeout-seconds"),
        Key::new("limits.body_timeout_seconds", seconds(0.1..=MOST_TIMEOUT_SECONDS), |s| &mut s.body_timeout)
            .about("How long the body of a request may take to come in; it has longer as long as it comes fast enough.")
            .flag("body-timeout-seconds"),
        Key::new("limits.write_timeout_seconds", seconds(0.1..=MOST_TIMEOUT_SECONDS), |s| &mut s.write_timeout)
            .about("How long an answer may wait for its client to take more of it.")
            .flag("write-timeout-seconds"),
        Key::new("limits.idle_timeout_seconds", seconds(0.1..=MOST_TIMEOUT_SECONDS), |s| &mut s.idle_timeout)
            .about("How long a connection may stay open between requests.")
            .flag("idle-timeout-seconds"),
        Key::new("memory.budget_bytes", bytes(1..=MOST_MEMORY_BYTES), |s| &mut s.memory_budget_bytes)
            .about("The memory that models may take together; the least valuable make room.")
            .flag("memory-budget")
            .default_is("half of the machine's or the container's, and seven eighths for a worker"),
        Key::new("memory.prefix_bytes", bytes(0..=MOST_MEMORY_BYTES), |s| &mut s.prefix_bytes)
            .about("What each language model may keep of its prompts on the disk while it is not loaded."),
        Key::new("deployments.max_batch_size", optional(whole(1..=1 << 20)), |s| &mut s.deployments.max_batch_size)
            .about("The most rows that are computed at once; 1 computes every call alone."),
        Key::new("deployments.max_queue_delay_ms", optional(quantity("MS", "milliseconds", 0.0..=60_000.0)), |s| {
            &mut s.deployments.max_queue_delay_ms
        })
        .about("How long a call may wait for others to join its batch; 0 takes whoever waits already."),
        Key::new("deployments.isolation", optional(choice("thread|process|container", ISOLATIONS)), |s| {
            &mut s.deployments.isolation
        })
        .about(
            "Where a model lives: on threads of the server, in a process whose crash costs its own calls alone, or in \
             containers of a Docker Engine.",
        )
        .default_is("process for language models, thread for all others"),
        Key::new("deployments.threads", optional(whole(1..=4096)), |s| &mut s.deployments.threads)
            .about("The threads that one call computes on.")
            .default_is("one, and all processors for models of 4 MiB and more"),
        Key::new("deployments.keep_alive_seconds", optional(whole(0..=365 * 86_400)), |s| {
            &mut s.deployments.keep_alive_seconds
        })
        .about("How long a model stays in memory after its last call.")
        .default_is("what it costs to stay and to load again decides"),
        Key::new("deployments.context_tokens", optional(whole(16..=1 << 28)), |s| &mut s.deployments.context_tokens)
            .about("Tokens that one call of a language model may have, prompt and answer together.")
            .default_is("as many as the model was trained for, and as its cells allow"),
        Key::new("deployments.kv_cells", optional(whole(256..=1 << 28)), |s| &mut s.deployments.kv_cells)
            .about("Tokens whose keys and values a language model keeps, of all its calls together.")
            .default_is("8192, or as many as the model's context has, up to 32768"),
        Key::new("deployments.max_inter_token_ms", optional(quantity("MS", "milliseconds", 1.0..=60_000.0)), |s| {
            &mut s.deployments.max_inter_token_ms
        })
        .about("How long a token of a language model's answer may take while prompts of other calls are read."),
        Key::new("worker.models_dir", optional(path("folder")), |s| &mut s.models_dir)
            .about("A folder of models, each in a folder as `wattle models export` writes it; what is fetched is kept here.")
            .flag("models-dir")
            .variable("WATTLE_MODELS_DIR")
            .default_is("none, and a worker needs one"),
        Key::new("worker.models", versions(), |s| &mut s.models)
            .about("The versions to serve, of which those are fetched that the folder does not have.")
            .flag("model")
            .variable("WATTLE_MODELS")
            .default_is("all that the folder has, the highest version of each"),
        Key::new("worker.source", optional(server()), |s| &mut s.models_source)
            .about("The server that has them.")
            .flag("models-source")
            .variable("WATTLE_MODELS_SOURCE")
            .default_is("none, and nothing is fetched"),
        Key::new("training.max_running", whole(1..=MOST_JOBS), |s| &mut s.max_training)
            .about("Training jobs that run at once; others wait.")
            .flag("max-training"),
        Key::new("energy.idle_watts", optional(quantity("WATTS", "watts", 0.0..=MOST_WATTS)), |s| &mut s.idle_watts)
            .about(
                "The machine's power when idle, off a wall meter; together with full_watts it takes the place of every \
                 other sensor, alone that of what the processor's energy counters say of quiet times.",
            )
            .flag("idle-watts")
            .default_is("what sensors or published figures say"),
        Key::new("energy.full_watts", optional(quantity("WATTS", "watts", 0.0..=MOST_WATTS)), |s| &mut s.full_watts)
            .about("The machine's power under full load; it needs idle_watts.")
            .flag("full-watts")
            .default_is("what sensors or published figures say"),
        Key::new("log.format", choice("text|json", LOG_FORMATS), |s| &mut s.log_format)
            .about("How lines are written: for people or for machines.")
            .flag("log-format"),
        Key::new("log.filter", filter(), |s| &mut s.log_filter)
            .about("Which lines are written: a level, or levels by module.")
            .variable("WATTLE_LOG"),
        Key::new("telemetry.otlp_endpoint", optional(collector()), |s| &mut s.otlp_endpoint)
            .about("The OpenTelemetry collector that traces are sent to, by OTLP over HTTP.")
            .flag("otlp-endpoint")
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT")
            .default_is("none, and nothing is traced"),
        Key::new("telemetry.service_name", optional(name()), |s| &mut s.service_name)
            .about("What the sender of traces is called.")
            .variable("OTEL_SERVICE_NAME")
            .default_is("wattle, or service.name of OTEL_RESOURCE_ATTRIBUTES"),
    ]
}

/// Takes over a value; false if it is not what is expected.
type Set = Box<dyn Fn(&mut Settings, &Written, &Path) -> bool + Send + Sync>;
/// The value for scripts. It changes nothing, but reaches the field in the same way as [`Set`].
type Show = Box<dyn Fn(&mut Settings) -> Value + Send + Sync>;

/// One key: its names, and how its value gets into [`Settings`] and out again.
pub(crate) struct Key {
    /// `section.name`.
    pub(crate) path: &'static str,
    /// What it is about.
    pub(crate) about: &'static str,
    /// What may be written.
    pub(crate) expects: String,
    /// What stands for the value in a flag's help.
    pub(crate) placeholder: &'static str,
    /// Whether a flag may be given several times.
    pub(crate) takes_many: bool,
    /// The flag of `wattle serve`, if it has one.
    pub(crate) flag: Option<&'static str>,
    /// A shorter name of its variable.
    pub(crate) short_variable: Option<&'static str>,
    /// The default in words, where it depends on the machine or is none.
    pub(crate) default_words: Option<&'static str>,
    set: Set,
    show: Show,
    write: fn(&Value) -> String,
}

impl Key {
    fn new<T: 'static>(path: &'static str, form: Form<T>, field: fn(&mut Settings) -> &mut T) -> Key {
        let Form { expects, placeholder, takes_many, read, show, write } = form;
        let read = Arc::new(read);
        Key {
            path,
            about: "",
            expects,
            placeholder,
            takes_many,
            flag: None,
            short_variable: None,
            default_words: None,
            set: Box::new(move |settings, written, folder| match read(written, folder) {
                Some(value) => {
                    *field(settings) = value;
                    true
                }
                None => false,
            }),
            show: Box::new(move |settings| show(field(settings))),
            write,
        }
    }

    fn about(self, about: &'static str) -> Key {
        Key { about, ..self }
    }

    fn flag(self, flag: &'static str) -> Key {
        Key { flag: Some(flag), ..self }
    }

    fn variable(self, name: &'static str) -> Key {
        Key { short_variable: Some(name), ..self }
    }

    fn default_is(self, words: &'static str) -> Key {
        Key { default_words: Some(words), ..self }
    }

    /// The section, and the name in it.
    pub(crate) fn section_and_name(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }

    /// The environment's variables that say it, the full name first.
    pub(crate) fn variables(&self) -> Vec<String> {
        let full = format!("WATTLE_{}", self.path.replace('.', "_").to_uppercase());
        [Some(full), self.short_variable.map(str::to_owned)].into_iter().flatten().collect()
    }

    /// Takes over a value, in which a relative path is one below `folder`; false if it is not what is expected.
    pub(crate) fn set(&self, settings: &mut Settings, written: &Written, folder: &Path) -> bool {
        (self.set)(settings, written, folder)
    }

    /// The value for scripts; null when there is none.
    pub(crate) fn show(&self, settings: &Settings) -> Value {
        (self.show)(&mut settings.clone())
    }

    /// The value as it would be written into the file; nothing when there is none.
    pub(crate) fn write(&self, settings: &Settings) -> String {
        (self.write)(&self.show(settings))
    }

    /// The default as the reference tells it: the same on every machine.
    pub(crate) fn default_text(&self) -> String {
        self.default_words.map_or_else(|| self.write(&Settings::defaults()), str::to_owned)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::config::file::parse;

    #[test]
    fn names_are_told_apart_and_stand_in_their_sections() {
        let mut seen = HashSet::new();
        let names = keys().iter().flat_map(|key| {
            let flag = key.flag.map(|flag| format!("--{flag}"));
            key.variables().into_iter().chain(flag).chain([key.path.to_owned()])
        });
        for name in names {
            assert!(seen.insert(name.clone()), "{name} is there twice");
        }
        let mut sections: Vec<&str> = keys().iter().map(|key| key.section_and_name().0).collect();
        sections.dedup();
        assert_eq!(sections, SECTIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert_eq!(keys()[0].variables(), ["WATTLE_SERVER_LISTEN", "WATTLE_LISTEN"]);
    }

    #[test]
    fn each_key_tells_what_a_reader_needs() {
        for key in keys() {
            assert!(key.about.ends_with('.') && !key.expects.is_empty(), "{}", key.path);
            assert!(!key.default_text().is_empty(), "{} has no default: say in words what holds", key.path);
        }
    }

    #[test]
    fn each_key_has_a_field_of_its_own_and_reads_what_it_writes() {
        let defaults = Settings::defaults();
        for key in keys() {
            let text = key.write(&defaults);
            let mut settings = defaults.clone();
            if !text.is_empty() && !key.takes_many {
                let bare = Written::Bare(text.trim_matches('"').to_owned());
                assert!(key.set(&mut settings, &bare, Path::new("")), "{} does not take {text}", key.path);
            }
            assert_eq!(settings, defaults, "{}", key.path);
        }
    }

    #[test]
    fn deployments_may_say_what_the_configuration_may_say_for_them() {
        let of_deployments = || keys().iter().filter(|key| key.path.starts_with("deployments."));
        assert!(of_deployments().count() > 3);
        for key in of_deployments() {
            // The numbers of "from 1 to 10"; what has none takes words.
            let bounds: Vec<f64> = key.expects.split(' ').filter_map(|word| word.parse().ok()).collect();
            for bound in &bounds {
                let mut settings = Settings::defaults();
                assert!(key.set(&mut settings, &Written::Bare(bound.to_string()), Path::new("")), "{}", key.path);
                settings.deployments.check().unwrap();
            }
        }
    }

    #[test]
    fn a_log_filter_of_other_letters_is_refused_and_does_not_panic() {
        let key = keys().iter().find(|key| key.path == "log.filter").unwrap();
        let mut settings = Settings::defaults();
        for text in [", 𝒩=", "wattle=ä", "ῳ="] {
            assert!(!key.set(&mut settings, &Written::Bare(text.into()), Path::new("")), "{text}");
        }
        assert!(key.set(&mut settings, &Written::Bare("warn,wattle_serve=debug".into()), Path::new("")));
    }

    proptest! {
        /// Whatever is written, a key takes it or does not, and what it takes it can write again.
        #[test]
        fn fuzz_configuration_values(text in "\\PC{0,40}|[0-9a-zA-Z.:,=\\[\\]{}/ -]{0,30}|[0-9.eE+-]{1,12}( ?[kKMGT]i?B)?") {
            let all = [Written::Bare(text.clone()), Written::Text(text.clone()), Written::Number(text)];
            let list = Written::List(all.to_vec());
            let defaults = Settings::defaults();
            for (key, written) in keys().iter().flat_map(|key| all.iter().chain([&list]).map(move |one| (key, one))) {
                let mut settings = defaults.clone();
                if key.set(&mut settings, written, Path::new("folder")) {
                    let line = format!("version = 1\n{} = {}\n", key.path, key.write(&settings));
                    let (found, problems) = parse(&line, Path::new("w.toml"));
                    prop_assert!(problems.is_empty() && found.len() == 1, "{line}: {problems:?}");
                    let mut again = defaults.clone();
                    prop_assert!(key.set(&mut again, &found[0].written, Path::new("")), "{line}");
                    prop_assert_eq!(again, settings);
                }
            }
        }
    }
}
