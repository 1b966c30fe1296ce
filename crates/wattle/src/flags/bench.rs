use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::TypedValueParser, value_parser};
use wattle_core::Name;

use super::RowsFlags;

/// The most connections of `wattle bench`; a server rarely takes more from one machine.
const MOST_CONNECTIONS: usize = 10_000;
/// The most requests a second of `wattle bench`, which sends from one thread.
const MOST_RPS: f64 = 100_000.0;
/// The longest that `wattle bench` sends, an hour.
const MOST_BENCH: Duration = Duration::from_secs(3600);
/// The most rows of a request of `wattle bench`.
const MOST_ROWS: usize = 1_000_000;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle bench line\n  wattle bench line --concurrency 64 --duration 30s\n  wattle bench line --rps 500 --arrivals poisson\n  wattle bench penguins --csv examples/penguins.csv --protocol v2\n\nCtrl-C ends it early, and prints what was measured until then."
)]
pub(crate) struct BenchFlags {
    /// The deployment.
    pub(crate) name: Name,
    /// Connections, each of which sends its next request when the last one is answered; with --rps, the most requests
    /// under way [default: 8; with --rps those of a second, at most 256].
    #[arg(long, value_name = "C", value_parser = count(MOST_CONNECTIONS))]
    pub(crate) concurrency: Option<usize>,
    /// Send so many requests a second, whether or not the server keeps up; a request's latency counts from when it was
    /// due.
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(crate) rps: Option<f64>,
    /// How the requests of --rps follow each other.
    #[arg(long, value_enum, default_value_t = Arrivals::Constant, requires = "rps")]
    pub(crate) arrivals: Arrivals,
    /// How long to measure, as in 30s or 2m.
    #[arg(long, default_value = "10s", value_parser = some_time)]
    pub(crate) duration: Duration,
    /// How long to send before measuring.
    #[arg(long, default_value = "1s", value_parser = time)]
    pub(crate) warmup: Duration,
    /// How long to wait for an answer.
    #[arg(long, default_value = "30s", value_parser = some_time)]
    pub(crate) timeout: Duration,
    /// How to call.
    #[arg(long, value_enum, default_value_t = BenchProtocol::Predict)]
    pub(crate) protocol: BenchProtocol,
    #[command(flatten)]
    pub(crate) input: BenchInput,
    /// Rows of a request [default: 1].
    #[arg(long, value_name = "N", value_parser = count(MOST_ROWS), conflicts_with = "json")]
    pub(crate) batch: Option<usize>,
    #[command(flatten)]
    pub(crate) rows: RowsFlags,
}

/// What to send; zeros by the deployment's signature where nothing is given.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct BenchInput {
    /// The body of every request: a JSON file, `-` for the standard input, or the JSON itself.
    #[arg(long, value_name = "FILE|JSON")]
    pub(crate) json: Option<String>,
    /// A CSV (with a header) or Parquet file, `-` for the standard input, whose rows are sent in turn
    /// [default: zeros, by the deployment's signature].
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrivals {
    /// Evenly.
    Constant,
    /// At random, as those of many callers who know nothing of each other.
    Poisson,
}

/// The address and the form of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchProtocol {
    /// `POST /models/{deployment}/predict`.
    Predict,
    /// The Open Inference Protocol's `infer`, tensors in JSON.
    V2,
    /// The same with binary tensors.
    V2Binary,
}

/// A time of at most an hour, as in 500ms, 10s or 2m.
fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "write a time as in 500ms, 10s or 2m".to_owned())?;
    if time <= MOST_BENCH {
        Ok(time)
    } else {
        Err(format!("{} is the longest", humantime::format_duration(MOST_BENCH)))
    }
}

/// The same, and not none.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("it must be longer than nothing".into()) } else { Ok(time) }
}

/// Requests a second, of which a slow model takes less than one.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "write a number".to_owned())?;
    if rate > 0.0 && rate <= MOST_RPS { Ok(rate) } else { Err(format!("write a number above 0 and up to {MOST_RPS}")) }
}

/// A whole number from 1 to `most`.
fn count(most: usize) -> impl TypedValueParser<Value = usize> {
    value_parser!(u64).range(1..=most as u64).try_map(usize::try_from)
}
