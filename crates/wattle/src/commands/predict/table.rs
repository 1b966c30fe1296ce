//! Answers the rows of a file.

use std::{
    io::{self, IsTerminal},
    iter::zip,
    path::Path,
};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{call, cost::Cost, rows::Rows};
use crate::{
    commands::Context,
    flags::{OutputFormat, PredictFlags},
    output::{note, print_line, progress_is_watched},
};

/// Rows and values at most that go into one call.
const ROWS_A_CALL: usize = 1000;
const VALUES_A_CALL: usize = 1 << 20;

pub(super) async fn predict(context: &Context, flags: &PredictFlags, path: &Path) -> Result<()> {
    let (client, name) = (&context.client, &flags.name);
    let rows = Rows::open(client, name, path, &flags.rows).await?;
    let inputs = rows.inputs();
    let rows_a_call = (VALUES_A_CALL / inputs.len().max(1)).clamp(1, ROWS_A_CALL);
    let mut printer = Printer { format: context.output, writer: csv::Writer::from_writer(io::stdout()), head: false };
    let mut total: Option<Cost> = None;
    // Where the answers themselves go to the terminal, they are the progress.
    let watched = progress_is_watched() && !io::stdout().is_terminal();
    let bar = if watched { ProgressBar::new(rows.count()) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("predicting  {bar:40} {human_pos}/{human_len} rows  {per_sec}")?);
    for columns in rows.calls(rows_a_call)? {
        let columns = columns?;
        let count = columns.first().map_or(0, Vec::len);
        let body = zip(inputs, columns).map(|(input, values)| (input.name.clone(), Value::Array(values)));
        let (answer, cost) = call(client, name, &Value::Object(body.collect())).await?;
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
    bar.finish_and_clear();
    if let Some(total) = total {
        match context.output {
            OutputFormat::Json => note(&json!({ "cost": total.to_json() }).to_string()),
            OutputFormat::Table => note(&total.describe()),
        }
    }
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
