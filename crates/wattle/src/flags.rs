//! The command line as it is written; the commands resolve it.

mod bench;
mod deploy;
mod image;
mod language;

use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};
use wattle_core::{ModelReference, Name};
use wattle_train::spec::ClassWeights;

pub(crate) use self::{
    bench::{Arrivals, BenchFlags, BenchProtocol},
    deploy::DeployFlags,
    image::{ImageBuildFlags, ImageCommand},
    language::{ChatFlags, EmbedFlags, GenerateFlags, SamplingFlags},
};
use crate::config::{KeyFlags, hide_keys};

/// Train a model, store it, deploy it, call it, and know what each call cost in compute and energy.
#[derive(Debug, Parser)]
#[command(name = "wattle", version, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "Start a server with `wattle serve`; every other command talks to it.\nSee it all work in ten seconds: `wattle quickstart`."
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// The server to talk to.
    #[arg(long, global = true, env = "WATTLE_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,

    /// Certificates, as PEM, of the authorities to trust in place of the system's when the server speaks https.
    #[arg(long, global = true, env = "WATTLE_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// How to print answers and errors.
    #[arg(short, long, global = true, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server.
    #[command(
        after_help = "Examples:\n  wattle serve\n  wattle serve --listen 127.0.0.1:9000 --data-dir ./data\n  wattle serve --config wattle.toml\n\nEvery key of wattle.toml can also be given as a variable: `wattle config show` lists them."
    )]
    Serve(ServeFlags),
    /// Show and check a server's configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the whole path, from a table to a priced call, with a throw-away server.
    Quickstart(QuickstartFlags),
    /// Add, list and remove data sets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Train a model on a table.
    Train(Box<TrainFlags>),
    /// List, follow and cancel training jobs.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// List, show, import, export, name and remove models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Give a version of a model an address.
    Deploy(Box<DeployFlags>),
    /// Give the canary, or without one the shadow, all calls.
    #[command(after_help = "Examples:\n  wattle deploy line:2 --canary 10\n  wattle promote line")]
    Promote {
        /// The deployment.
        name: Name,
    },
    /// Go back by one step: end the canary, or without one the shadow; without either, go back to the revision that
    /// answered before.
    #[command(
        after_help = "What was gone back from is never gone back to: a second rollback goes back further.\n\nExamples:\n  wattle rollback line\n  wattle history line"
    )]
    Rollback {
        /// The deployment.
        name: Name,
    },
    /// Show what happened to a deployment: which revisions answered, since when, and why.
    #[command(after_help = "Examples:\n  wattle history line\n  wattle history line -o json")]
    History {
        /// The deployment; also one that was removed.
        name: Name,
    },
    /// List deployments.
    Ps,
    /// Show what was said of a deployment: by the server, and by what serves it.
    #[command(
        after_help = "Examples:\n  wattle logs line\n  wattle logs line --tail 20 --follow\n  wattle logs line -o json"
    )]
    Logs {
        /// The deployment; also one that could not be deployed.
        name: Name,
        /// Show the last so many lines.
        #[arg(long, value_name = "LINES", default_value_t = 100)]
        tail: usize,
        /// Go on with each further line.
        #[arg(long, short)]
        follow: bool,
    },
    /// Remove a deployment.
    Undeploy {
        /// The deployment.
        name: Name,
    },
    /// Call a deployment.
    Predict(PredictFlags),
    /// Talk to a language model.
    Chat(ChatFlags),
    /// Have a language model continue a text.
    Generate(Box<GenerateFlags>),
    /// Turn texts into vectors.
    Embed(EmbedFlags),
    /// Put load on a deployment, and measure its latency and what a call costs.
    Bench(Box<BenchFlags>),
    /// Make container images.
    #[command(subcommand)]
    Image(Box<ImageCommand>),
    /// Ask a server whether it is ready to answer; if not, it ends with 1.
    #[command(after_help = "Examples:\n  wattle health\n  wattle health --url http://10.0.0.7:8080")]
    Health,
    /// Sum what was used: requests, processor time, energy.
    Usage(UsageFlags),
    /// Watch deployments live: calls, latency, memory, power.
    Top(TopFlags),
    /// Remove stored bytes that nothing refers to.
    Gc,
    /// Processes that the server starts.
    #[command(subcommand, hide = true)]
    Worker(WorkerCommand),
    /// Write a page that is made from the program itself.
    #[command(hide = true)]
    Docs {
        /// The page.
        page: Page,
    },
}

/// What `wattle serve` takes: where its configuration is, and keys of it.
#[derive(Debug, Args)]
pub(crate) struct ServeFlags {
    /// The server's configuration [default: what WATTLE_CONFIG says, or ~/.config/wattle/wattle.toml if it exists].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Read no configuration file.
    #[arg(long, conflicts_with = "config")]
    pub(crate) no_config: bool,

    #[command(flatten)]
    pub(crate) keys: KeyFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key, its value, and where that came from.
    #[command(
        mut_args = hide_keys,
        after_help = "Examples:\n  wattle config show\n  wattle config show --config wattle.toml --max-waiting 10\n  wattle config show --default > wattle.toml\n\nIt takes the flags of `wattle serve` as well."
    )]
    Show {
        /// Print a wattle.toml with all defaults, and what each key means, to start from.
        #[arg(long)]
        default: bool,
        #[command(flatten)]
        serve: ServeFlags,
    },
    /// Check a configuration as `wattle serve` would read it, and tell everything that is wrong.
    #[command(
        mut_args = hide_keys,
        after_help = "Examples:\n  wattle config check wattle.toml\n  wattle config check wattle.toml -o json\n\nIt takes the flags of `wattle serve` as well."
    )]
    Check {
        /// The file [default: the one that `wattle serve` would read].
        #[arg(conflicts_with_all = ["config", "no_config"])]
        file: Option<PathBuf>,
        #[command(flatten)]
        serve: ServeFlags,
    },
}

/// A generated page of the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// The reference of the command line.
    Cli,
    /// The reference of the configuration.
    Configuration,
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartFlags {
    /// Leave the server running, and print what to try next.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Add a CSV (with a header) or Parquet file.
    #[command(
        after_help = "Examples:\n  wattle data add penguins examples/penguins.csv\n  wattle data add shops shops.csv --column zip=category --missing -999"
    )]
    Add {
        /// The data set's name.
        name: Name,
        /// The file; `-` reads the standard input.
        file: PathBuf,
        #[command(flatten)]
        reading: ReadingFlags,
        /// Take the place of other data of this name.
        #[arg(long)]
        replace: bool,
    },
    /// List data sets.
    List,
    /// Show a data set's columns.
    Show {
        /// The data set.
        name: Name,
    },
    /// Remove a data set; models that were trained on it stay.
    Rm {
        /// The data set.
        name: Name,
    },
}

/// How a file is read otherwise than inferred.
#[derive(Debug, Args)]
pub(crate) struct ReadingFlags {
    /// Read a column as numbers or as categories, whatever its values look like.
    #[arg(long = "column", value_name = "NAME=number|category")]
    pub(crate) columns: Vec<String>,
    /// A further text that means that a value is missing.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) missing: Vec<String>,
    /// The character between fields of a CSV file [default: found in the header].
    #[arg(long, value_name = "CHARACTER")]
    pub(crate) delimiter: Option<char>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle train --algorithm linear-regression --data examples/line.csv --target y\n  wattle train --algorithm logistic-regression --data cancer --target diagnosis --name cancer --l2 0.01\n  wattle train examples/jobs/penguins.toml"
)]
pub(crate) struct TrainFlags {
    /// A TOML file with the same keys as the flags; flags given as well win.
    pub(crate) job: Option<PathBuf>,
    /// What to train.
    #[arg(long, value_parser = ["linear-regression", "logistic-regression"])]
    pub(crate) algorithm: Option<String>,
    /// A data set's name, or a file, which is added on the way.
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// The column to predict.
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// The columns to predict it from [default: all others].
    #[arg(long, value_delimiter = ',')]
    pub(crate) features: Option<Vec<String>>,
    /// The model's name [default: made of the data set and the algorithm].
    #[arg(long)]
    pub(crate) name: Option<Name>,
    /// How to minimise the loss [default: lbfgs].
    #[arg(long, value_parser = ["lbfgs", "gd", "sgd"])]
    pub(crate) optimizer: Option<String>,
    /// The length of a step (gd, sgd).
    #[arg(long, value_parser = finite)]
    pub(crate) learning_rate: Option<f64>,
    /// Steps at most (lbfgs, gd).
    #[arg(long)]
    pub(crate) iterations: Option<u64>,
    /// Passes over the rows (sgd).
    #[arg(long)]
    pub(crate) epochs: Option<u64>,
    /// Rows of a step (sgd).
    #[arg(long)]
    pub(crate) batch_size: Option<u64>,
    /// The part of a step that the next one keeps (sgd).
    #[arg(long, value_parser = finite)]
    pub(crate) momentum: Option<f64>,
    /// How the learning rate falls (sgd).
    #[arg(long, value_parser = ["constant", "inverse-scaling", "cosine", "step"])]
    pub(crate) schedule: Option<String>,
    /// The weight of the sum of the coefficients' absolute values.
    #[arg(long, value_parser = finite)]
    pub(crate) l1: Option<f64>,
    /// The weight of half the sum of the coefficients' squares [default: 0 for linear-regression, 0.001 for
    /// logistic-regression].
    #[arg(long, value_parser = finite)]
    pub(crate) l2: Option<f64>,
    /// Scale numbers to mean 0 and standard deviation 1 first [default: true].
    #[arg(long)]
    pub(crate) standardize: Option<bool>,
    /// How much a row of each class counts.
    #[arg(long, value_name = "balanced|CLASS=WEIGHT,…")]
    pub(crate) class_weights: Option<ClassWeights>,
    /// The part of the rows that is held out for metrics and early stopping [default: 0.2].
    #[arg(long, value_parser = finite)]
    pub(crate) validation: Option<f64>,
    /// Stop after so many iterations or epochs without a smaller loss on the held-out rows.
    #[arg(long)]
    pub(crate) early_stopping: Option<u64>,
    /// Stop when the loss or its gradient changes less than this.
    #[arg(long, value_parser = finite)]
    pub(crate) tolerance: Option<f64>,
    /// Decides which rows are held out and in which order the others come [default: 0].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Give the model an intercept [default: true].
    #[arg(long)]
    pub(crate) intercept: Option<bool>,
    /// Threads at most [default: all].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Memory for the rows, as in 2GiB [default: half of what is free].
    #[arg(long)]
    pub(crate) memory: Option<String>,
    /// The model version that this one comes after, for the record.
    #[arg(long)]
    pub(crate) parent: Option<ModelReference>,
    /// Return at once; `wattle jobs follow ID` shows the progress later.
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List the latest jobs.
    List,
    /// Show a job.
    Show {
        /// The job.
        id: String,
    },
    /// Watch a job until it ends.
    Follow {
        /// The job.
        id: String,
    },
    /// Stop a job.
    Cancel {
        /// The job.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List models.
    List,
    /// Show a model and one of its versions.
    #[command(
        after_help = "Examples:\n  wattle models show line\n  wattle models show line:2\n  wattle models show line@champion"
    )]
    Show {
        /// MODEL, MODEL:VERSION or MODEL@ALIAS.
        model: ModelReference,
    },
    /// Make a file from elsewhere the next version of a model.
    #[command(
        after_help = "Examples:\n  wattle models import --name resnet resnet18.onnx\n  wattle models import --name twice examples/pipelines/twice.toml\n  wattle models import --name smollm SmolLM2-135M-Instruct-Q8_0.gguf\n  wattle models import --name smollm ./SmolLM2-135M-Instruct --quantize q8_0\n  wattle models import --name line --coef examples/model.npy --intercept examples/intercept.npy"
    )]
    Import {
        /// The model's name.
        #[arg(long)]
        name: Name,
        /// An ONNX file, a GGUF file, a folder of a Hugging Face model, or a pipeline of deployments (.toml).
        #[arg(required_unless_present = "coef", conflicts_with_all = ["coef", "intercept"])]
        file: Option<PathBuf>,
        /// Store a language model's matrices in fewer bits: q8_0, q6_k, q5_k_m, q4_k_m and others.
        #[arg(long, value_name = "KIND", conflicts_with_all = ["coef", "intercept"])]
        quantize: Option<String>,
        /// A linear model's coefficients, as a NumPy file.
        #[arg(long)]
        coef: Option<PathBuf>,
        /// A linear model's intercepts, as a NumPy file [default: zero].
        #[arg(long, requires = "coef")]
        intercept: Option<PathBuf>,
    },
    /// Write `model.onnx` (or `model.gguf`, `pipeline.toml`) and `manifest.json` into a folder.
    Export {
        /// MODEL, MODEL:VERSION or MODEL@ALIAS.
        model: ModelReference,
        /// The folder; it is made if it does not exist.
        dir: PathBuf,
    },
    /// Let an alias name a version, or show where aliases pointed.
    #[command(
        after_help = "Examples:\n  wattle models alias line:2 champion\n  wattle models alias line champion --remove\n  wattle models alias line"
    )]
    Alias {
        /// MODEL:VERSION to name, or MODEL.
        model: ModelReference,
        /// The alias; without one, the history is shown.
        alias: Option<Name>,
        /// Remove the alias.
        #[arg(long, requires = "alias")]
        remove: bool,
    },
    /// Remove a model, or one version of it.
    Rm {
        /// MODEL or MODEL:VERSION.
        model: ModelReference,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle predict line --json '{\"x\": [1.0]}'\n  wattle predict penguins --csv examples/penguins.csv > predictions.csv"
)]
pub(crate) struct PredictFlags {
    /// The deployment.
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) input: PredictInput,
    #[command(flatten)]
    pub(crate) rows: RowsFlags,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PredictInput {
    /// A JSON file, `-` for the standard input, or the JSON itself.
    #[arg(long, value_name = "FILE|JSON")]
    pub(crate) json: Option<String>,
    /// A CSV (with a header) or Parquet file, `-` for the standard input; columns that the model does not take are left
    /// out.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// How a file of rows to predict is read.
#[derive(Debug, Args)]
pub(crate) struct RowsFlags {
    /// A text that means that a value is missing in the file, beside the usual ones and those of the file that the model
    /// was trained on.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "json")]
    pub(crate) missing: Vec<String>,
    /// The character between fields of a CSV file [default: found in the header].
    #[arg(long, value_name = "CHARACTER", conflicts_with = "json")]
    pub(crate) delimiter: Option<char>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle usage\n  wattle usage --by deployment\n  wattle usage --by day --since 2026-01-01 -o json"
)]
pub(crate) struct UsageFlags {
    /// What to sum by [default: everything together].
    #[arg(long, value_parser = ["deployment", "model", "day"])]
    pub(crate) by: Option<String>,
    /// Only what was used since then: a day (UTC), or an instant as in 2026-01-31T12:00:00Z.
    #[arg(long, value_parser = instant)]
    pub(crate) since: Option<DateTime<Utc>>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle top\n  wattle top --once --sort power\n  wattle top --interval 10 -o json >load.jsonl"
)]
pub(crate) struct TopFlags {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub(crate) interval: f64,
    /// Print what happened in one interval, and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// What to sort deployments by; the key `s` changes it.
    #[arg(long, value_enum, default_value_t = TopOrder::Calls)]
    pub(crate) sort: TopOrder,
}

/// What `wattle top` sorts deployments by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopOrder {
    /// Calls a second.
    Calls,
    /// The 99th percentile of the time that a call takes.
    Latency,
    /// The memory that the model takes.
    Memory,
    /// The power that calls draw.
    Power,
    /// The name.
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Train; the request comes in on the standard input, events go out on the standard output.
    Train,
    /// Check a model from outside.
    Inspect,
    /// Serve a model; the order comes in on the standard input, whose end is its end.
    Serve,
}

/// JSON, in which a job travels, knows no NaN and no infinity.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "write a number".to_owned())?;
    if number.is_finite() { Ok(number) } else { Err("write a finite number".into()) }
}

/// A length of time that a person may want to wait between two looks.
fn interval(text: &str) -> Result<f64, String> {
    let seconds = finite(text)?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("write seconds from 0.1 to 3600".into()) }
}

/// A day, which is its first instant in UTC, or an instant as RFC 3339 writes it.
fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    let instant = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "write a day (UTC) as in 2026-01-31, or an instant as in 2026-01-31T12:00:00Z".to_owned())?;
    Ok(instant.with_timezone(&Utc))
}
