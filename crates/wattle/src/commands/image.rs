use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use wattle_core::Digest;
use wattle_deploy::image::{Image, ImageReference, Model, Pushed, Registry, Runtime};

use super::{Context, models};
use crate::{
    config::home_folder,
    flags::{ImageBuildFlags, ImageCommand},
    output::{bytes, pairs, print, progress_is_watched},
};

/// What was made, and where it went.
#[derive(Serialize)]
struct Built {
    reference: String,
    digest: Digest,
    bytes: u64,
    layers: Vec<Layer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tar: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oci: Option<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sboms: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed: Option<Sent>,
}

#[derive(Serialize)]
struct Layer {
    digest: Digest,
    bytes: u64,
}

#[derive(Serialize)]
struct Sent {
    reference: String,
    sent_bytes: u64,
    present_bytes: u64,
}

pub(crate) async fn run(context: &Context, command: ImageCommand) -> Result<()> {
    let ImageCommand::Build(flags) = command;
    build(context, flags).await
}

async fn build(context: &Context, flags: ImageBuildFlags) -> Result<()> {
    if let Some(folder) = flags.tar.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        bail!("there is no folder {}: make it, or choose another one with --tar", folder.display());
    }
    // Who is not let in is told before anything is made.
    let registry = match &flags.push {
        Some(reference) => {
            let authorities = context.ca_file.as_deref().map(std::fs::read).transpose();
            let authorities = authorities.context("cannot read the file of --ca-file")?;
            Some(Registry::open(reference, authorities).await?)
        }
        None => None,
    };
    let work = tempfile::tempdir().context("cannot make a folder for temporary files")?;
    let mut models = Vec::new();
    for model in &flags.models {
        let version = models::resolve(&context.client, model).await?;
        let file = work.path().join(format!("{}.model", version.model));
        let bar = progress(version.manifest.bytes, "fetching")?;
        models::download(&context.client, &version, &file, &bar).await?;
        bar.finish_and_clear();
        models.push(Model { version, file });
    }
    let reference = flags.tag.or(flags.push).unwrap_or_else(|| ImageReference::of(&models));
    let folder = work.path().to_owned();
    let image = with_spinner("packing the layers", move || {
        let cache = home_folder("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("wattle/image-layers"));
        Ok(Image::build(&runtime()?, &models, &folder, cache.as_deref())?)
    })
    .await?;
    let image = std::sync::Arc::new(image);
    let mut built = Built {
        reference: reference.to_string(),
        digest: image.manifest.digest,
        bytes: image.bytes(),
        layers: image.layers.iter().map(|layer| Layer { digest: layer.digest, bytes: layer.bytes }).collect(),
        tar: flags.tar,
        oci: flags.oci,
        sboms: Vec::new(),
        pushed: None,
    };
    if let Some(file) = built.tar.clone() {
        let (image, reference) = (image.clone(), reference.clone());
        built.sboms.push(beside(&file));
        with_spinner("writing the archive", move || {
            image.write_archive(&file, &reference).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(std::fs::write(beside(&file), &image.sbom)?)
        })
        .await?;
    }
    if let Some(folder) = built.oci.clone() {
        let (image, reference) = (image.clone(), reference.clone());
        built.sboms.push(beside(&folder));
        with_spinner("writing the folder", move || {
            image
                .write_layout(&folder, &reference)
                .with_context(|| format!("cannot write into {}", folder.display()))?;
            Ok(std::fs::write(beside(&folder), &image.sbom)?)
        })
        .await?;
    }
    if let Some(registry) = registry {
        let bar = progress(image.bytes(), "sending")?;
        let Pushed { reference, sent_bytes, present_bytes } = registry.push(&image, &|sent| bar.inc(sent)).await?;
        bar.finish_and_clear();
        built.pushed = Some(Sent { reference, sent_bytes, present_bytes });
    }
    print(context.output, &built, shown)?;
    Ok(())
}

/// This program, and what it needs.
fn runtime() -> Result<Runtime> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    Ok(Runtime::of(&program, &wattle_engine::onnx::library_path()?)?)
}

/// Where a bill of materials is written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".spdx.json");
    path.with_file_name(name)
}

fn shown(built: &Built) -> String {
    let layers = built.layers.iter().map(|layer| bytes(layer.bytes)).collect::<Vec<_>>().join(" + ");
    let mut rows = vec![("image", built.reference.clone()), ("digest", built.digest.to_string()), ("layers", layers)];
    let path = |path: &Path| path.display().to_string();
    rows.extend(built.tar.as_deref().map(|file| ("archive", path(file))));
    rows.extend(built.oci.as_deref().map(|folder| ("folder", path(folder))));
    rows.extend(built.sboms.iter().map(|file| ("bill of materials", path(file))));
    if let Some(pushed) = &built.pushed {
        rows.push(("pushed", pushed.reference.clone()));
        rows.push(("sent", format!("{}; {} were there", bytes(pushed.sent_bytes), bytes(pushed.present_bytes))));
    }
    if let Some(file) = &built.tar {
        let load = format!("docker load --input {}", file.display());
        rows.push(("next", format!("{load} && docker run --rm --publish 127.0.0.1:8080:8080 {}", built.reference)));
    }
    pairs(&rows)
}

fn progress(length: u64, what: &'static str) -> Result<ProgressBar> {
    if !progress_is_watched() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{msg}  {bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")?;
    Ok(ProgressBar::new(length).with_style(style).with_message(what))
}

async fn with_spinner<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let bar = if progress_is_watched() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    let done = tokio::task::spawn_blocking(work).await;
    bar.finish_and_clear();
    done.map_err(|error| anyhow!(error))?
}
