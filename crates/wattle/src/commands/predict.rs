use std::{
    io::{self, IsTerminal, Read},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, Response};
use serde_json::{Map, Value, json};
use wattle_core::{Datatype, Name};

use super::Context;
use crate::{
    client::Client,
    flags::{OutputFormat, PredictFlags},
    output::{note, print_line, progress_is_watched, quantity},
};

/// Rows of a CSV file that go into one call.
const ROWS_A_CALL: usize = 1000;

pub(crate) async fn run(context: &Context, flags: PredictFlags) -> Result<()> {
    match (flags.input.json, flags.input.csv) {
        (Some(json), _) => predict_json(context, &flags.name, &json).await,
        (None, Some(csv)) => predict_csv(context, &flags.name, &csv).await,
        (None, None) => bail!("give the inputs with --json or --csv"),
    }
}

async fn predict_json(context: &Context, name: &Name, json: &str) -> Result<()> {
    let text = match json.trim_start().starts_with(['{', '[']) {
        true => json.to_owned(),
        false => {
            let mut text = String::new();
            open(Path::new(json))?.read_to_string(&mut text).with_context(|| format!("cannot read {json}"))?;
            text
        }
    };
    let body: Value = serde_json::from_str(&text).context("the input is not JSON")?;
    let (answer, cost) = call(&context.client, name, &body).await?;
    print_line(&answer.to_string())?;
    if context.output == OutputFormat::Table {
        note(&cost.describe(1));
    }
    Ok(())
}

async fn predict_csv(context: &Context, name: &Name, path: &Path) -> Result<()> {
    let columns = input_columns(&context.client, name).await?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open(path)?);
    let head = reader.headers().context("the CSV file has no readable header")?.clone();
    let used: Vec<(usize, &InputColumn)> = head
        .iter()
        .enumerate()
        .filter_map(|(index, name)| columns.iter().find(|column| column.name == name).map(|column| (index, column)))
        .collect();
    if used.is_empty() {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        bail!("none of the file's columns is one of the model's: it takes {}", names.join(", "));
    }
    let mut printer = Printer { format: context.output, writer: csv::Writer::from_writer(io::stdout()), head: false };
    let mut total = Cost::default();
    let mut calls = 0;
    // Where the answers themselves go to the terminal, they are the progress.
    let watched = progress_is_watched() && !io::stdout().is_terminal();
    let bar = if watched { ProgressBar::no_length() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("predicting  {human_pos} rows  {per_sec}")?);
    let mut rows = Vec::new();
    let mut records = reader.records();
    loop {
        let record = records.next().transpose().context("the CSV file cannot be read")?;
        let ended = record.is_none();
        if let Some(record) = record {
            let mut row = Map::new();
            for (index, column) in &used {
                row.insert(column.name.clone(), column.value(record.get(*index).unwrap_or_default())?);
            }
            rows.push(Value::Object(row));
        }
        if !rows.is_empty() && (ended || rows.len() == ROWS_A_CALL) {
            let sent = rows.len() as u64;
            let (answer, cost) = call(&context.client, name, &json!({ "rows": std::mem::take(&mut rows) })).await?;
            match printer.print(&answer) {
                // A reader that has seen enough, such as `head`, is no error.
                Err(error) if reader_has_gone(&error) => return Ok(()),
                printed => printed?,
            }
            total.add(&cost);
            calls += 1;
            bar.inc(sent);
        }
        if ended {
            break;
        }
    }
    bar.finish_and_clear();
    if context.output == OutputFormat::Table {
        note(&total.describe(calls));
    }
    Ok(())
}

/// One input of the model, as a column of a CSV file.
struct InputColumn {
    name: String,
    datatype: Datatype,
}

impl InputColumn {
    /// A field as the type that the model takes; an empty one is a missing value.
    fn value(&self, field: &str) -> Result<Value> {
        const MISSING: [&str; 9] = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"];
        if MISSING.contains(&field) {
            return Ok(Value::Null);
        }
        match self.datatype {
            Datatype::Bytes => Ok(json!(field)),
            Datatype::Bool => Ok(json!(field.eq_ignore_ascii_case("true") || field == "1")),
            _ => {
                let number: Value = serde_json::from_str(field)
                    .or_else(|_| field.parse::<f64>().map(|number| json!(number)))
                    .map_err(|_| anyhow!("{field:?} in column {} is not a number", self.name))?;
                if number.is_number() { Ok(number) } else { bail!("{field:?} in column {} is not a number", self.name) }
            }
        }
    }
}

async fn input_columns(client: &Client, name: &Name) -> Result<Vec<InputColumn>> {
    let metadata: Value = client.get(&format!("/v2/models/{name}")).await?;
    let inputs = metadata.get("inputs").and_then(Value::as_array).context("the server's answer cannot be read")?;
    inputs
        .iter()
        .map(|input| {
            let text = |key: &str| input.get(key).and_then(Value::as_str).unwrap_or_default();
            Ok(InputColumn { name: text("name").to_owned(), datatype: text("datatype").parse()? })
        })
        .collect()
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

/// What the headers of an answer say of its cost.
#[derive(Default)]
pub(crate) struct Cost {
    pub(crate) joules: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) label: String,
}

impl Cost {
    fn read(response: &Response) -> Cost {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Cost {
            joules: text("x-wattle-energy-joules").parse().unwrap_or_default(),
            cpu_seconds: text("x-wattle-cpu-seconds").parse().unwrap_or_default(),
            label: text("x-wattle-energy-label").to_owned(),
        }
    }

    fn add(&mut self, other: &Cost) {
        self.joules += other.joules;
        self.cpu_seconds += other.cpu_seconds;
        self.label.clone_from(&other.label);
    }

    fn describe(&self, calls: u64) -> String {
        let calls = if calls == 1 { "1 call".to_owned() } else { format!("{calls} calls") };
        format!(
            "{calls}: {} of processor time, {} ({})",
            quantity(self.cpu_seconds, "s"),
            quantity(self.joules, "J"),
            self.label
        )
    }
}

/// Calls a deployment.
pub(crate) async fn call(client: &Client, name: &Name, body: &Value) -> Result<(Value, Cost)> {
    let request = client.request(Method::POST, &format!("/models/{name}/predict")).json(body);
    let response = client.send(request).await?;
    let cost = Cost::read(&response);
    Ok((response.json().await.context("the server's answer cannot be read")?, cost))
}

fn open(path: &Path) -> Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new(io::BufReader::new(file)))
}
