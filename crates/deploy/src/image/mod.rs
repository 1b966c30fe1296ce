//! Container images, made without a container engine: a layer for the program and one for each model, so that a further
//! model or version takes the other layers as they are.
//!
//! The same files give the same bytes. Source: the Open Container Initiative's Image Format Specification 1.1,
//! <https://github.com/opencontainers/image-spec/blob/v1.1.1/spec.md>.

mod blob;
mod config;
mod files;
mod layer;
mod push;
mod reference;
mod runtime;
mod sbom;

use std::path::{Path, PathBuf};

use wattle_store::ModelVersion;

pub use blob::{Blob, Content};
pub use push::{Pushed, Registry};
pub use reference::ImageReference;
pub use runtime::Runtime;

use crate::Result;

/// The file of a folder of a model, as `wattle models export` writes it, that says what is known of the model.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Where an image has its models, each in a folder of its name.
const MODELS_DIR: &str = "/models";
/// Where an image has the program.
const PROGRAM: &str = "/usr/bin/wattle";
/// The port that an image answers on.
const PORT: u16 = 8080;

/// The name of the artefact in a folder of a model.
pub fn artefact_file(format: &str) -> &'static str {
    match format {
        "gguf" => "model.gguf",
        "pipeline" => "pipeline.toml",
        _ => "model.onnx",
    }
}

/// A model for an image.
#[derive(Debug, Clone)]
pub struct Model {
    /// What is known of it.
    pub version: ModelVersion,
    /// Its artefact.
    pub file: PathBuf,
}

/// An image: what a container engine or a registry takes.
#[derive(Debug)]
pub struct Image {
    /// The manifest, whose digest is the image's.
    pub manifest: Blob,
    /// What a container runs.
    pub config: Blob,
    /// The program first, then the models by their names.
    pub layers: Vec<Blob>,
    /// What is in it: a software bill of materials in the form of SPDX 2.3, as JSON.
    pub sbom: String,
}

impl Image {
    /// Makes the image of a program that serves these models, or fetches what it is told to serve where there are none.
    /// Layers are written into the folder `work`, which has to stay as long as the image is of use; that of the program, which
    /// takes the longest, is kept in the folder `cache` for the next image.
    ///
    /// # Errors
    /// If a file cannot be read or written, or two models have one name.
    pub fn build(runtime: &Runtime, models: &[Model], work: &Path, cache: Option<&Path>) -> Result<Image> {
        let mut models: Vec<&Model> = models.iter().collect();
        models.sort_by(|one, other| one.version.model.cmp(&other.version.model));
        if let Some(pair) = models.windows(2).find(|pair| pair[0].version.model == pair[1].version.model) {
            let name = &pair[0].version.model;
            return Err(crate::Error::Invalid(format!(
                "an image has one version of a model, and {name} was named twice"
            )));
        }
        let mut layers = vec![layer::of_runtime(runtime, work, cache)?];
        for model in &models {
            layers.push(layer::of_model(model, work)?);
        }
        let config = config::config(&models, &layers)?;
        let layers: Vec<Blob> = layers.into_iter().map(|layer| layer.blob).collect();
        let manifest = config::manifest(&config, &layers)?;
        let sbom = sbom::sbom(runtime, &models, manifest.digest)?;
        Ok(Image { manifest, config, layers, sbom })
    }

    /// The size of everything that is sent or kept, in bytes.
    pub fn bytes(&self) -> u64 {
        self.blobs().map(|blob| blob.bytes).sum()
    }

    /// The layers, the configuration and the manifest, in the order in which a registry takes them.
    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }
}
