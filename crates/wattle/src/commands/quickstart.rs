//! The whole path on real tables, with a server of its own that is thrown away.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use wattle_api::service::ServerInfo;
use wattle_core::{Energy, Name, grouped};
use wattle_deploy::DeploymentRequest;
use wattle_meter::UsageLine;
use wattle_store::{Dataset, Deployment, Job, JobState, ModelVersion};

use super::{Context, data, models, predict};
use crate::{
    client::Client,
    config::keys::{Key, keys},
    flags::{OutputFormat, QuickstartFlags},
    output::{print_line, quantity},
};

/// The tables come with the binary, so that the quick start works wherever it is.
const TABLES: [(&str, &str); 3] = [
    ("line", include_str!("../../../../examples/line.csv")),
    ("breast_cancer", include_str!("../../../../examples/breast_cancer.csv")),
    ("penguins", include_str!("../../../../examples/penguins.csv")),
];

/// Calls whose latency is told.
const CALLS: usize = 500;

pub(crate) async fn run(context: &Context, flags: &QuickstartFlags) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("wattle-").tempdir().context("cannot make a temporary folder")?;
    let mut server = Server::start(folder.path(), flags.keep).await?;
    let context = Context { client: Client::new(&server.url, None)?, ca_file: None, output: context.output };
    let shown = tokio::select! {
        shown = show(&context, folder.path()) => shown,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    if flags.keep && shown.is_ok() {
        print_line(&next_steps(&server.url, server.child.id(), folder.path()))?;
        let _ = folder.keep();
        return Ok(());
    }
    server.stop().await?;
    shown
}

struct Server {
    child: Child,
    url: String,
}

impl Server {
    async fn start(folder: &Path, keep: bool) -> Result<Server> {
        let log = fs::File::create(folder.join("server.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        // What the user's own server is told is not for this one.
        for variable in keys().iter().flat_map(Key::variables) {
            command.env_remove(variable);
        }
        command
            .args(["serve", "--no-config", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(!keep);
        if keep {
            // It is to outlive this terminal's Ctrl-C.
            command.process_group(0);
        }
        let mut child = command.spawn().context("cannot start the server")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        let url = line.as_deref().and_then(|line| line.split_whitespace().find(|word| word.starts_with("http://")));
        match url {
            Some(url) => Ok(Server { child, url: url.to_owned() }),
            None => {
                let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
                bail!("the server did not start: {}", log.trim())
            }
        }
    }

    /// Asks the server to end, and waits until it has.
    async fn stop(&mut self) -> Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        self.child.wait().await?;
        Ok(())
    }
}

/// One trained, deployed and called table.
struct Shown {
    dataset: Dataset,
    version: ModelVersion,
    answer: Value,
}

async fn show(context: &Context, folder: &Path) -> Result<()> {
    let info: ServerInfo = context.client.get("/api/v1/server").await?;
    say(context, &format!("\n  Wattle {} quick start: from a table to a priced call\n", info.version))?;

    let line = path(
        context,
        folder,
        "line",
        json!({ "algorithm": "linear-regression", "target": "y" }),
        json!({ "x": [1.0] }),
    )
    .await?;
    section(context, 1, "A line: y = 2 x + 1 and a little noise", &line)?;
    let learnt = models::coefficients(&line.version.manifest.metrics).context("the line has no coefficients")?;
    say(context, &format!("     learnt     y = {learnt}"))?;
    say(context, &format!("     a call     {{\"x\": [1.0]}} -> {}\n", line.answer))?;

    let cancer = json!({ "algorithm": "logistic-regression", "target": "diagnosis", "l2": 0.01, "name": "cancer" });
    let cancer = path(context, folder, "breast_cancer", cancer, Value::Null).await?;
    section(context, 2, "Breast cancer: benign or malignant, from 30 measurements", &cancer)?;
    say(context, &format!("     held out   {}\n", held_out(&cancer.version)))?;

    let penguin = json!({
        "rows": [{ "island": "Biscoe", "bill_length_mm": 47.5, "bill_depth_mm": 15.0, "flipper_length_mm": 218,
                   "body_mass_g": null, "sex": "female", "year": 2009 }]
    });
    let spec = json!({ "algorithm": "logistic-regression", "target": "species", "l2": 0.001, "name": "penguins" });
    let penguins = path(context, folder, "penguins", spec, penguin).await?;
    section(context, 3, "Penguins: three species, from numbers and categories with gaps", &penguins)?;
    say(context, &format!("     held out   {}", held_out(&penguins.version)))?;
    let species = penguins.answer.get("y_pred").map(Value::to_string).unwrap_or_default();
    say(context, &format!("     a call     Biscoe, bill 47.5 x 15.0 mm, mass unknown -> {species}\n"))?;

    let latency = latency(context, &line.version.model).await?;
    let usage: Vec<UsageLine> = context.client.get("/api/v1/usage").await?;
    let (training, call) = (sum(&usage, "train"), sum(&usage, "predict"));
    let calls: u64 = usage.iter().filter(|line| line.activity.as_str() == "predict").map(|line| line.requests).sum();
    say(
        context,
        &format!(
            "  Latency      {CALLS} calls, one after the other: p50 {}, p99 {}",
            quantity(latency.0, "s"),
            quantity(latency.1, "s")
        ),
    )?;
    let scaled = |energy: &Energy, by: f64| Energy {
        joules_low: energy.joules_low * by,
        joules: energy.joules * by,
        joules_high: energy.joules_high * by,
        ..energy.clone()
    };
    if let (Some(training), Some(call)) = (&training, &call) {
        let a_call = scaled(call, 1.0 / calls.max(1) as f64);
        let range = |energy: &Energy| {
            format!(
                "{} ({} to {})",
                quantity(energy.joules, "J"),
                quantity(energy.joules_low, "J"),
                quantity(energy.joules_high, "J")
            )
        };
        say(context, &format!("  Energy       three trainings  {}", range(training)))?;
        say(context, &format!("               a call           {}", range(&a_call)))?;
        say(context, &format!("               {}, by {}", training.label, training.source))?;
    }
    if context.output == OutputFormat::Json {
        let summary = json!({
            "coefficients": line.version.manifest.metrics.get("coefficients"),
            "intercept": line.version.manifest.metrics.get("intercept"),
            "answer": line.answer,
            "held_out": {
                "cancer": cancer.version.manifest.metrics.get("held_out"),
                "penguins": penguins.version.manifest.metrics.get("held_out"),
            },
            "latency_seconds": { "p50": latency.0, "p99": latency.1 },
            "energy": { "training": training, "calls": call, "number_of_calls": calls },
        });
        print_line(&serde_json::to_string_pretty(&summary)?)?;
    }
    say(context, "")
}

/// Adds a table, trains on it, deploys the model and, with an input, calls it.
async fn path(context: &Context, folder: &Path, table: &str, mut spec: Value, input: Value) -> Result<Shown> {
    let text = TABLES.iter().find(|(name, _)| *name == table).map(|(_, text)| *text).unwrap_or_default();
    let file: PathBuf = folder.join(format!("{table}.csv"));
    fs::write(&file, text)?;
    let name = data::add_quietly(context, &file).await?;
    spec["data"] = json!(name);
    let job: Job = context.client.post("/api/v1/training-jobs", &spec).await?;
    let mut last = job;
    context.client.events(&format!("/api/v1/training-jobs/{}/events", last.id), |job: Job| last = job).await?;
    let (JobState::Succeeded, Some(id)) = (last.state, &last.result) else {
        bail!("training on {table} is {}: {}", last.state, last.error.unwrap_or_default());
    };
    let version: ModelVersion =
        context.client.get(&format!("/api/v1/models/{}/versions/{}", id.model, id.version)).await?;
    let request =
        DeploymentRequest { default: table == "line", ..DeploymentRequest::of(id.model.to_string().parse()?) };
    let deployment: Deployment = context.client.post("/api/v1/deployments", &request).await?;
    let answer = match input {
        Value::Null => Value::Null,
        input => predict::call(&context.client, &deployment.name, &input).await?.0,
    };
    let dataset: Dataset = context.client.get(&format!("/api/v1/datasets/{name}")).await?;
    Ok(Shown { dataset, version, answer })
}

fn section(context: &Context, number: u32, title: &str, shown: &Shown) -> Result<()> {
    say(context, &format!("  {number}  {title}"))?;
    let manifest = &shown.version.manifest;
    let training = manifest.training.as_ref();
    say(
        context,
        &format!(
            "     trained    {} on {} rows of {} columns in {}, {}",
            manifest.algorithm.as_deref().unwrap_or_default(),
            grouped(shown.dataset.rows),
            shown.dataset.schema.columns.len(),
            training.map_or_else(String::new, |training| quantity(training.wall_seconds, "s")),
            training.map_or_else(String::new, |training| quantity(training.energy.joules, "J")),
        ),
    )?;
    say(
        context,
        &format!("     stored     {}:{} ({})", shown.version.model, shown.version.version, manifest.digest.short()),
    )
}

fn held_out(version: &ModelVersion) -> String {
    let figure = |name: &str| {
        version.manifest.metrics.get("held_out").and_then(|metrics| metrics.get(name)).and_then(Value::as_f64)
    };
    let text = |label: &str, name: &str| figure(name).map(|value| format!("{label} {value:.3}"));
    let rows = figure("rows").map(|rows| format!("on {rows} rows the model never saw"));
    let parts = [text("accuracy", "accuracy"), text("ROC AUC", "roc_auc"), text("log-loss", "log_loss"), rows];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The median and the 99th percentile of calls one after the other, in seconds.
async fn latency(context: &Context, deployment: &Name) -> Result<(f64, f64)> {
    let input = json!({ "x": [1.0] });
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let started = Instant::now();
        predict::call(&context.client, deployment, &input).await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let at = |quantile: f64| times.get((quantile * (CALLS - 1) as f64) as usize).map_or(0.0, Duration::as_secs_f64);
    Ok((at(0.5), at(0.99)))
}

fn sum(usage: &[UsageLine], activity: &str) -> Option<Energy> {
    let mut lines = usage.iter().filter(|line| line.activity.as_str() == activity).map(|line| &line.energy);
    let mut sum = lines.next()?.clone();
    for energy in lines {
        sum += energy;
    }
    Some(sum)
}

fn next_steps(url: &str, id: Option<u32>, folder: &Path) -> String {
    // The server still writes into its folder while it closes.
    let stop = |id: u32| {
        format!("    kill {id}; while kill -0 {id} 2>/dev/null; do sleep 0.1; done; rm -r {}\n", folder.display())
    };
    let stop = id.map_or_else(String::new, stop);
    format!(
        "  The server goes on at {url}. Try next:\n\n    export WATTLE_URL={url}\n    wattle ps\n    curl -d '{{\"x\": [1.0, 2.5]}}' {url}/predict\n    wattle models show cancer\n    wattle usage --by deployment\n\n  Stop it with\n\n{stop}"
    )
}

/// Prints a line of the page; scripts get one JSON object at the end instead.
fn say(context: &Context, line: &str) -> Result<()> {
    if context.output == OutputFormat::Table {
        print_line(line)?;
    }
    Ok(())
}
