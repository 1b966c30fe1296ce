use std::{io::Write, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::ProgressBar;
use reqwest::{Method, header, multipart};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use wattle_core::{Energy, LanguageModel, ModelReference, Name, Selector, TensorSpec, grouped};
use wattle_deploy::image::{MANIFEST_FILE, artefact_file};
use wattle_store::{AliasChange, Manifest, Model, ModelVersion};

use super::{Context, convert::prepare};
use crate::{
    client::{Client, Upload},
    flags::{ModelsCommand, OutputFormat},
    output::{bytes, confirm, note, pairs, print, print_line, quantity, significant, table},
};

pub(crate) async fn run(context: &Context, command: ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List => {
            let models: Vec<Model> = context.client.get("/api/v1/models").await?;
            print(context.output, &models, |models| {
                if models.is_empty() {
                    return "no models: `wattle train` or `wattle models import` makes one".into();
                }
                let row = |model: &Model| {
                    vec![
                        model.name.to_string(),
                        model.latest.to_string(),
                        model.versions.len().to_string(),
                        aliases(model),
                        model.created_at.format("%Y-%m-%d %H:%M:%S").to_string(),
                    ]
                };
                table(&["name", "#latest", "#versions", "aliases", "created (UTC)"], models.iter().map(row))
            })?;
        }
        ModelsCommand::Show { model } => {
            let version = resolve(&context.client, &model).await?;
            let aliases = match context.output {
                OutputFormat::Json => String::new(),
                OutputFormat::Table => {
                    aliases(&context.client.get::<Model>(&format!("/api/v1/models/{}", version.model)).await?)
                }
            };
            print(context.output, &version, |version| describe(version, &aliases))?;
        }
        ModelsCommand::Import { name, file, quantize, coef, intercept } => {
            let prepared = match &file {
                Some(file) => Some(prepare(file, quantize).await?),
                None => None,
            };
            let file = prepared.as_ref().map(|prepared| prepared.path.as_path());
            let version = import(context, &name, file, coef.as_deref(), intercept.as_deref()).await?;
            print(context.output, &version, show_version)?;
        }
        ModelsCommand::Export { model, dir } => export(context, &model, &dir).await?,
        ModelsCommand::Alias { model, alias, remove } => self::alias(context, &model, alias, remove).await?,
        ModelsCommand::Rm { model } => {
            let path = match &model.selector {
                Selector::Latest => format!("/api/v1/models/{}", model.model),
                Selector::Version(version) => format!("/api/v1/models/{}/versions/{version}", model.model),
                Selector::Alias(alias) => bail!(
                    "name the version to remove by its number; `wattle models alias {} {alias} --remove` removes the alias",
                    model.model
                ),
            };
            context.client.delete(&path).await?;
            let removed = format!("{model} removed; `wattle gc` frees its space");
            confirm(context.output, &json!({ "removed": model }), &removed)?;
        }
    }
    Ok(())
}

pub(super) async fn resolve(client: &Client, model: &ModelReference) -> Result<ModelVersion> {
    client.get(&version_path(model)).await
}

fn version_path(model: &ModelReference) -> String {
    let version = match &model.selector {
        Selector::Latest => "latest".to_owned(),
        Selector::Version(version) => version.to_string(),
        Selector::Alias(alias) => format!("@{alias}"),
    };
    format!("/api/v1/models/{}/versions/{version}", model.model)
}

async fn import(
    context: &Context,
    name: &Name,
    file: Option<&Path>,
    coef: Option<&Path>,
    intercept: Option<&Path>,
) -> Result<ModelVersion> {
    let request = context.client.request(Method::POST, &format!("/api/v1/models/{name}/versions"));
    const AFTERWARDS: &str = "the server checks the model";
    let mut shown = Vec::new();
    let request = match (file, coef) {
        (Some(file), _) => {
            let (body, bar) = Upload::open(file, AFTERWARDS).await?.start();
            shown.push(bar);
            let is_pipeline = file.extension().is_some_and(|extension| extension == "toml");
            let content_type = if is_pipeline { "application/toml" } else { "application/octet-stream" };
            request.header(header::CONTENT_TYPE, content_type).body(body)
        }
        (None, Some(coef)) => {
            let mut form = multipart::Form::new();
            for (part, path) in [("coef", Some(coef)), ("intercept", intercept)] {
                if let Some(path) = path {
                    let (body, bar) = Upload::open(path, AFTERWARDS).await?.start();
                    shown.push(bar);
                    form = form.part(part, multipart::Part::stream(body).file_name(part));
                }
            }
            request.multipart(form)
        }
        (None, None) => bail!("name an ONNX or GGUF file, a folder or a pipeline, or --coef and --intercept"),
    };
    context.client.answer(request).await
}

/// Writes both files beside their places and moves them there when they are whole: first the model, then its manifest.
/// Interrupted between the two, it leaves a whole model beside another one's manifest, whose digest tells them apart.
async fn export(context: &Context, model: &ModelReference, dir: &Path) -> Result<()> {
    let version = resolve(&context.client, model).await?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let part = tempfile::NamedTempFile::new_in(dir).with_context(|| format!("cannot write into {}", dir.display()))?;
    download(&context.client, &version, part.path(), &ProgressBar::hidden()).await?;
    let mut described = tempfile::NamedTempFile::new_in(dir)?;
    described.write_all((serde_json::to_string_pretty(&version)? + "\n").as_bytes())?;
    let (target, manifest) = (dir.join(artefact_file(&version.manifest.format)), dir.join(MANIFEST_FILE));
    for (part, place) in [(part, &target), (described, &manifest)] {
        readable(part.path())?;
        part.persist(place)
            .map_err(|error| anyhow!(error.error))
            .with_context(|| format!("cannot write {}", place.display()))?;
    }
    match context.output {
        OutputFormat::Json => print_line(&json!({ "model": target, "manifest": manifest }).to_string())?,
        OutputFormat::Table => note(&format!("wrote {} and {}", target.display(), manifest.display())),
    }
    Ok(())
}

/// Writes a version's artefact into a file, and checks that it is what the server says it is.
pub(super) async fn download(client: &Client, version: &ModelVersion, into: &Path, bar: &ProgressBar) -> Result<()> {
    let exact = format!("/api/v1/models/{}/versions/{}/model.onnx", version.model, version.version);
    let mut response = client.send(client.request(Method::GET, &exact)).await?;
    let unwritable = || format!("cannot write {}", into.display());
    let mut file = tokio::fs::File::create(into).await.with_context(unwritable)?;
    while let Some(piece) = response.chunk().await.context("the connection to the server was lost")? {
        file.write_all(&piece).await.with_context(unwritable)?;
        bar.inc(piece.len() as u64);
    }
    file.flush().await.with_context(unwritable)?;
    let (digest, written) = wattle_store::digest_file(into).await?;
    if digest != version.manifest.digest {
        let Manifest { digest: wanted, bytes, .. } = &version.manifest;
        bail!("the server sent {written} bytes with digest {digest}, and not the {bytes} with {wanted}: try again");
    }
    Ok(())
}

/// Temporary files are private; what was exported is meant to be read.
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?)
}

async fn alias(context: &Context, model: &ModelReference, alias: Option<Name>, remove: bool) -> Result<()> {
    let Some(alias) = alias else {
        let history: Vec<AliasChange> = context.client.get(&format!("/api/v1/models/{}/aliases", model.model)).await?;
        print(context.output, &history, |history| {
            if history.is_empty() {
                return format!("no aliases: `wattle models alias {}:VERSION ALIAS` sets one", model.model);
            }
            let side = |version: Option<u32>| version.map_or_else(|| "-".into(), |version| version.to_string());
            let row = |change: &AliasChange| {
                let at = change.at.format("%Y-%m-%d %H:%M:%S").to_string();
                vec![at, format!("@{}", change.alias), side(change.from), side(change.to)]
            };
            table(&["at (UTC)", "alias", "#from", "#to"], history.iter().map(row))
        })?;
        return Ok(());
    };
    let path = format!("/api/v1/models/{}/aliases/{alias}", model.model);
    if remove {
        context.client.delete(&path).await?;
        let removed = format!("{}@{alias}", model.model);
        return Ok(confirm(context.output, &json!({ "removed": removed }), &format!("alias {removed} removed"))?);
    }
    let version = resolve(&context.client, model).await?.version;
    let changed: Model = context.client.put(&path, &json!({ "version": version })).await?;
    print(context.output, &changed, |_| format!("{}@{alias} is version {version}", model.model))?;
    Ok(())
}

/// Where a model's aliases point, as `@champion=1`.
fn aliases(model: &Model) -> String {
    model.aliases.iter().map(|(alias, version)| format!("@{alias}={version}")).collect::<Vec<_>>().join(" ")
}

/// A version, for people.
pub(crate) fn show_version(version: &ModelVersion) -> String {
    describe(version, "")
}

fn describe(version: &ModelVersion, aliases: &str) -> String {
    let manifest = &version.manifest;
    let mut rows = vec![("model", format!("{}:{}", version.model, version.version))];
    if !aliases.is_empty() {
        rows.push(("aliases", aliases.to_owned()));
    }
    rows.extend([("algorithm", manifest.algorithm.clone().unwrap_or_else(|| "imported".into()))]);
    match &manifest.language {
        Some(language) => rows.extend(language_rows(language)),
        None => rows.extend([
            ("inputs", tensors(&manifest.signature.inputs)),
            ("outputs", tensors(&manifest.signature.outputs)),
        ]),
    }
    rows.extend([
        ("size", bytes(manifest.bytes)),
        ("digest", manifest.digest.to_string()),
        ("created", manifest.created_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ]);
    if let Some(data) = &manifest.data {
        rows.push(("data", format!("{} ({} rows, {})", data.name, data.rows, data.digest.short())));
    }
    if let Some(classes) = manifest.metrics.get("classes").and_then(Value::as_array) {
        let names = classes.iter().map(|class| class.as_str().map_or_else(|| class.to_string(), str::to_owned));
        rows.push(("classes", shortened(names.collect())));
    }
    if let Some(parent) = &manifest.parent {
        rows.push(("parent", parent.to_string()));
    }
    if let Some(training) = &manifest.training {
        let times = format!(
            "{} ({} of processor time)",
            quantity(training.wall_seconds, "s"),
            quantity(training.cpu_seconds, "s")
        );
        rows.push(("training", times));
        rows.push(("energy", energy_text(&training.energy)));
    }
    if let Some(text) = coefficients(&manifest.metrics) {
        // Of two classes, the function gives the log-odds of the second.
        let second = manifest.metrics.pointer("/classes/1").and_then(Value::as_str);
        let left = second.map_or_else(|| "y_pred".into(), |class| format!("log-odds of {class}"));
        rows.push(("formula", format!("{left} = {text}")));
    }
    if let Some(warning) = not_converged(manifest) {
        rows.push(("warning", warning));
    }
    let metrics = metric_rows(&manifest.metrics);
    let text = pairs(&rows);
    if metrics.is_empty() {
        return text;
    }
    format!("{text}\n{}", table(&["metric", "#training rows", "#held-out rows"], metrics))
}

/// What a language model's file says of it.
fn language_rows(language: &LanguageModel) -> Vec<(&'static str, String)> {
    let kind = if language.embeds { "embeds texts" } else { "generates text" };
    let title = language.title.as_ref().map_or_else(String::new, |title| format!(", {title}"));
    let template = if language.embeds {
        None
    } else {
        Some((
            "chat template",
            if language.chat_template.is_some() { "yes" } else { "none: ChatML is used" }.to_owned(),
        ))
    };
    let mut rows = vec![
        ("kind", format!("{kind} ({}{title})", language.architecture)),
        ("parameters", format!("{} ({})", grouped(language.parameters), language.weights)),
        ("context", format!("{} tokens", grouped(language.context_tokens))),
        ("vocabulary", format!("{} tokens", grouped(language.vocabulary))),
    ];
    rows.extend(template);
    rows
}

/// What to do about an L-BFGS that ran out of iterations. The other optimisers are meant to be stopped by their number.
fn not_converged(manifest: &Manifest) -> Option<String> {
    manifest.parameters.pointer("/optimizer/lbfgs")?;
    if manifest.metrics.get("stopped")? != "iterations" {
        return None;
    }
    let iterations = manifest.metrics.get("iterations")?.as_u64()?;
    let standardised = manifest.parameters.get("standardize").and_then(Value::as_bool) == Some(true);
    let or = if standardised { "" } else { ", or standardise" };
    Some(format!("not converged within {} iterations: raise --iterations{or}", grouped(iterations)))
}

/// An energy with its range and label, for people.
pub(crate) fn energy_text(energy: &Energy) -> String {
    let range = if energy.joules_low < energy.joules_high {
        format!(" ({} to {})", quantity(energy.joules_low, "J"), quantity(energy.joules_high, "J"))
    } else {
        String::new()
    };
    format!("{}{range}, {}: {}", quantity(energy.joules, "J"), energy.label, energy.source)
}

/// `1.00 + 2.00 x`, for models of at most four features and one output.
pub(crate) fn coefficients(metrics: &Value) -> Option<String> {
    let coefficients = metrics.get("coefficients")?.as_object()?;
    let intercept = metrics.get("intercept")?.as_f64()?;
    if coefficients.is_empty() || coefficients.len() > 4 {
        return None;
    }
    let mut text = significant(intercept);
    for (name, coefficient) in coefficients {
        let coefficient = coefficient.as_f64()?;
        let sign = if coefficient < 0.0 { '-' } else { '+' };
        text.push_str(&format!(" {sign} {} {name}", significant(coefficient.abs())));
    }
    Some(text)
}

fn tensors(specs: &[TensorSpec]) -> String {
    let text = |spec: &TensorSpec| {
        let shape: Vec<String> = spec.shape.iter().map(ToString::to_string).collect();
        format!("{} {}[{}]", spec.name, spec.datatype, shape.join(","))
    };
    shortened(specs.iter().map(text).collect())
}

/// A list of which the first are shown and the rest is counted.
fn shortened(mut items: Vec<String>) -> String {
    const SHOWN: usize = 8;
    let rest = items.len().saturating_sub(SHOWN);
    items.truncate(SHOWN);
    if rest > 0 { format!("{} and {rest} more", items.join(", ")) } else { items.join(", ") }
}

/// The single figures among the metrics, on the training and on the held-out rows.
fn metric_rows(metrics: &Value) -> Vec<Vec<String>> {
    let side = |key: &str| metrics.get(key).and_then(Value::as_object);
    let Some(train) = side("train") else { return Vec::new() };
    let held_out = side("held_out");
    let figure = |value: Option<&Value>| match value.and_then(Value::as_f64) {
        Some(value) => significant_or_count(value),
        None => "-".into(),
    };
    train
        .iter()
        .filter(|(_, value)| value.is_number())
        .map(|(name, value)| {
            let other = held_out.and_then(|metrics| metrics.get(name));
            vec![name.replace('_', " "), figure(Some(value)), figure(other)]
        })
        .collect()
}

fn significant_or_count(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.4}") }
}
