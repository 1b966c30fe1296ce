use clap::{Args, ValueEnum, value_parser};
use wattle_core::{ModelReference, Name};
use wattle_store::{Isolation, Settings};
use wattle_train::spec::Memory;

#[derive(Debug, Args)]
#[command(
    after_help = "What is not said stays as the deployment has it.\n\nExamples:\n  wattle deploy line\n  wattle deploy line:2 --name forecast --default\n  wattle deploy line@champion\n  wattle deploy line:2 --canary 10\n  wattle deploy line:3 --shadow\n  wattle deploy line --max-batch-size 64 --max-queue-delay-ms 2\n  wattle deploy line --isolation process --memory-limit 512MiB --cpu-limit 1.5\n  wattle deploy line --target docker --replicas 2 --cpus 1 --memory 512MiB\n  wattle deploy smollm --kv-cells 16384 --keep-alive 30m"
)]
pub(crate) struct DeployFlags {
    /// MODEL, MODEL:VERSION or MODEL@ALIAS.
    pub(crate) model: ModelReference,
    /// The deployment's name [default: the model's].
    #[arg(long)]
    pub(crate) name: Option<Name>,
    /// Let `POST /predict`, which names no deployment, go here.
    #[arg(long)]
    pub(crate) default: bool,

    /// Try it on this share of the calls; what is deployed already answers the others.
    #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=99), conflicts_with = "shadow")]
    pub(crate) canary: Option<u8>,
    /// Let it get copies of the calls and compare its answers, which nobody gets to see.
    #[arg(long)]
    pub(crate) shadow: bool,

    #[command(flatten)]
    pub(crate) settings: SettingsFlags,
    /// Leave the settings that are not given here to the server again, whatever they were.
    #[arg(long, help_heading = "Settings")]
    pub(crate) reset_settings: bool,
}

/// How a revision is served.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsFlags {
    /// Compute at most so many rows at once; 1 computes every call alone.
    #[arg(long, value_name = "ROWS")]
    max_batch_size: Option<u32>,
    /// Let a call wait so long for others to join its batch.
    #[arg(long, value_name = "MS")]
    max_queue_delay_ms: Option<f64>,
    /// Serve it on threads of the server, in a process of its own, whose crash costs its own calls alone, or in containers.
    #[arg(long, value_name = "thread|process|container")]
    isolation: Option<Isolation>,
    /// Serve it here, or in containers of a Docker Engine; the same as --isolation container.
    #[arg(long, value_name = "local|docker", conflicts_with = "isolation")]
    target: Option<Target>,
    /// Serve it in so many containers.
    #[arg(long, value_name = "CONTAINERS")]
    replicas: Option<u32>,
    /// Compute a call on so many threads.
    #[arg(long)]
    threads: Option<u32>,
    /// Keep it in memory so long after its last call: seconds, or as in 10m or 2h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    keep_alive: Option<u64>,
    /// Keep it in memory whatever else needs the room.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pin: Option<bool>,
    /// The most memory that its process, or each of its containers, may take, as in 512MiB.
    #[arg(long, visible_alias = "memory", value_name = "MEMORY")]
    memory_limit: Option<Memory>,
    /// The most processors that its process, or each of its containers, may use, as in 1.5.
    #[arg(long, visible_alias = "cpus", value_name = "PROCESSORS")]
    cpu_limit: Option<f64>,
    /// Let one call of a language model have so many tokens, prompt and answer together.
    #[arg(long = "context", value_name = "TOKENS")]
    context_tokens: Option<u32>,
    /// Keep the keys and values of so many tokens of a language model, of all its calls together.
    #[arg(long, value_name = "TOKENS")]
    kv_cells: Option<u32>,
    /// Let a token of a language model's answer take so long while prompts of other calls are read.
    #[arg(long, value_name = "MS")]
    max_inter_token_ms: Option<f64>,
    /// Draft a language model's next tokens out of what was said before, and check them at once.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    speculate: Option<bool>,
    /// Roll a canary back when its calls fail more often than the others, by more than this.
    #[arg(long, value_name = "PERCENT")]
    gate_max_error_percent: Option<f64>,
    /// Judge a canary after so many calls.
    #[arg(long, value_name = "CALLS")]
    gate_min_calls: Option<u32>,
}

impl SettingsFlags {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            max_batch_size: self.max_batch_size,
            max_queue_delay_ms: self.max_queue_delay_ms,
            isolation: self
                .isolation
                .or(self.target.filter(|target| *target == Target::Docker).map(|_| Isolation::Container)),
            replicas: self.replicas,
            threads: self.threads,
            keep_alive_seconds: self.keep_alive,
            pin: self.pin,
            memory_limit_bytes: self.memory_limit.map(u64::from),
            cpu_limit: self.cpu_limit,
            context_tokens: self.context_tokens,
            kv_cells: self.kv_cells,
            max_inter_token_ms: self.max_inter_token_ms,
            speculate: self.speculate,
            gate_max_error_percent: self.gate_max_error_percent,
            gate_min_calls: self.gate_min_calls,
        }
    }
}

/// Where a model is deployed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    Local,
    Docker,
}

/// Seconds, minutes or hours, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[end..].trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write seconds as in 90, or as in 90s, 10m or 2h".into()),
    };
    let number: u64 = text[..end].parse().map_err(|_| "write a whole number, as in 90, 90s, 10m or 2h".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "that is longer than anybody waits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        assert_eq!(["0", "90", "90s", "10m", "2h"].map(seconds), [Ok(0), Ok(90), Ok(90), Ok(600), Ok(7200)]);
        for text in ["", "m", "-1", "1.5h", "3d", "99999999999999999999", "9999999999999999999h"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }
}
