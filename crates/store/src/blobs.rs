use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as Key};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use wattle_core::Digest;

use crate::{Error, Result};

/// How much of a file is in memory at a time, in bytes; object stores want parts of at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// Immutable bytes under their SHA-256.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    folder: PathBuf,
}

impl Blobs {
    /// The blobs in a local folder, which is made if it is not there. Parts of blobs that a crash left are removed.
    pub fn local(root: &Path) -> Result<Blobs> {
        let folder = root.join("sha256");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if digest_of_name(&entry.file_name().to_string_lossy()).is_none() {
                tracing::info!(name = %entry.file_name().display(), "removing a blob that was never completed");
                fs::remove_file(entry.path())?;
            }
        }
        sync_folder(root)?;
        let store = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        Ok(Blobs { store: Arc::new(store), folder })
    }

    /// Stores the bytes of a file and gives their digest and number; what is there already is not written again.
    ///
    /// The blob is on the disk, not only in its cache, when this returns. Needs a few MiB of memory whatever the size.
    pub async fn put_file(&self, path: &Path) -> Result<(Digest, u64)> {
        let (digest, bytes) = digest_file(path).await?;
        self.put_known_file(path, digest, bytes).await?;
        Ok((digest, bytes))
    }

    /// As [`Blobs::put_file`], for a file whose digest was just computed.
    pub(crate) async fn put_known_file(&self, path: &Path, digest: Digest, bytes: u64) -> Result<()> {
        if self.keep_present(digest, bytes).await? {
            return Ok(());
        }
        let source = path.to_owned();
        let mut file = blocking(move || fs::File::open(source)).await?;
        let mut hasher = Sha256::new();
        let mut upload = self.store.put_multipart(&key(digest)).await?;
        loop {
            let part;
            (file, hasher, part) = blocking(move || {
                let part = read_part(&mut file)?;
                hasher.update(&part);
                Ok((file, hasher, part))
            })
            .await?;
            if part.is_empty() {
                break;
            }
            upload.put_part(part.into()).await?;
        }
        if finish(hasher) != digest {
            upload.abort().await?;
            return Err(Error::Conflict(
                "the file changed while it was being stored: try again when it is complete".into(),
            ));
        }
        upload.complete().await?;
        Ok(())
    }

    /// Has a file that stays where it is answer for the blob with this digest, which it is trusted to have.
    pub(crate) async fn link(&self, digest: Digest, bytes: u64, file: &Path) -> Result<()> {
        let (file, place) = (std::path::absolute(file)?, self.folder.join(digest.hex()));
        blocking(move || {
            let found = fs::metadata(&file)?.len();
            if found != bytes {
                let message = format!("{} has {found} bytes and not {bytes}: copy it again", file.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            match fs::symlink_metadata(&place) {
                Ok(there) if !there.is_symlink() && there.len() == bytes => return Ok(()),
                // Of an earlier start, from wherever the file was then.
                Ok(_) => fs::remove_file(&place)?,
                Err(_) => {}
            }
            std::os::unix::fs::symlink(&file, &place)
        })
        .await
    }

    /// A file of the local disk that holds the blob, to be read or mapped, never written.
    pub async fn local_path(&self, digest: Digest) -> Result<PathBuf> {
        if self.size(digest).await?.is_none() {
            return Err(Error::NotFound(format!("no blob {digest}")));
        }
        Ok(self.folder.join(digest.hex()))
    }

    /// The size of a blob in bytes, or `None` when it is not there.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>> {
        match self.store.head(&key(digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the whole blob and gives its size in bytes; an error when it is missing or its bytes are others.
    pub async fn verify(&self, digest: Digest) -> Result<u64> {
        let (found, bytes) = digest_file(&self.local_path(digest).await?).await?;
        if found != digest {
            return Err(Error::Corrupt(format!(
                "blob {digest} holds other bytes, with digest {found}: restore it from a copy"
            )));
        }
        Ok(bytes)
    }

    /// All blobs with their sizes in bytes.
    pub async fn list(&self) -> Result<Vec<(Digest, u64)>> {
        self.store
            .list(Some(&Key::from("sha256")))
            .map_err(Error::from)
            .try_filter_map(|meta| async move {
                Ok(meta.location.filename().and_then(digest_of_name).map(|digest| (digest, meta.size)))
            })
            .try_collect()
            .await
    }

    /// Removes a blob; one that is not there is removed already.
    pub async fn delete(&self, digest: Digest) -> Result<()> {
        match self.store.delete(&key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the blob is there with the right size; if so, it is also made to survive a loss of power.
    ///
    /// The one who wrote it may have crashed, or be, between giving it its name and flushing the folder.
    async fn keep_present(&self, digest: Digest, bytes: u64) -> Result<bool> {
        if self.size(digest).await? != Some(bytes) {
            return Ok(false);
        }
        let folder = self.folder.clone();
        blocking(move || {
            fs::File::open(folder.join(digest.hex()))?.sync_all()?;
            sync_folder(&folder)
        })
        .await?;
        Ok(true)
    }
}

/// The digest of a file's bytes and how many there are.
pub async fn digest_file(path: &Path) -> Result<(Digest, u64)> {
    let path = path.to_owned();
    blocking(move || digest_file_here(&path)).await
}

/// The same on this thread, which waits for the disk.
pub fn digest_file_here(path: &Path) -> io::Result<(Digest, u64)> {
    let mut hasher = HashWriter(Sha256::new());
    let bytes = io::copy(&mut io::BufReader::with_capacity(1 << 20, fs::File::open(path)?), &mut hasher)?;
    Ok((finish(hasher.0), bytes))
}

/// Flushes a folder's entries to the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Runs something that waits for the disk, or computes for long, where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Unavailable("the server is shutting down".into())),
    }
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn key(digest: Digest) -> Key {
    Key::from(format!("sha256/{}", digest.hex()))
}

fn digest_of_name(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

fn finish(hasher: Sha256) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

/// Fills a part, which is short only at the end of the file.
fn read_part(file: &mut fs::File) -> io::Result<Bytes> {
    let mut part = BytesMut::zeroed(PART_BYTES);
    let mut filled = 0;
    while filled < PART_BYTES {
        match file.read(&mut part[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    part.truncate(filled);
    Ok(part.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        (folder, blobs)
    }

    async fn put(blobs: &Blobs, content: &[u8]) -> (Digest, u64) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        blobs.put_file(file.path()).await.unwrap()
    }

    #[tokio::test]
    async fn bytes_come_back_under_their_digest() {
        let (_folder, blobs) = blobs();
        let (digest, bytes) = put(&blobs, b"hello").await;
        assert_eq!((digest.to_string().as_str(), bytes), (HELLO, 5));
        assert_eq!(put(&blobs, b"hello").await, (digest, 5));
        assert_eq!(fs::read(blobs.local_path(digest).await.unwrap()).unwrap(), b"hello");
        assert_eq!(blobs.list().await.unwrap(), [(digest, 5)]);
        assert_eq!(blobs.verify(digest).await.unwrap(), 5);
        blobs.delete(digest).await.unwrap();
        blobs.delete(digest).await.unwrap();
        assert_eq!(blobs.size(digest).await.unwrap(), None);
        assert!(matches!(blobs.local_path(digest).await, Err(Error::NotFound(_))));
    }

    #[tokio::test]
    async fn files_of_several_parts_and_of_none_are_stored_whole() {
        let (folder, blobs) = blobs();
        let path = folder.path().join("file");
        for size in [0, 1, PART_BYTES + 1] {
            let content: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            fs::write(&path, &content).unwrap();
            let (digest, bytes) = blobs.put_file(&path).await.unwrap();
            assert_eq!((digest, bytes), (Digest::from_bytes(Sha256::digest(&content).into()), size as u64));
            assert_eq!(blobs.verify(digest).await.unwrap(), size as u64);
        }
    }

    #[tokio::test]
    async fn rot_is_noticed_and_a_truncated_blob_is_written_again() {
        let (folder, blobs) = blobs();
        let (digest, _) = put(&blobs, b"hello").await;
        let path = folder.path().join("sha256").join(digest.hex());
        fs::write(&path, b"jello").unwrap();
        assert!(matches!(blobs.verify(digest).await, Err(Error::Corrupt(_))));
        fs::write(&path, b"hel").unwrap();
        put(&blobs, b"hello").await;
        assert_eq!(blobs.verify(digest).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_file_that_changes_under_way_is_refused_and_leaves_nothing() {
        let (folder, blobs) = blobs();
        let path = folder.path().join("file");
        fs::write(&path, b"before").unwrap();
        let (digest, bytes) = digest_file(&path).await.unwrap();
        fs::write(&path, b"after!").unwrap();
        assert!(matches!(blobs.put_known_file(&path, digest, bytes).await, Err(Error::Conflict(_))));
        assert_eq!(fs::read_dir(folder.path().join("sha256")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_unfinished_is_swept() {
        let (folder, blobs) = blobs();
        let (digest, _) = put(&blobs, b"hello").await;
        let part = folder.path().join("sha256").join(format!("{}#1", digest.hex()));
        fs::write(&part, b"hel").unwrap();
        let blobs = Blobs::local(folder.path()).unwrap();
        assert!(!part.exists());
        assert_eq!(blobs.list().await.unwrap(), [(digest, 5)]);
    }
}
