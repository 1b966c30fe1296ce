pub(crate) mod cost;
pub(crate) mod rows;
mod table;

use std::{
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::Method;
use serde_json::{Value, json};
use wattle_core::Name;

use self::cost::Cost;
use super::Context;
use crate::{
    client::Client,
    flags::{OutputFormat, PredictFlags},
    output::{note, print_line},
};

pub(crate) async fn run(context: &Context, flags: PredictFlags) -> Result<()> {
    match (&flags.input.json, &flags.input.csv) {
        (Some(json), _) => predict_json(context, &flags.name, json).await,
        (None, Some(path)) => {
            // The files that it works on go when it is dropped, not when the process is killed.
            tokio::select! {
                outcome = table::predict(context, &flags, path) => outcome,
                _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
            }
        }
        (None, None) => bail!("give the inputs with --json or --csv"),
    }
}

/// Calls a deployment.
pub(crate) async fn call(client: &Client, name: &Name, body: &Value) -> Result<(Value, Cost)> {
    let request = client.request(Method::POST, &format!("/models/{name}/predict")).json(body);
    let response = client.send(request).await?;
    let cost = Cost::of(response.headers()).context("the server does not say what the call cost")?;
    Ok((response.json().await.context("the server's answer cannot be read")?, cost))
}

/// JSON, by itself or as the file that holds it, `-` for the standard input.
pub(crate) fn read_json(json: &str) -> Result<Value> {
    let text = match json.trim_start().starts_with(['{', '[']) {
        true => json.to_owned(),
        false => {
            let mut text = String::new();
            open(Path::new(json))?.read_to_string(&mut text).with_context(|| format!("cannot read {json}"))?;
            text
        }
    };
    serde_json::from_str(&text).context("the input is not JSON")
}

async fn predict_json(context: &Context, name: &Name, json: &str) -> Result<()> {
    let body = read_json(json)?;
    let (answer, cost) = call(&context.client, name, &body).await?;
    match context.output {
        OutputFormat::Json => print_line(&json!({ "outputs": answer, "cost": cost.to_json() }).to_string())?,
        OutputFormat::Table => {
            print_line(&answer.to_string())?;
            note(&cost.describe());
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(io::BufReader::new(file)))
}
