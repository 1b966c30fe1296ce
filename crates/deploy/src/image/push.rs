//! An image goes to a registry. Source: the Open Container Initiative's Distribution Specification 1.1,
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>.

use std::{fmt::Display, time::Duration};

use bytes::Bytes;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures::{StreamExt, stream};
use http::HeaderValue;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use serde_json::json;
use tokio::{io::AsyncReadExt, sync::mpsc};

use super::{Blob, Content, Image, ImageReference, config::MANIFEST};
use crate::{Error, Result};

const SPDX: &str = "application/spdx+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const CONNECTING: Duration = Duration::from_secs(20);
/// A registry may take its time to store a large layer.
const SILENCE: Duration = Duration::from_secs(300);
const PIECE_BYTES: usize = 1 << 20;

/// A registry that lets us in, and the name that an image gets there.
pub struct Registry {
    client: Client,
    image: Reference,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The name by digest, which never means another image.
    pub reference: String,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes that the registry had already.
    pub present_bytes: u64,
}

impl Registry {
    /// Logs in as whoever `docker login` has written, to send an image of this name. A registry on this machine's loopback is
    /// called by http; `authorities` are certificates, as PEM, to trust besides the system's.
    ///
    /// # Errors
    /// If the registry cannot be reached or refuses.
    pub async fn open(reference: &ImageReference, authorities: Option<Vec<u8>>) -> Result<Registry> {
        let image = reference.whole.clone();
        let registry = image.resolve_registry().to_owned();
        let (client, auth) = (Client::new(settings(&registry, authorities)), login(&registry)?);
        let opened = Registry { client, image };
        let asked = opened.client.auth(&opened.image, &auth, RegistryOperation::Push).await;
        asked.map_err(opened.failed("cannot log in"))?;
        Ok(opened)
    }

    /// Sends what the registry does not have of an image, and attaches the bill of materials.
    ///
    /// `sent` hears of bytes as they are sent.
    ///
    /// # Errors
    /// If the registry cannot be reached or refuses.
    pub async fn push(&self, image: &Image, sent: &(dyn Fn(u64) + Send + Sync)) -> Result<Pushed> {
        let (mut sent_bytes, mut present_bytes) = (0, 0);
        let sbom = Blob::new(SPDX, image.sbom.clone().into_bytes());
        let empty = Blob::new(EMPTY, b"{}".to_vec());
        for blob in image.layers.iter().chain([&image.config, &sbom, &empty]) {
            // What cannot be asked for can still be sent.
            if self.client.blob_exists(&self.image, &blob.digest.to_string()).await.unwrap_or(false) {
                present_bytes += blob.bytes;
                sent(blob.bytes);
                continue;
            }
            self.push_blob(blob, sent).await?;
            sent_bytes += blob.bytes;
        }
        let attached = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": SPDX,
            "config": empty.descriptor(),
            "layers": [sbom.descriptor()],
            "subject": image.manifest.descriptor(),
        });
        let attached = Blob::of_json(MANIFEST, &attached)?;
        let by_digest = |blob: &Blob| self.image.clone_with_digest(blob.digest.to_string());
        for (name, blob) in [(self.image.clone(), &image.manifest), (by_digest(&attached), &attached)] {
            push_manifest(&self.client, &name, blob).await.map_err(self.failed("cannot name the image"))?;
        }
        Ok(Pushed { reference: by_digest(&image.manifest).whole(), sent_bytes, present_bytes })
    }

    async fn push_blob(&self, blob: &Blob, sent: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        let (tell, mut told) = mpsc::unbounded_channel();
        let (pieces, digest) = (pieces(blob, tell).await?, blob.digest.to_string());
        let pushing = self.client.push_blob_stream(&self.image, pieces, &digest, Some(blob.bytes));
        let hearing = async {
            while let Some(bytes) = told.recv().await {
                sent(bytes);
            }
        };
        let (pushed, ()) = tokio::join!(pushing, hearing);
        pushed.map_err(self.failed("cannot send a layer"))?;
        Ok(())
    }

    fn failed(&self, what: &'static str) -> impl Fn(OciDistributionError) -> Error {
        let registry = self.image.resolve_registry().to_owned();
        move |error| Error::Unavailable(format!("{registry}: {what}: {}", words(&error)))
    }
}

async fn push_manifest(client: &Client, name: &Reference, manifest: &Blob) -> Result<(), OciDistributionError> {
    if let Content::Memory(content) = &manifest.content {
        client.push_manifest_raw(name, content.clone(), HeaderValue::from_static(MANIFEST)).await?;
    }
    Ok(())
}

fn settings(registry: &str, authorities: Option<Vec<u8>>) -> ClientConfig {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    ClientConfig {
        protocol: if is_here { ClientProtocol::Http } else { ClientProtocol::Https },
        use_monolithic_push: true,
        extra_root_certificates: authorities
            .into_iter()
            .map(|data| Certificate { encoding: CertificateEncoding::Pem, data })
            .collect(),
        connect_timeout: Some(CONNECTING),
        read_timeout: Some(SILENCE),
        user_agent: concat!("wattle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    }
}

/// What `docker login` wrote for this registry.
fn login(registry: &str) -> Result<RegistryAuth> {
    match docker_credential::get_credential(registry) {
        Ok(DockerCredential::UsernamePassword(name, password)) => Ok(RegistryAuth::Basic(name, password)),
        Ok(DockerCredential::IdentityToken(token)) => Ok(RegistryAuth::Bearer(token)),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => Ok(RegistryAuth::Anonymous),
        Err(error) => Err(Error::Invalid(format!("cannot read what docker login wrote for {registry}: {error}"))),
    }
}

/// The bytes of a blob, piece by piece, and how many each time.
async fn pieces(
    blob: &Blob,
    tell: mpsc::UnboundedSender<u64>,
) -> Result<stream::BoxStream<'static, Result<Bytes, OciDistributionError>>> {
    let told = move |bytes: usize| {
        let _ = tell.send(bytes as u64);
    };
    Ok(match &blob.content {
        Content::Memory(content) => {
            let content = Bytes::from(content.clone());
            stream::once(async move {
                told(content.len());
                Ok(content)
            })
            .boxed()
        }
        Content::File(path) => {
            let file = tokio::fs::File::open(path).await?;
            stream::try_unfold((file, told), |(mut file, told)| async move {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await?;
                told(piece.len());
                Ok((!piece.is_empty()).then(|| (Bytes::from(piece), (file, told))))
            })
            .boxed()
        }
    })
}

/// What went wrong and why, which the client's own words leave out.
fn words(error: &OciDistributionError) -> impl Display {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = error.source();
    }
    text
}
