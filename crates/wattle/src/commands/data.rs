use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::Method;
use wattle_core::{ColumnKind, Name};
use wattle_store::{Dataset, table::Overrides};

use super::Context;
use crate::{
    client::{Refusal, Upload},
    flags::{DataCommand, ReadingFlags},
    output::{bytes, grouped, note, pairs, print, significant, table},
};

pub(crate) async fn run(context: &Context, command: DataCommand) -> Result<()> {
    let client = &context.client;
    match command {
        DataCommand::Add { name, file, reading, replace } => {
            let conflict = if replace { "replace" } else { "refuse" };
            let dataset = add(context, &name, &file, &overrides(&reading)?, conflict).await?;
            print(context.output, &dataset, show)?;
        }
        DataCommand::List => {
            let datasets: Vec<Dataset> = client.get("/api/v1/datasets").await?;
            print(context.output, &datasets, |datasets| {
                if datasets.is_empty() {
                    return "no data sets: `wattle data add NAME FILE` adds one".into();
                }
                let row = |dataset: &Dataset| {
                    vec![
                        dataset.name.to_string(),
                        grouped(dataset.rows),
                        dataset.schema.columns.len().to_string(),
                        bytes(dataset.bytes),
                        dataset.digest.short(),
                        dataset.source.clone(),
                    ]
                };
                table(&["name", "#rows", "#columns", "#size", "digest", "source"], datasets.iter().map(row))
            })?;
        }
        DataCommand::Show { name } => {
            let dataset: Dataset = client.get(&format!("/api/v1/datasets/{name}")).await?;
            print(context.output, &dataset, show)?;
        }
        DataCommand::Rm { name } => {
            client.delete(&format!("/api/v1/datasets/{name}")).await?;
            note(&format!("data set {name} removed; `wattle gc` frees its space"));
        }
    }
    Ok(())
}

/// The data set that `--data` means: one of this name, or else a file, which is added under its own name.
pub(crate) async fn resolve(context: &Context, data: &str) -> Result<Name> {
    let path = Path::new(data);
    if let Ok(name) = data.parse::<Name>() {
        let found = context.client.get::<Dataset>(&format!("/api/v1/datasets/{name}")).await;
        match found {
            Ok(_) => return Ok(name),
            Err(error) if error.downcast_ref::<Refusal>().is_none() => return Err(error),
            Err(error) if !path.is_file() => return Err(error),
            Err(_) => {}
        }
    }
    if !path.is_file() {
        bail!("there is no file {data}, and no data set can have that name: `wattle data list` lists the data sets");
    }
    let dataset = add_file(context, path).await?;
    note(&format!(
        "data set {}: {} rows, {} columns",
        dataset.name,
        grouped(dataset.rows),
        dataset.schema.columns.len()
    ));
    Ok(dataset.name)
}

/// Adds a file under its own name, without a word.
pub(crate) async fn add_quietly(context: &Context, path: &Path) -> Result<Name> {
    Ok(add_file(context, path).await?.name)
}

async fn add_file(context: &Context, path: &Path) -> Result<Dataset> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = Name::from_free_text(&stem)
        .ok_or_else(|| anyhow!("no name can be made of {0}: add it with `wattle data add NAME {0}`", path.display()))?;
    add(context, &name, path, &Overrides::default(), "rename").await
}

async fn add(context: &Context, name: &Name, file: &Path, overrides: &Overrides, conflict: &str) -> Result<Dataset> {
    let source = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let overrides = serde_json::to_string(overrides)?;
    let (body, _shown) = Upload::open(file, "the server reads the table").await?.start();
    let request = context
        .client
        .request(Method::PUT, &format!("/api/v1/datasets/{name}"))
        .query(&[("source", source.as_str()), ("overrides", &overrides), ("conflict", conflict)])
        .body(body);
    context.client.answer(request).await
}

fn overrides(flags: &ReadingFlags) -> Result<Overrides> {
    let mut overrides = Overrides { missing: flags.missing.clone(), ..Overrides::default() };
    for text in &flags.columns {
        let (name, kind) =
            text.rsplit_once('=').with_context(|| format!("--column {text}: write NAME=number or NAME=category"))?;
        let kind = match kind {
            "number" => ColumnKind::Number,
            "category" => ColumnKind::Category,
            other => bail!("--column {name}={other}: a column is a number or a category"),
        };
        overrides.kinds.insert(name.to_owned(), kind);
    }
    overrides.delimiter = match flags.delimiter {
        None => None,
        Some(character) => {
            Some(u8::try_from(character).ok().context("--delimiter: a character of one byte is needed")?)
        }
    };
    Ok(overrides)
}

fn show(dataset: &Dataset) -> String {
    let head = pairs(&[
        ("name", dataset.name.to_string()),
        ("rows", grouped(dataset.rows)),
        ("size", bytes(dataset.bytes)),
        ("digest", dataset.digest.to_string()),
        ("source", dataset.source.clone()),
        ("added", dataset.created_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ]);
    let columns = dataset.schema.columns.iter().map(|column| {
        let values = match (column.range, column.distinct) {
            (Some([least, greatest]), _) => format!("{} to {}", significant(least), significant(greatest)),
            (None, Some(distinct)) => format!("{} different", grouped(distinct)),
            (None, None) => "none".into(),
        };
        let kind = match column.kind {
            ColumnKind::Number => "number",
            ColumnKind::Category => "category",
        };
        vec![column.name.clone(), kind.into(), grouped(column.missing), values]
    });
    format!("{head}\n{}", table(&["column", "kind", "#missing", "values"], columns))
}
