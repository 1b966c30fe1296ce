use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::{Method, StatusCode};
use serde_json::json;
use wattle_api::service::AddedDataset;
use wattle_core::{ColumnKind, Name, grouped};
use wattle_store::{Dataset, table::Overrides};

use super::Context;
use crate::{
    client::{Refusal, Upload},
    flags::{DataCommand, ReadingFlags},
    output::{bytes, confirm, note, pairs, print, significant, table},
};

pub(crate) async fn run(context: &Context, command: DataCommand) -> Result<()> {
    let client = &context.client;
    match command {
        DataCommand::Add { name, file, reading, replace } => {
            let conflict = if replace { "replace" } else { "refuse" };
            let added = add(context, &name, &file, &overrides(&reading)?, conflict).await.map_err(name_the_flag)?;
            print(context.output, &added, |added| show(&added.dataset))?;
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
            let removed = format!("data set {name} removed; `wattle gc` frees its space");
            confirm(context.output, &json!({ "removed": name }), &removed)?;
        }
    }
    Ok(())
}

/// The server, which knows no flags, says that other data may be replaced; says how.
fn name_the_flag(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) if refusal.status == StatusCode::CONFLICT => anyhow!("{refusal} (--replace replaces it)"),
        _ => error,
    }
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
    Ok(add(context, &name, path, &Overrides::default(), "rename").await?.dataset)
}

async fn add(
    context: &Context,
    name: &Name,
    file: &Path,
    overrides: &Overrides,
    conflict: &str,
) -> Result<AddedDataset> {
    let source = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let overrides = serde_json::to_string(overrides)?;
    let (body, _shown) = Upload::open(file, "the server reads the table").await?.start();
    let request = context
        .client
        .request(Method::PUT, &format!("/api/v1/datasets/{name}"))
        .query(&[("source", source.as_str()), ("overrides", &overrides), ("conflict", conflict)])
        .body(body);
    let added: AddedDataset = context.client.answer(request).await?;
    for warning in &added.warnings {
        note(&format!("warning: {warning}"));
    }
    Ok(added)
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
    overrides.delimiter = delimiter(flags.delimiter)?;
    Ok(overrides)
}

/// What `--delimiter` says, as the byte that it is in a file.
pub(crate) fn delimiter(flag: Option<char>) -> Result<Option<u8>> {
    let byte = |character: char| u8::try_from(character).ok().filter(u8::is_ascii);
    flag.map(|character| byte(character).context("--delimiter: a character of one byte is needed")).transpose()
}

/// What was said of a file, as the flags that say it.
fn reading(overrides: &Overrides) -> String {
    let kinds = overrides.kinds.iter().map(|(name, kind)| format!("--column {}={}", name, kind_text(*kind)));
    let missing = overrides.missing.iter().map(|text| format!("--missing {text}"));
    let delimiter = overrides.delimiter.iter().map(|byte| format!("--delimiter {:?}", char::from(*byte)));
    kinds.chain(missing).chain(delimiter).collect::<Vec<_>>().join(" ")
}

fn kind_text(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Number => "number",
        ColumnKind::Category => "category",
    }
}

fn show(dataset: &Dataset) -> String {
    let mut head = vec![
        ("name", dataset.name.to_string()),
        ("rows", grouped(dataset.rows)),
        ("size", bytes(dataset.bytes)),
        ("digest", dataset.digest.to_string()),
        ("source", dataset.source.clone()),
        ("added", dataset.created_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ];
    if !dataset.reading.is_default() {
        head.push(("read with", reading(&dataset.reading)));
    }
    let columns = dataset.schema.columns.iter().map(|column| {
        let values = match (column.range, column.distinct) {
            (Some([least, greatest]), _) => format!("{} to {}", significant(least), significant(greatest)),
            (None, Some(distinct)) => format!("{} different", grouped(distinct)),
            (None, None) => "none".into(),
        };
        vec![column.name.clone(), kind_text(column.kind).into(), grouped(column.missing), values]
    });
    format!("{}\n{}", pairs(&head), table(&["column", "kind", "#missing", "values"], columns))
}
