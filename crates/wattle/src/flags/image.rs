use std::path::PathBuf;

use clap::{Args, Subcommand};
use wattle_core::ModelReference;
use wattle_deploy::image::ImageReference;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make a container image of this program and models; no container engine is needed.
    Build(ImageBuildFlags),
}

#[derive(Debug, Args)]
#[command(
    after_help = "A container of the image serves its models on port 8080, as a user without rights, and needs no writable root. The program is one layer and each model another one, so that a further version sends or keeps its own layer alone. The same models give the same digest. A bill of materials (SPDX) is written beside the image, or attached to it in the registry.\n\nExamples:\n  wattle image build line --tar line.tar && docker load --input line.tar\n  wattle image build line:2 birds@champion --push registry.example/team/birds:2\n  wattle image build --runtime-only --oci wattle-image"
)]
pub(crate) struct ImageBuildFlags {
    /// The models; without a version the latest one, as in NAME, NAME:2 or NAME@champion.
    #[arg(value_name = "MODEL", required_unless_present = "runtime_only")]
    pub(crate) models: Vec<ModelReference>,
    /// Put no model in: containers are told what to serve.
    #[arg(long, conflicts_with = "models")]
    pub(crate) runtime_only: bool,
    /// Write an archive for `docker load`, `podman load` or `ctr images import`.
    #[arg(long, value_name = "FILE")]
    pub(crate) tar: Option<PathBuf>,
    /// Write a folder in OCI's layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) oci: Option<PathBuf>,
    /// Send to a registry what it does not have, as who `docker login` says.
    #[arg(long, value_name = "REFERENCE", value_parser = image_reference, required_unless_present_any = ["tar", "oci"])]
    pub(crate) push: Option<ImageReference>,
    /// The image's name in an archive or a folder [default: wattle/MODEL:VERSION of the first model].
    #[arg(long, value_name = "REFERENCE", value_parser = image_reference)]
    pub(crate) tag: Option<ImageReference>,
}

fn image_reference(text: &str) -> Result<ImageReference, String> {
    text.parse().map_err(|error: wattle_deploy::Error| error.to_string())
}
