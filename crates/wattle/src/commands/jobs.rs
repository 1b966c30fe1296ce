use std::process::ExitCode;

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use uuid::Uuid;
use wattle_store::{Job, JobState, ModelVersion};

use super::{Context, models};
use crate::{
    client::path_part,
    flags::{JobsCommand, OutputFormat},
    output::{grouped, pairs, print, print_line, progress_is_watched, quantity, significant, table},
};

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
            let job: Job = context.client.get(&format!("/api/v1/training-jobs/{}", path_part(&id))).await?;
            print(context.output, &job, show)?;
            Ok(ExitCode::SUCCESS)
        }
        JobsCommand::Follow { id } => {
            let job = follow(
                context,
                id.parse().map_err(|_| anyhow!("{id} is not a job's id: `wattle jobs list` lists them"))?,
            )
            .await?;
            print_end(context, &job)
        }
        JobsCommand::Cancel { id } => {
            let job: Job = context.client.delete_for(&format!("/api/v1/training-jobs/{}", path_part(&id))).await?;
            print(context.output, &job, show)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Watches a job until it ends, with a bar while a person looks on.
pub(crate) async fn follow(context: &Context, id: Uuid) -> Result<Job> {
    let bar = if progress_is_watched() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{prefix:10} {bar:30} {pos}/{len}  {wide_msg}")?);
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
        .await?;
    bar.finish_and_clear();
    match last {
        Some(job) if job.state.is_final() => Ok(job),
        // The server went away in between; it may be back.
        _ => context.client.get(&format!("/api/v1/training-jobs/{id}")).await,
    }
}

fn draw(bar: &ProgressBar, progress: &Value) {
    let number = |key: &str| progress.get(key).and_then(Value::as_f64);
    bar.set_prefix(progress.get("stage").and_then(Value::as_str).unwrap_or_default().to_owned());
    bar.update(|state| {
        state.set_len(progress.get("of").and_then(Value::as_u64).unwrap_or(0));
        state.set_pos(progress.get("iteration").and_then(Value::as_u64).unwrap_or(0));
    });
    let mut parts = Vec::new();
    if let Some(loss) = number("loss") {
        parts.push(format!("loss {}", significant(loss)));
    }
    if let Some(loss) = number("validation_loss") {
        parts.push(format!("held-out loss {}", significant(loss)));
    }
    if let Some(rate) = number("rows_per_second") {
        parts.push(format!("{} rows/s", grouped(rate as u64)));
    }
    if let Some(seconds) = number("seconds_left") {
        parts.push(format!("at most {} s left", seconds.ceil()));
    }
    bar.set_message(parts.join("  "));
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
        rows.push(("progress", progress.to_string()));
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
