use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use wattle_store::Job;

use super::{Context, data, jobs};
use crate::{
    flags::{OutputFormat, TrainFlags},
    output::{note, print},
};

pub(crate) async fn run(context: &Context, flags: TrainFlags) -> Result<ExitCode> {
    let mut keys = match &flags.job {
        None => Map::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is not a job file", path.display()))?
        }
    };
    for (key, value) in given(&flags) {
        keys.insert(key.to_owned(), value);
    }
    for (key, example) in [("algorithm", "linear-regression"), ("data", "FILE"), ("target", "COLUMN")] {
        if !keys.contains_key(key) {
            bail!("--{key} is needed, as in --{key} {example}, or in a job file");
        }
    }
    if let Some(data) = keys.get("data").and_then(Value::as_str) {
        let name = data::resolve(context, data).await?;
        keys.insert("data".into(), json!(name));
    }
    let job: Job = context.client.post("/api/v1/training-jobs", &keys).await?;
    if flags.detach {
        let follow = format!("job {} is queued: `wattle jobs follow {}` shows its progress", job.id, job.id);
        print(context.output, &job, |_| follow)?;
        return Ok(ExitCode::SUCCESS);
    }
    let job = jobs::follow(context, job.id).await?;
    if let (Some(version), OutputFormat::Table) = (&job.result, context.output) {
        jobs::print_result(context, &job).await?;
        note(&format!("\nnext: wattle deploy {version}"));
        return Ok(ExitCode::SUCCESS);
    }
    jobs::print_end(context, &job)
}

/// The keys that were given as flags.
fn given(flags: &TrainFlags) -> Vec<(&'static str, Value)> {
    fn value<T: serde::Serialize>(flag: &Option<T>) -> Option<Value> {
        flag.as_ref().map(|flag| json!(flag))
    }
    let all = [
        ("algorithm", value(&flags.algorithm)),
        ("data", value(&flags.data)),
        ("target", value(&flags.target)),
        ("features", value(&flags.features)),
        ("name", value(&flags.name)),
        ("optimizer", value(&flags.optimizer)),
        ("learning-rate", value(&flags.learning_rate)),
        ("iterations", value(&flags.iterations)),
        ("epochs", value(&flags.epochs)),
        ("batch-size", value(&flags.batch_size)),
        ("momentum", value(&flags.momentum)),
        ("schedule", value(&flags.schedule)),
        ("l1", value(&flags.l1)),
        ("l2", value(&flags.l2)),
        ("standardize", value(&flags.standardize)),
        ("class-weights", value(&flags.class_weights)),
        ("validation", value(&flags.validation)),
        ("early-stopping", value(&flags.early_stopping)),
        ("tolerance", value(&flags.tolerance)),
        ("seed", value(&flags.seed)),
        ("intercept", value(&flags.intercept)),
        ("threads", value(&flags.threads)),
        ("memory", value(&flags.memory)),
        ("parent", value(&flags.parent)),
    ];
    all.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))).collect()
}
