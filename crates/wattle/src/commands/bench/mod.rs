//! `wattle bench`: load on a deployment, in a closed or in an open loop.

mod body;
mod chart;
mod clock;
mod connection;
mod load;
mod report;
mod schedule;
mod tally;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::MissedTickBehavior,
};
use wattle_core::{Name, grouped};
use wattle_meter::process_cpu_seconds;
use wattle_serve::ReplicaStatus;

use self::{
    body::{Body, bodies},
    connection::{Connection, Target},
    load::{Load, Plan},
    report::{Report, Settings},
    schedule::Schedule,
};
use super::{Context, jobs::interrupted};
use crate::{
    client::{Client, Refusal},
    flags::BenchFlags,
    output::{note, print, progress_is_watched, quantity},
};

/// Connections of a closed loop, where nothing is said.
const CONNECTIONS: usize = 8;
/// The most connections of an open loop, where nothing is said.
const MOST_CONNECTIONS: usize = 256;
/// Connections that are made at once.
const CONNECTING: usize = 64;
/// Steps of the progress bar.
const STEPS: u64 = 1000;

pub(crate) async fn run(context: &Context, flags: BenchFlags) -> Result<ExitCode> {
    let client = &context.client;
    if !client.url().starts_with("http://") {
        bail!("cannot put load on {}: name an address that begins with http://", client.url());
    }
    let bodies = bodies(client, &flags).await?;
    let path = body::path(flags.protocol, &flags.name);
    try_once(client, &path, &bodies[0]).await?;

    let settings = settings(client, &flags);
    allow_files();
    let target = Target::new(&format!("{}{path}", client.url()), bodies).await?;
    let connections = connect(&target, settings.connections, flags.timeout).await?;
    let before = status(client, &flags.name).await?;
    let load = Load::new(
        target,
        Plan {
            warmup: flags.warmup,
            duration: flags.duration,
            timeout: flags.timeout,
            schedule: flags.rps.map(|rate| Schedule::new(rate, flags.arrivals)),
        },
        settings.connections,
    )?;
    let mut report = drive(Arc::new(load), connections, settings).await?;
    // A server that has gone meanwhile takes nothing away from what was measured.
    report.mean_compute_ms = status(client, &flags.name).await.ok().and_then(|after| mean_compute_ms(&before, &after));
    print(context.output, &report, Report::show)?;
    Ok(if report.interrupted { interrupted() } else { ExitCode::SUCCESS })
}

/// Sends until the time is over or Ctrl-C is pressed, and shows how it goes while a person watches.
async fn drive(load: Arc<Load>, connections: Vec<Connection>, settings: Settings) -> Result<Report> {
    let mut pressed = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let bar = if progress_is_watched() { ProgressBar::new(STEPS) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{bar:20} {msg}")?);
    let cpu_seconds = process_cpu_seconds();
    let mut at_work = JoinSet::new();
    for connection in connections {
        let load = Arc::clone(&load);
        at_work.spawn(async move { load.work(connection).await });
    }
    let ended = wait(&load, &mut at_work, &mut pressed, &bar).await?;
    bar.finish_and_clear();

    let elapsed = load.elapsed();
    let mut report = Report::new(settings, &load.tally(), load.measured().as_secs_f64());
    report.interrupted = load.is_stopped();
    report.unsent = report.unsent.map(|_| load.unsent(ended));
    report.client_cpu = (process_cpu_seconds() - cpu_seconds) / elapsed.as_secs_f64();
    Ok(report)
}

/// Waits for the connections to end, and tells until when they were to send. The first Ctrl-C lets them read the answers
/// that they wait for, the second one does not.
async fn wait(load: &Load, at_work: &mut JoinSet<()>, pressed: &mut Signal, bar: &ProgressBar) -> Result<Instant> {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopped = None;
    loop {
        tokio::select! {
            ended = at_work.join_next() => match ended {
                Some(ended) => ended?,
                None => break,
            },
            _ = pressed.recv() => {
                if load.is_stopped() {
                    break;
                }
                load.stop();
                stopped = Some(Instant::now());
                note("stopping: waiting for the last answers; Ctrl-C again does without them");
            }
            _ = tick.tick() => draw(bar, load),
        }
    }
    Ok(stopped.unwrap_or_else(Instant::now))
}

fn draw(bar: &ProgressBar, load: &Load) {
    let tally = load.tally();
    bar.set_position((load.progress() * STEPS as f64) as u64);
    let mut message = format!("{} answered", grouped(tally.answered));
    if !tally.latency.is_empty() {
        let at = |quantile| quantity(tally.latency.value_at_quantile(quantile) as f64 / 1e9, "s");
        message += &format!("  p50 {}  p99 {}", at(0.5), at(0.99));
    }
    if tally.failed() > 0 {
        message += &format!("  {} errors", grouped(tally.failed()));
    }
    bar.set_message(message);
}

/// One call in advance: it loads the model, and what is wrong with the request is told instead of counted. A server that
/// has too much to do already may refuse it.
async fn try_once(client: &Client, path: &str, body: &Body) -> Result<()> {
    let request = client.request(Method::POST, path).headers(body.headers.clone()).body(body.bytes.clone());
    match client.send(request).await {
        Ok(response) => response.bytes().await.map(drop).context("the server's answer cannot be read"),
        Err(error) => match error.downcast_ref::<Refusal>().map(|refusal| refusal.status) {
            Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => Ok(()),
            _ => Err(error),
        },
    }
}

fn settings(client: &Client, flags: &BenchFlags) -> Settings {
    let word = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
    // More would wait for nothing, unless answers take longer than a second.
    let open = |rate: f64| (rate.ceil() as usize).clamp(1, MOST_CONNECTIONS);
    Settings {
        deployment: flags.name.clone(),
        url: client.url().to_owned(),
        protocol: word(flags.protocol.to_possible_value()).unwrap_or_default(),
        connections: flags.concurrency.unwrap_or_else(|| flags.rps.map_or(CONNECTIONS, open)),
        rps: flags.rps,
        arrivals: flags.rps.and(word(flags.arrivals.to_possible_value())),
        warmup_seconds: flags.warmup.as_secs_f64(),
    }
}

async fn connect(target: &Target, count: usize, timeout: Duration) -> Result<Vec<Connection>> {
    let opening = stream::iter(0..count).map(|_| Connection::open(target, timeout)).buffer_unordered(CONNECTING);
    opening.try_collect().await.context("cannot make so many connections")
}

/// Connections are files, of which a shell allows few until asked.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, connecting tells it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

async fn status(client: &Client, name: &Name) -> Result<ReplicaStatus> {
    client.get(&format!("/api/v1/deployments/{name}")).await
}

/// The server's mean time in the engine between two looks at what it counts.
fn mean_compute_ms(before: &ReplicaStatus, after: &ReplicaStatus) -> Option<f64> {
    let total = |status: &ReplicaStatus| status.model.mean_compute_ms.unwrap_or(0.0) * status.model.requests as f64;
    // A version that was deployed meanwhile counts from zero.
    let calls = after.model.requests.checked_sub(before.model.requests).filter(|calls| *calls > 0)?;
    Some(((total(after) - total(before)) / calls as f64).max(0.0))
}
