//! TLS by certificate files, which are read again when they change.

use std::{io, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio_util::task::AbortOnDropHandle;

/// How often to look whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Where a certificate and its key are, as PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and after it those of the authorities between it and the root.
    pub cert: PathBuf,
    /// Its private key, without a passphrase.
    pub key: PathBuf,
}

/// A certificate that can be used, and where it came from.
#[derive(Debug, Clone)]
pub struct Tls {
    files: TlsFiles,
    seen: Option<[Stamp; 2]>,
    config: Arc<ServerConfig>,
}

/// What changes of a file when it is written or replaced.
type Stamp = (u64, i64, i64, u64);

impl Tls {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be; the error says which and why.
    pub async fn open(files: TlsFiles) -> io::Result<Tls> {
        // What changes while it is read is read again.
        let seen = files.stamps().await.ok();
        let config = files.read().await?;
        Ok(Tls { files, seen, config })
    }

    /// The certificate now and after each change of its files, until the task is dropped.
    ///
    /// A change that cannot be used is logged, and the certificate before it stays.
    pub(super) fn follow(mut self) -> (watch::Receiver<Arc<ServerConfig>>, AbortOnDropHandle<()>) {
        let (sender, receiver) = watch::channel(Arc::clone(&self.config));
        let following = tokio::spawn(async move {
            loop {
                sleep(LOOK_INTERVAL).await;
                match self.files.stamps().await {
                    Ok(stamps) if Some(stamps) != self.seen => self.seen = Some(stamps),
                    // One that is being replaced may be absent for a moment.
                    _ => continue,
                }
                match self.files.read().await {
                    Ok(config) => {
                        tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
                        sender.send_replace(config);
                    }
                    Err(error) => tracing::error!(%error, "the certificate has changed and the old one is kept"),
                }
            }
        });
        (receiver, AbortOnDropHandle::new(following))
    }
}

impl TlsFiles {
    async fn stamps(&self) -> io::Result<[Stamp; 2]> {
        let stamp = async |path| {
            let metadata = tokio::fs::metadata(path).await?;
            io::Result::Ok((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
        };
        Ok([stamp(&self.cert).await?, stamp(&self.key).await?])
    }

    async fn read(&self) -> io::Result<Arc<ServerConfig>> {
        let (cert, key) = (self.cert.display(), self.key.display());
        let unusable = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let cannot_read = |path, error: io::Error| io::Error::new(error.kind(), format!("cannot read {path}: {error}"));
        let pem = tokio::fs::read(&self.cert).await.map_err(|error| cannot_read(&cert, error))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, pem::Error>>()
            .map_err(|error| unusable(format!("{cert} is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(unusable(format!("{cert} holds no certificate: it must be PEM, with a BEGIN CERTIFICATE")));
        }
        let pem = tokio::fs::read(&self.key).await.map_err(|error| cannot_read(&key, error))?;
        let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            unusable(format!(
                "{key} holds no private key: it must be PEM, with a BEGIN PRIVATE KEY, and without a passphrase"
            ))
        })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    unusable(format!("the key in {key} is not that of the certificate in {cert}"))
                }
                error => unusable(format!("the certificate in {cert} and its key cannot be used: {error}")),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
