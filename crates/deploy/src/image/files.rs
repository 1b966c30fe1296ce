//! An image as files: a layout of OCI in a folder or in an archive.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::{Blob, Image, ImageReference, config};
use crate::{Error, Result};

impl Image {
    /// Writes a folder in the form of the Image Layout Specification. What it holds already stays, other images' layers
    /// as well, but it is this image that the index names.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn write_layout(&self, folder: &Path, reference: &ImageReference) -> Result<()> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for blob in self.blobs() {
            let path = folder.join(blob.path());
            if fs::metadata(&path).is_ok_and(|there| there.len() == blob.bytes) {
                continue;
            }
            put(&path, &mut blob.open()?)?;
        }
        put(&folder.join("oci-layout"), &mut layout().to_string().as_bytes())?;
        put(&folder.join("index.json"), &mut config::index(&self.manifest, reference).to_string().as_bytes())
    }

    /// Writes an archive that `docker load`, `podman load` and `ctr images import` take: a layout of OCI with the
    /// `manifest.json` beside it that Docker before version 25 reads instead.
    ///
    /// # Errors
    /// If something cannot be written; then there is no such file.
    pub fn write_archive(&self, file: &Path, reference: &ImageReference) -> Result<()> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let part = tempfile::NamedTempFile::new_in(folder)?;
        self.pack(BufWriter::with_capacity(1 << 20, part.as_file()), reference)?;
        persist(part, file)
    }

    /// Writes such an archive to wherever it goes.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn pack(&self, into: impl Write, reference: &ImageReference) -> Result<()> {
        let docker = json!([{
            "Config": self.config.path(),
            "RepoTags": [reference.to_string()],
            "Layers": self.layers.iter().map(Blob::path).collect::<Vec<_>>(),
        }]);
        let index = config::index(&self.manifest, reference);
        let mut builder = Builder::new(into);
        for (name, value) in [("oci-layout", layout()), ("index.json", index), ("manifest.json", docker)] {
            let text = value.to_string();
            append(&mut builder, name, text.len() as u64, text.as_bytes())?;
        }
        for blob in self.blobs() {
            append(&mut builder, &blob.path(), blob.bytes, blob.open()?)?;
        }
        builder.into_inner()?.flush()?;
        Ok(())
    }
}

fn layout() -> Value {
    json!({ "imageLayoutVersion": "1.0.0" })
}

fn append(builder: &mut Builder<impl Write>, path: &str, bytes: u64, content: impl io::Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o444);
    header.set_size(bytes);
    header.set_mtime(0);
    builder.append_data(&mut header, path, content)
}

/// Writes a file whole or not at all.
pub(super) fn put(path: &Path, content: &mut dyn io::Read) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let part = tempfile::NamedTempFile::new_in(folder)?;
    let mut file: &File = part.as_file();
    io::copy(content, &mut file)?;
    persist(part, path)
}

/// Temporary files are private; an image is meant to be read.
fn persist(part: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(part.path(), fs::Permissions::from_mode(0o644))?;
    part.persist(path).map_err(|error| Error::Io(error.error))?;
    Ok(())
}
