//! The rows of a file as a deployment takes them, read as the file that the model was trained on was read.

use std::{
    fs::{self, File},
    io,
    iter::zip,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use wattle_core::{ColumnKind, Datatype, Name, TensorSpec};
use wattle_serve::ReplicaStatus;
use wattle_store::{
    ModelVersion,
    table::{Overrides, Table, Values, normalise},
};

use super::open;
use crate::{client::Client, commands::data, flags::RowsFlags, output::progress_is_watched};

/// A CSV or Parquet file and the inputs that its columns become.
pub(crate) struct Rows {
    inputs: Vec<TensorSpec>,
    table: Table,
}

impl Rows {
    /// Reads a file, which may be `-` for the standard input, for the version that a deployment answers with.
    pub(crate) async fn open(client: &Client, name: &Name, path: &Path, flags: &RowsFlags) -> Result<Rows> {
        let manifest = deployed(client, name).await?.manifest;
        let inputs = manifest.signature.inputs;
        // What meant a missing value in the file that the model was trained on means it here.
        let mut missing = manifest.data.map(|data| data.reading.missing).unwrap_or_default();
        missing.extend(flags.missing.iter().cloned());
        let kinds = inputs.iter().map(|input| (input.name.clone(), kind(input))).collect();
        let delimiter = data::delimiter(flags.delimiter)?;
        let table = read(path, Overrides { kinds, missing, delimiter }).await?;
        Ok(Rows { inputs, table })
    }

    /// The inputs of the model.
    pub(crate) fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// How many rows there are.
    pub(crate) fn count(&self) -> u64 {
        self.table.rows()
    }

    /// The columns, in the inputs' order, of one call after the other, each with at most so many rows.
    pub(crate) fn calls(&self, rows_a_call: usize) -> Result<impl Iterator<Item = Result<Vec<Vec<Value>>>>> {
        let columns: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
        let batches = self.table.read(&columns)?;
        Ok(batches.flat_map(move |batch| {
            let (batch, error) = match batch {
                Ok(batch) => (batch, None),
                Err(error) => (Vec::new(), Some(Err(error.into()))),
            };
            let rows = batch.first().map_or(0, Values::len);
            let call = move |start| {
                let count = rows_a_call.min(rows - start);
                zip(&self.inputs, &batch).map(|(input, values)| some(input, values, start, count)).collect()
            };
            error.into_iter().chain((0..rows).step_by(rows_a_call).map(call))
        }))
    }
}

/// How a table's column has to be read to become this input.
fn kind(input: &TensorSpec) -> ColumnKind {
    match input.datatype {
        Datatype::Bytes | Datatype::Bool => ColumnKind::Category,
        _ => ColumnKind::Number,
    }
}

/// `count` values from `start` on as the type that the input takes; null where one is missing.
fn some(input: &TensorSpec, values: &Values, start: usize, count: usize) -> Result<Vec<Value>> {
    match values {
        // JSON has no NaN, which stands for a missing number: it becomes null.
        Values::Numbers(numbers) => Ok(numbers.iter().skip(start).take(count).map(|number| json!(number)).collect()),
        Values::Categories(texts) => {
            let value = |text: Option<&str>| text.map_or(Ok(Value::Null), |text| category(input, text));
            texts.slice(start, count).iter().map(value).collect()
        }
    }
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
