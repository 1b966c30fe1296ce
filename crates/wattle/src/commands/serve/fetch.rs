//! What a worker is told to serve and does not have: fetched from the server that has it, and kept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use wattle_core::{Digest, ModelReference, Selector};
use wattle_deploy::image::{MANIFEST_FILE, artefact_file};
use wattle_store::{ModelVersion, digest_file};

use super::models::read;
use crate::{client::Client, commands::models, config::Wanted};

/// The version and its artefact in a folder of `cache`, from there if it is there and whole, else from a server.
///
/// # Errors
/// If it is not there and cannot be fetched, or is another one than was wanted.
pub(super) async fn find(wanted: &Wanted, cache: &Path, source: Option<&Client>) -> Result<(ModelVersion, PathBuf)> {
    if let Some(digest) = wanted.digest
        && let Some(found) = kept(wanted, cache, digest).await?
    {
        return Ok(found);
    }
    let Some(source) = source else {
        bail!(
            "{wanted} is not in {}, and no server is named to fetch it from: say which with --models-source",
            cache.display()
        );
    };
    let version = models::resolve(source, &wanted.reference).await.with_context(|| format!("cannot fetch {wanted}"))?;
    let digest = version.manifest.digest;
    if let Some(other) = wanted.digest.filter(|wanted| *wanted != digest) {
        bail!("{} is {digest} at {}, and not {other}", wanted.reference, source.url());
    }
    if let Some(found) = kept(wanted, cache, digest).await? {
        return Ok(found);
    }
    let folder = fetch(&version, cache, source).await.with_context(|| format!("cannot fetch {wanted}"))?;
    let file = folder.join(artefact_file(&version.manifest.format));
    Ok((version, file))
}

/// What the cache has, if that is what is wanted, byte by byte.
async fn kept(wanted: &Wanted, cache: &Path, digest: Digest) -> Result<Option<(ModelVersion, PathBuf)>> {
    let folder = folder_of(cache, &wanted.reference, digest);
    let Ok(Some(version)) = read(&folder.join(MANIFEST_FILE)) else { return Ok(None) };
    if reference(&version) != wanted.reference
        || version.manifest.digest != digest
        || !is_whole(&folder, &version).await
    {
        return Ok(None);
    }
    let file = folder.join(artefact_file(&version.manifest.format));
    Ok(Some((version, file)))
}

/// Puts a version into its folder of the cache, whole or not at all.
async fn fetch(version: &ModelVersion, cache: &Path, source: &Client) -> Result<PathBuf> {
    tracing::info!(model = %version.id(), bytes = version.manifest.bytes, from = source.url(), "fetching a model");
    let unwritable = || format!("cannot write into {}", cache.display());
    std::fs::create_dir_all(cache).with_context(unwritable)?;
    let part = tempfile::Builder::new().prefix(".fetching-").tempdir_in(cache).with_context(unwritable)?;
    let file = part.path().join(artefact_file(&version.manifest.format));
    models::download(source, version, &file, &ProgressBar::hidden()).await?;
    std::fs::write(part.path().join(MANIFEST_FILE), serde_json::to_vec_pretty(version)?).with_context(unwritable)?;
    let target = folder_of(cache, &reference(version), version.manifest.digest);
    if std::fs::rename(part.path(), &target).is_ok() || is_whole(&target, version).await {
        // Another worker was quicker, and its copy is as good.
        return Ok(target);
    }
    std::fs::remove_dir_all(&target).with_context(unwritable)?;
    std::fs::rename(part.path(), &target).with_context(unwritable)?;
    Ok(target)
}

fn reference(version: &ModelVersion) -> ModelReference {
    ModelReference { model: version.model.clone(), selector: Selector::Version(version.version) }
}

/// Where a version is kept; the digest tells servers apart that number their versions alike.
fn folder_of(cache: &Path, reference: &ModelReference, digest: Digest) -> PathBuf {
    cache.join(format!("{}-{}", reference.to_string().replace(':', "-"), digest.short()))
}

/// Whether a folder has the artefact of a version, byte by byte.
async fn is_whole(folder: &Path, version: &ModelVersion) -> bool {
    let file = folder.join(artefact_file(&version.manifest.format));
    digest_file(&file).await.is_ok_and(|(digest, _)| digest == version.manifest.digest)
}
