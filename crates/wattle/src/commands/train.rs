use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use wattle_store::Job;
use wattle_train::spec::TrainingSpec;

use super::{Context, data, jobs};
use crate::{
    flags::{OutputFormat, TrainFlags},
    output::{note, print},
};

/// The keys that every job needs, with what may stand there.
const NEEDED: [(&str, &str); 3] = [("algorithm", "linear-regression"), ("data", "FILE"), ("target", "COLUMN")];

const NUMBER: &str = "a number";
const WHOLE_NUMBER: &str = "a whole number";
const TRUE_OR_FALSE: &str = "true or false";

/// What a key of a job file must be, and an example. The keys that are not here have a syntax of their own, and tell it.
const FORMS: [(&str, &str, &str); 21] = [
    ("algorithm", "linear-regression or logistic-regression", "\"linear-regression\""),
    ("data", "a data set's name or a file, in quotes", "\"penguins\""),
    ("target", "a column, in quotes", "\"species\""),
    ("features", "a list of columns", "[\"island\", \"sex\"]"),
    ("name", "a name, in quotes", "\"penguins\""),
    ("optimizer", "lbfgs, gd or sgd", "\"sgd\""),
    ("learning-rate", NUMBER, "0.1"),
    ("iterations", WHOLE_NUMBER, "100"),
    ("epochs", WHOLE_NUMBER, "10"),
    ("batch-size", WHOLE_NUMBER, "256"),
    ("momentum", NUMBER, "0.9"),
    ("schedule", "constant, inverse-scaling, cosine or step", "\"cosine\""),
    ("l1", NUMBER, "0.01"),
    ("l2", NUMBER, "0.01"),
    ("standardize", TRUE_OR_FALSE, "false"),
    ("validation", NUMBER, "0.2"),
    ("early-stopping", WHOLE_NUMBER, "5"),
    ("tolerance", NUMBER, "1e-6"),
    ("seed", WHOLE_NUMBER, "1"),
    ("intercept", TRUE_OR_FALSE, "false"),
    ("threads", WHOLE_NUMBER, "4"),
];

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
    check(&keys)?;
    for (key, example) in NEEDED {
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
    let Some(job) = jobs::follow(context, job.id).await? else { return Ok(jobs::interrupted()) };
    if let (Some(version), OutputFormat::Table) = (&job.result, context.output) {
        jobs::print_result(context, &job).await?;
        note(&format!("\nnext: wattle deploy {version}"));
        return Ok(ExitCode::SUCCESS);
    }
    jobs::print_end(context, &job)
}

/// Looks for unknown keys and for values of the wrong form, before data is sent for nothing.
fn check(keys: &Map<String, Value>) -> Result<()> {
    let mut keys = keys.clone();
    // What is absent is told apart, in the words of the command line.
    for (key, example) in NEEDED {
        keys.entry(key).or_insert_with(|| json!(example));
    }
    let Err(error) = TrainingSpec::from_value(Value::Object(keys.clone())) else { return Ok(()) };
    let told = error.to_string();
    let is_at_fault = |key: &str| told.starts_with(&format!("invalid {key:?}: "));
    let form = FORMS.into_iter().find(|(key, ..)| is_at_fault(key));
    match form.and_then(|form| keys.get(form.0).filter(|value| !value.is_null()).map(|value| (form, value))) {
        None => Err(anyhow!(told)),
        Some(((key, form, example), value)) => {
            let sign = if form == WHOLE_NUMBER && value.is_i64() { " that is not negative" } else { "" };
            Err(anyhow!("{key} is {value}: {key} must be {form}{sign}, as in {key} = {example}"))
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_examples_of_the_forms_are_right() {
        for (key, form, example) in FORMS {
            let keys: Map<String, Value> = toml::from_str(&format!("{key} = {example}")).unwrap();
            assert!(check(&keys).is_ok(), "{key}: {:?}", check(&keys));
            let wrong = Map::from_iter([(key.to_owned(), json!({ "some": "thing" }))]);
            let told = check(&wrong).unwrap_err().to_string();
            assert!(told.contains(&format!("{key} must be {form}, as in {key} = {example}")), "{told}");
        }
    }
}
