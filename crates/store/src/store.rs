use std::{
    fs::{self, DirBuilder, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

use crate::{
    Blobs, Error, Result, Staging,
    blobs::{blocking, sync_folder},
    catalogue::Catalogue,
};

/// The data folder of one server: the blobs, the catalogue and what is under way. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data_dir: PathBuf,
    blobs: Blobs,
    staging: Staging,
    catalogue: Catalogue,
    /// Imports share it from before their blob is written until the catalogue names it; gc needs it alone.
    imports: RwLock<()>,
    /// Held until the last clone is dropped or the process ends, however it ends.
    _lock: File,
}

impl Store {
    /// Opens the data folder, or makes it so that only this user may enter, and brings its catalogue up to date.
    ///
    /// [`Error::Unavailable`] when another server has it, or when a newer version of the software wrote it.
    pub async fn open(data_dir: &Path) -> Result<Store> {
        let folder = data_dir.to_owned();
        let (lock, blobs, staging) = match tokio::task::spawn_blocking(move || prepare(&folder)).await {
            Ok(prepared) => prepared?,
            Err(error) => return Err(Error::Io(error.into())),
        };
        let catalogue = Catalogue::open(&data_dir.join("catalogue.sqlite")).await?;
        let folder = data_dir.to_owned();
        blocking(move || sync_folder(&folder)).await?;
        let data_dir = data_dir.to_owned();
        let inner = Inner { data_dir, blobs, staging, catalogue, imports: RwLock::new(()), _lock: lock };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// Closes the catalogue when what is under way has ended; later operations fail.
    pub async fn close(&self) {
        self.inner.catalogue.close().await;
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.inner.data_dir
    }

    /// The working folder of a training job, which may not exist.
    pub fn job_dir(&self, id: Uuid) -> PathBuf {
        self.inner.data_dir.join("jobs").join(id.to_string())
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// The place for files under way.
    pub fn staging(&self) -> &Staging {
        &self.inner.staging
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.inner.catalogue
    }

    /// To be held from before a blob is written until the catalogue names it.
    pub(crate) async fn begin_import(&self) -> RwLockReadGuard<'_, ()> {
        self.inner.imports.read().await
    }

    /// Waits until no import is under way and lets none begin.
    pub(crate) async fn without_imports(&self) -> RwLockWriteGuard<'_, ()> {
        self.inner.imports.write().await
    }
}

fn prepare(data_dir: &Path) -> Result<(File, Blobs, Staging)> {
    if !data_dir.is_dir() {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(data_dir)?;
    }
    let lock = File::options().create(true).truncate(false).write(true).open(data_dir.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Unavailable(format!(
                "the data folder {} is used by another wattle server: stop that one, or choose another --data-dir",
                data_dir.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let blobs = Blobs::local(&data_dir.join("blobs"))?;
    let staging = Staging::open(&data_dir.join("staging"))?;
    fs::create_dir_all(data_dir.join("jobs"))?;
    Ok((lock, blobs, staging))
}
