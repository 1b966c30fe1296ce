use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use uuid::Uuid;
use wattle_store::{Job, JobState, ModelVersion};

use super::{Context, models};
use crate::{
    flags::{JobsCommand, OutputFormat},
    output::{note, pairs, print, print_line, progress_is_watched, quantity, significant, table},
};

/// The columns of the narrowest terminal in which all of a job's progress is seen.
const COLUMNS: usize = 80;
/// The stage, the bar and a space after each.
const BAR: &str = "{prefix:10} {bar:10} {msg}";
const BAR_COLUMNS: usize = 10 + 1 + 10 + 1;

pub(crate) async fn run(context: &Context, command: JobsCommand) -> Result<ExitCode> {
    match command {
        JobsCommand::List => {
            let jobs: Vec<Job> = context.client.get("/api/v1/training-jobs").await?;
            print(context.output, &jobs, |jobs| {
                if jobs.is_empty() {
                    return "no training jobs: `wattle train` starts one".into();
                }
                let row = |job: &Job| {
                    let result = job.result.as_ref().map(ToString::to_string).or_else(|| job.error.clone());
                    vec![
                        job.id.to_string(),
                        job.model.to_string(),
                        job.state.to_string(),
                        job.created_at.format("%Y-%m-%d %H:%M:%S").to_string(),
                        job.energy.as_ref().map_or_else(|| "-".into(), |energy| quantity(energy.joules, "J")),
                        result.unwrap_or_default(),
                    ]
                };
                table(&["id", "model", "state", "created (UTC)", "#energy", "result"], jobs.iter().map(row))
            })?;
            Ok(ExitCode::SUCCESS)
        }
        JobsCommand::Show { id } => {
            let job: Job = context.client.get(&format!("/api/v1/training-jobs/{}", job_id(&id)?)).await?;
            print(context.output, &job, show)?;
            Ok(ExitCode::SUCCESS)
        }
        JobsCommand::Follow { id } => {
            let Some(job) = follow(context, job_id(&id)?).await? else { return Ok(interrupted()) };
            print_end(context, &job)
        }
        JobsCommand::Cancel { id } => {
            let job: Job = context.client.delete_for(&format!("/api/v1/training-jobs/{}", job_id(&id)?)).await?;
            print(context.output, &job, show)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Watches a job until it ends, with a bar while a person looks on; `None` when Ctrl-C ends the watching, not the job.
pub(crate) async fn follow(context: &Context, id: Uuid) -> Result<Option<Job>> {
    tokio::select! {
        job = watch(context, id) => job.map(Some),
        pressed = tokio::signal::ctrl_c() => {
            pressed.context("cannot listen for Ctrl-C")?;
            note(&format!("job {id} goes on: wattle jobs follow {id}, or wattle jobs cancel {id}"));
            Ok(None)
        }
    }
}

/// How a command ends that Ctrl-C ended, as shells have it: 128 and the number of the signal.
pub(crate) fn interrupted() -> ExitCode {
    ExitCode::from(130)
}

fn job_id(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| anyhow!("{text} is not a job's id: `wattle jobs list` lists them"))
}

async fn watch(context: &Context, id: Uuid) -> Result<Job> {
    let bar = if progress_is_watched() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template(BAR)?);
    bar.set_prefix("queued");
    let mut last: Option<Job> = None;
    context
        .client
        .events(&format!("/api/v1/training-jobs/{id}/events"), |job: Job| {
            if let (Some(progress), false) = (&job.progress, job.state.is_final()) {
                draw(&bar, progress);
            } else {
                bar.set_prefix(job.state.to_string());
                bar.tick();
            }
            last = Some(job);
        })
        .await
        .context("the job goes on")?;
    bar.finish_and_clear();
    match last {
        Some(job) if job.state.is_final() => Ok(job),
        // The server went away in between; it may be back.
        _ => context.client.get(&format!("/api/v1/training-jobs/{id}")).await,
    }
}

fn draw(bar: &ProgressBar, progress: &Value) {
    bar.set_prefix(progress.get("stage").and_then(Value::as_str).unwrap_or_default().to_owned());
    bar.update(|state| {
        state.set_len(progress.get("of").and_then(Value::as_u64).unwrap_or(0));
        state.set_pos(progress.get("iteration").and_then(Value::as_u64).unwrap_or(0));
    });
    bar.set_message(message(&parts(progress)));
}

/// As many of the parts as stand beside the bar in one line.
fn message(parts: &[String]) -> String {
    let mut message = String::new();
    for part in parts {
        let gap = if message.is_empty() { "" } else { "  " };
        if BAR_COLUMNS + message.chars().count() + gap.len() + part.chars().count() <= COLUMNS {
            message = format!("{message}{gap}{part}");
        }
    }
    message
}

/// What is known of a job's progress, the most important first.
fn parts(progress: &Value) -> Vec<String> {
    let number = |key: &str| progress.get(key).and_then(Value::as_f64);
    let left = number("seconds_left").map(|seconds| match seconds {
        seconds if seconds <= 99.0 => format!("≤{} s left", seconds.ceil()),
        seconds if seconds <= 99.0 * 60.0 => format!("≤{} min left", (seconds / 60.0).ceil()),
        seconds if seconds <= 999.0 * 3600.0 => format!("≤{} h left", (seconds / 3600.0).ceil()),
        seconds => format!("≤{} d left", figure((seconds / 86_400.0).ceil())),
    });
    let loss = number("loss").map(|loss| format!("loss {}", figure(loss)));
    let held_out = number("validation_loss").map(|loss| format!("held out {}", figure(loss)));
    let rate = number("rows_per_second").map(|rate| format!("{} rows/s", quantity(rate.round(), "").trim_end()));
    let done = number("iteration").zip(number("of")).map(|(done, of)| format!("{done} of {of}"));
    [left, loss, held_out, rate, done].into_iter().flatten().collect()
}

/// A number with three significant digits in at most seven characters, or a few more beyond 1e±100.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        1e-3..1e6 => significant(value),
        _ => format!("{value:.2e}"),
    }
}

/// Prints an ended job; one that made no model is a failure.
pub(crate) fn print_end(context: &Context, job: &Job) -> Result<ExitCode> {
    if context.output == OutputFormat::Table && job.state != JobState::Succeeded {
        let reason = job.error.clone().unwrap_or_else(|| "it made no model".into());
        return Err(anyhow!("job {} is {}: {reason}", job.id, job.state));
    }
    print(context.output, job, show)?;
    Ok(if job.state == JobState::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what a job that succeeded made.
pub(crate) async fn print_result(context: &Context, job: &Job) -> Result<()> {
    let Some(id) = &job.result else { return Ok(()) };
    let path = format!("/api/v1/models/{}/versions/{}", id.model, id.version);
    let version: ModelVersion = context.client.get(&path).await?;
    print_line(models::show_version(&version).trim_end())?;
    Ok(())
}

fn show(job: &Job) -> String {
    let mut rows = vec![
        ("job", job.id.to_string()),
        ("model", job.model.to_string()),
        ("state", job.state.to_string()),
        ("created", job.created_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ];
    if let Some(progress) = &job.progress
        && !job.state.is_final()
    {
        let stage = progress.get("stage").and_then(Value::as_str).map(str::to_owned);
        rows.push(("progress", stage.into_iter().chain(parts(progress)).collect::<Vec<_>>().join(", ")));
    }
    if let Some(error) = &job.error {
        rows.push(("error", error.clone()));
    }
    if let Some(version) = &job.result {
        rows.push(("version", version.to_string()));
    }
    rows.push(("processor", quantity(job.cpu_seconds, "s")));
    if let Some(energy) = &job.energy {
        rows.push(("energy", models::energy_text(energy)));
    }
    pairs(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_is_seen_whole_in_eighty_columns() {
        let progress = json!({
            "stage": "fitting", "iteration": 37, "of": 1000, "seconds_left": 3541.2, "rows_per_second": 461_234_567.0,
            "loss": 0.001_234_5, "validation_loss": 0.001_345_6
        });
        let shown = message(&parts(&progress));
        assert_eq!(shown, "≤60 min left  loss 0.00123  held out 0.00135  461 M rows/s");
        assert!(BAR_COLUMNS + shown.chars().count() <= COLUMNS, "{shown}");
    }

    #[test]
    fn progress_of_any_size_keeps_to_the_line() {
        let sizes = [0.0, 1e-300, 1.2e-9, 0.099_99, 0.5, 12.3, 999.6, 54_321.0, 999_999.9, 1.5e9, 2.5e12, 1e300];
        for (index, size) in sizes.into_iter().enumerate() {
            for other in &sizes[index..] {
                let progress = json!({
                    "iteration": 3_999_999_999_u64, "of": 4_000_000_000_u64, "seconds_left": other,
                    "rows_per_second": size, "loss": other, "validation_loss": size
                });
                let shown = message(&parts(&progress));
                assert!(BAR_COLUMNS + shown.chars().count() <= COLUMNS, "{shown}");
                assert!(shown.contains("left") && shown.contains("  loss "), "{shown}");
            }
        }
    }
}
