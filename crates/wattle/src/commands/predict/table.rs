//! Answers the rows of a file, read as the file that the model was trained on was read.

use std::{
    fs::{self, File},
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use wattle_core::{ColumnKind, Datatype, Name, TensorSpec};
use wattle_serve::ReplicaStatus;
use wattle_store::{
    ModelVersion,
    table::{Overrides, Table, Values, normalise},
};

use super::{call, cost::Cost, open};
use crate::{
    client::Client,
    commands::{Context, data},
    flags::{OutputFormat, PredictFlags},
    output::{note, print_line, progress_is_watched},
};

/// Rows and values at most that go into one call.
const ROWS_A_CALL: usize = 1000;
const VALUES_A_CALL: usize = 1 << 20;

pub(super) async fn predict(context: &Context, flags: &PredictFlags, path: &Path) -> Result<()> {
    let (client, name) = (&context.client, &flags.name);
    let manifest = deployed(client, name).await?.manifest;
    let inputs = &manifest.signature.inputs;
    // What meant a missing value in the file that the model was trained on means it here.
    let mut missing = manifest.data.map(|data| data.reading.missing).unwrap_or_default();
    missing.extend(flags.missing.iter().cloned());
    let kinds = inputs.iter().map(|input| (input.name.clone(), kind(input))).collect();
    let table = read(path, Overrides { kinds, missing, delimiter: data::delimiter(flags.delimiter)? }).await?;

    let columns: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    let rows_a_call = (VALUES_A_CALL / columns.len().max(1)).clamp(1, ROWS_A_CALL);
    let mut printer = Printer { format: context.output, writer: csv::Writer::from_writer(io::stdout()), head: false };
    let mut total: Option<Cost> = None;
    // Where the answers themselves go to the terminal, they are the progress.
    let watched = progress_is_watched() && !io::stdout().is_terminal();
    let bar = if watched { ProgressBar::new(table.rows()) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("predicting  {bar:40} {human_pos}/{human_len} rows  {per_sec}")?);
    for batch in table.read(&columns)? {
        let batch = batch?;
        let rows = batch.first().map_or(0, Values::len);
        for start in (0..rows).step_by(rows_a_call) {
            let count = rows_a_call.min(rows - start);
            let mut body = Map::new();
            for (input, values) in inputs.iter().zip(&batch) {
                body.insert(input.name.clone(), some(input, values, start, count)?);
            }
            let (answer, cost) = call(client, name, &Value::Object(body)).await?;
            match printer.print(&answer) {
                // A reader that has seen enough, such as `head`, is no error.
                Err(error) if reader_has_gone(&error) => return Ok(()),
                printed => printed?,
            }
            total = Some(match total {
                Some(total) => total.and(&cost),
                None => cost,
            });
            bar.inc(count as u64);
        }
    }
    bar.finish_and_clear();
    if let Some(total) = total {
        match context.output {
            OutputFormat::Json => note(&json!({ "cost": total.to_json() }).to_string()),
            OutputFormat::Table => note(&total.describe()),
        }
    }
    Ok(())
}

/// How a table's column has to be read to become this input.
fn kind(input: &TensorSpec) -> ColumnKind {
    match input.datatype {
        Datatype::Bytes | Datatype::Bool => ColumnKind::Category,
        _ => ColumnKind::Number,
    }
}

/// `count` values from `start` on as the type that the input takes; null where one is missing.
fn some(input: &TensorSpec, values: &Values, start: usize, count: usize) -> Result<Value> {
    Ok(match values {
        // JSON has no NaN, which stands for a missing number: it becomes null.
        Values::Numbers(numbers) => numbers.iter().skip(start).take(count).map(|number| json!(number)).collect(),
        Values::Categories(texts) => {
            let value = |text: Option<&str>| text.map_or(Ok(Value::Null), |text| category(input, text));
            Value::Array(texts.slice(start, count).iter().map(value).collect::<Result<_>>()?)
        }
    })
}

fn category(input: &TensorSpec, text: &str) -> Result<Value> {
    match (input.datatype, text.trim()) {
        (Datatype::Bool, "1" | "true" | "True" | "TRUE") => Ok(Value::Bool(true)),
        (Datatype::Bool, "0" | "false" | "False" | "FALSE") => Ok(Value::Bool(false)),
        (Datatype::Bool, other) => bail!("{other:?} in column {:?} is neither true nor false", input.name),
        _ => Ok(json!(text)),
    }
}

/// The version that a deployment answers with.
async fn deployed(client: &Client, name: &Name) -> Result<ModelVersion> {
    let deployment = client.get::<ReplicaStatus>(&format!("/api/v1/deployments/{name}")).await?.deployment;
    client.get(&format!("/api/v1/models/{}/versions/{}", deployment.model, deployment.version)).await
}

/// The table that a CSV or Parquet file holds, by the same rules as `wattle data add`.
async fn read(path: &Path, overrides: Overrides) -> Result<Table> {
    let folder = tempfile::Builder::new().prefix("wattle-").tempdir().context("cannot make a temporary folder")?;
    let normal = folder.path().join("normal.parquet");
    let is_file = path.is_file();
    let (given, file) = (path.to_owned(), if is_file { path.to_owned() } else { folder.path().join("input") });
    let bar = if progress_is_watched() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("reading  {spinner}  {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let work = move || {
        if !is_file {
            keep(&given, &file)?;
        }
        normalise(&file, &normal, &overrides, &mut |_| {})?;
        // Its rows stay readable when the folder goes.
        Ok(Table::open(&normal)?)
    };
    let table: Result<Table> = tokio::task::spawn_blocking(work).await?;
    bar.finish_and_clear();
    table.with_context(|| format!("cannot answer {}", path.display()))
}

/// Keeps what can be read only once, such as the standard input; a table is read twice.
fn keep(given: &Path, file: &PathBuf) -> Result<()> {
    if fs::metadata(given).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(anyhow!("it is a folder: name a file"));
    }
    io::copy(&mut open(given)?, &mut File::create(file)?).context("cannot keep a copy of it")?;
    Ok(())
}

/// Prints outputs: for people and spreadsheets as CSV, for scripts as a JSON object for each row.
struct Printer {
    format: OutputFormat,
    writer: csv::Writer<io::Stdout>,
    head: bool,
}

impl Printer {
    fn print(&mut self, answer: &Value) -> Result<()> {
        let outputs = answer.as_object().context("the server's answer cannot be read")?;
        let rows = outputs.values().filter_map(Value::as_array).map(Vec::len).max().unwrap_or(0);
        for row in 0..rows {
            let cells = outputs.iter().map(|(name, values)| (name, values.get(row).unwrap_or(&Value::Null)));
            if self.format == OutputFormat::Json {
                let object: Map<String, Value> = cells.map(|(name, value)| (name.clone(), value.clone())).collect();
                print_line(&Value::Object(object).to_string())?;
                continue;
            }
            let cells: Vec<(String, String)> = cells.flat_map(|(name, value)| columns(name, value)).collect();
            if !self.head {
                self.head = true;
                self.writer.write_record(cells.iter().map(|(name, _)| name))?;
            }
            self.writer.write_record(cells.iter().map(|(_, value)| value))?;
        }
        Ok(self.writer.flush()?)
    }
}

fn reader_has_gone(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|error| {
        error.downcast_ref::<io::Error>().is_some_and(broken)
            || matches!(error.downcast_ref::<csv::Error>().map(csv::Error::kind), Some(csv::ErrorKind::Io(inner)) if broken(inner))
    })
}

/// A row's value as columns: a single number keeps the output's name, several are numbered from 0.
fn columns(name: &str, value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value.as_array().map(Vec::as_slice) {
        None => vec![(name.to_owned(), text(value))],
        Some([one]) => vec![(name.to_owned(), text(one))],
        Some(several) => {
            several.iter().enumerate().map(|(index, value)| (format!("{name}_{index}"), text(value))).collect()
        }
    }
}
