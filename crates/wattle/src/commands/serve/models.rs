//! What a worker serves: each model of a folder, in a folder of its own as `wattle models export` writes it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use wattle_core::{ModelReference, Name, Selector};
use wattle_deploy::{
    DeploymentRequest, Deployments,
    image::{MANIFEST_FILE, artefact_file},
};
use wattle_serve::Server;
use wattle_store::{Isolation, ModelVersion, Settings, Store};

use super::fetch;
use crate::{client::Client, config::Worker};

/// The most that a manifest may have; a signature of a million columns has less.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Makes the models that a worker was told to serve, or else those of its folder, the highest version of each, the ones that
/// this store's deployments serve, and no others. The files stay where they are.
///
/// # Errors
/// If there are none, or one is not whole, or cannot be fetched.
pub(super) async fn deploy(worker: &Worker, ca_file: Option<&Path>, store: &Store) -> Result<Vec<Name>> {
    let folder = &worker.models_dir;
    let mut models = BTreeMap::new();
    if worker.models.is_empty() {
        models = find(folder)?;
    }
    let source = worker.source.as_ref().map(|url| Client::new(url, ca_file)).transpose()?;
    for wanted in &worker.models {
        let (version, file) = fetch::find(wanted, folder, source.as_ref()).await?;
        if let Some((other, _)) = models.insert(version.model.clone(), (version, file)) {
            bail!("a worker serves one version of a model, and {} was named twice", other.model);
        }
    }
    if models.is_empty() {
        bail!(
            "there is no model in {}: `wattle models export MODEL {}` puts one there",
            folder.display(),
            folder.join("MODEL").display()
        );
    }
    let deployments = Deployments::new(store.clone());
    for deployment in store.deployments().await? {
        if models.get(&deployment.name).is_none_or(|(version, _)| version.id() != deployment.id()) {
            deployments.undeploy(&deployment.name).await?;
        }
    }
    for (version, file) in models.values() {
        store.adopt_version(version, file).await?;
        if store.find_deployment(&version.model).await?.is_some() {
            continue;
        }
        let selector = Selector::Version(version.version);
        let reference = ModelReference { model: version.model.clone(), selector };
        // The container is the process whose crash costs nobody else anything.
        let isolation = Some(Isolation::Thread);
        let settings = Settings { pin: Some(true), isolation, ..Settings::default() };
        let request = DeploymentRequest { settings, ..DeploymentRequest::of(reference) };
        deployments.deploy(request, |_, _, _| async { Ok(()) }).await?;
    }
    Ok(models.into_keys().collect())
}

/// Loads them, so that whoever finds this worker ready is answered at once.
///
/// # Errors
/// If one cannot be loaded.
pub(super) async fn load(names: &[Name], server: &Server) -> Result<()> {
    for name in names {
        server.load(name).await.with_context(|| format!("cannot load {name}"))?;
    }
    Ok(())
}

fn find(folder: &Path) -> Result<BTreeMap<Name, (ModelVersion, PathBuf)>> {
    let mut models: BTreeMap<Name, (ModelVersion, PathBuf)> = BTreeMap::new();
    let unreadable = || format!("cannot read the folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let one = entry.with_context(unreadable)?.path();
        let Some(version) = read(&one.join(MANIFEST_FILE))? else { continue };
        let file = one.join(artefact_file(&version.manifest.format));
        let is_newer = models.get(&version.model).is_none_or(|(there, _)| there.version < version.version);
        if is_newer {
            models.insert(version.model.clone(), (version, file));
        }
    }
    Ok(models)
}

pub(super) fn read(path: &Path) -> Result<Option<ModelVersion>> {
    let unreadable = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(unreadable),
    };
    let mut text = String::new();
    file.take(MAX_MANIFEST_BYTES).read_to_string(&mut text).with_context(unreadable)?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is no manifest of a model", path.display()))
}
