//! Layers: archives whose bytes depend on nothing but the names and the contents of their files.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use wattle_core::Digest;
use wattle_store::digest_file_here;

use super::{Blob, Content, MANIFEST_FILE, MODELS_DIR, Model, Runtime, artefact_file, blob::Hashed, files::put};
use crate::{Error, Result};

const COMPRESSED: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer, and what an image's configuration tells of it.
pub(super) struct Layer {
    pub(super) blob: Blob,
    /// The digest of the archive before it was compressed.
    pub(super) diff_id: Digest,
    pub(super) about: String,
}

/// What is at a path of the image.
enum Entry<'a> {
    Folder,
    File { source: &'a Path, is_program: bool },
    Text(String),
}

/// The program and the libraries that it needs, out of the cache if that has them.
pub(super) fn of_runtime(runtime: &Runtime, work: &Path, cache: Option<&Path>) -> Result<Layer> {
    let cached = cache.map(|cache| Cached::of(runtime, cache));
    if let Some(layer) = cached.as_ref().and_then(Cached::take) {
        return Ok(layer);
    }
    let mut entries = BTreeMap::new();
    for file in &runtime.files {
        entries.insert(file.path.clone(), Entry::File { source: &file.source, is_program: true });
    }
    let layer = pack(entries, true, work, about_runtime())?;
    if let Some(Err(error)) = cached.map(|cached| cached.keep(&layer)) {
        // The next image takes longer.
        tracing::debug!(%error, "a layer is not kept");
    }
    Ok(layer)
}

fn about_runtime() -> String {
    format!("wattle {}", env!("CARGO_PKG_VERSION"))
}

/// A layer of a program in the cache, and what is known of it.
struct Cached {
    layer: PathBuf,
    known: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Known {
    digest: Digest,
    diff_id: Digest,
}

impl Cached {
    /// The place for a layer of exactly these files.
    fn of(runtime: &Runtime, cache: &Path) -> Cached {
        let mut hasher = Sha256::new();
        for file in &runtime.files {
            hasher.update(format!("{} {}\n", file.digest, file.path.display()));
        }
        let name = Digest::from_bytes(hasher.finalize().into()).hex();
        Cached { layer: cache.join(format!("{name}.tar.gz")), known: cache.join(format!("{name}.json")) }
    }

    /// The layer, if it is there and whole.
    fn take(&self) -> Option<Layer> {
        let known: Known = serde_json::from_slice(&fs::read(&self.known).ok()?).ok()?;
        let (digest, bytes) = digest_file_here(&self.layer).ok()?;
        let content = Content::File(self.layer.clone());
        let blob = Blob { media_type: COMPRESSED, digest, bytes, content };
        (digest == known.digest).then(|| Layer { blob, diff_id: known.diff_id, about: about_runtime() })
    }

    fn keep(&self, layer: &Layer) -> Result<()> {
        let folder = self.layer.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Of other programs, which are rarely needed again.
        for old in fs::read_dir(folder)? {
            fs::remove_file(old?.path())?;
        }
        let known = Known { digest: layer.blob.digest, diff_id: layer.diff_id };
        let known = serde_json::to_vec(&known).map_err(|error| Error::Io(error.into()))?;
        put(&self.layer, &mut layer.blob.open()?)?;
        put(&self.known, &mut known.as_slice())
    }
}

/// A model's folder, as `wattle models export` writes it. Weights do not compress, so that they are not.
pub(super) fn of_model(model: &Model, work: &Path) -> Result<Layer> {
    let version = &model.version;
    let folder = Path::new(MODELS_DIR).join(version.model.as_str());
    let described = serde_json::to_string_pretty(version).map_err(|error| Error::Io(error.into()))? + "\n";
    let entries = BTreeMap::from([
        (folder.join(MANIFEST_FILE), Entry::Text(described)),
        (folder.join(artefact_file(&version.manifest.format)), Entry::File { source: &model.file, is_program: false }),
    ]);
    pack(entries, false, work, format!("{}:{}", version.model, version.version))
}

fn pack(mut entries: BTreeMap<PathBuf, Entry>, compress: bool, work: &Path, about: String) -> Result<Layer> {
    let folders: Vec<PathBuf> = entries.keys().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
    for folder in folders.into_iter().filter(|folder| folder.parent().is_some()) {
        entries.entry(folder).or_insert(Entry::Folder);
    }
    let part = tempfile::NamedTempFile::new_in(work)?;
    let file = Hashed::new(BufWriter::with_capacity(1 << 20, part.reopen()?));
    let (file, diff_id) = if compress {
        let (encoder, diff_id) = archive(&entries, GzEncoder::new(file, Compression::default()))?;
        (encoder.finish()?, diff_id)
    } else {
        archive(&entries, file)?
    };
    let (mut file, digest, bytes) = file.finish();
    file.flush()?;
    let path = work.join(digest.hex());
    part.persist(&path).map_err(|error| error.error)?;
    let media_type = if compress { COMPRESSED } else { PLAIN };
    Ok(Layer { blob: Blob { media_type, digest, bytes, content: Content::File(path) }, diff_id, about })
}

fn archive<W: Write>(entries: &BTreeMap<PathBuf, Entry>, into: W) -> io::Result<(W, Digest)> {
    let mut builder = Builder::new(Hashed::new(into));
    for (path, entry) in entries {
        match entry {
            Entry::Folder => append(&mut builder, path, EntryType::Directory, 0o755, 0, io::empty())?,
            Entry::Text(text) => {
                append(&mut builder, path, EntryType::Regular, 0o444, text.len() as u64, text.as_bytes())?;
            }
            Entry::File { source, is_program } => {
                let bytes = fs::metadata(source)?.len();
                let mode = if *is_program { 0o555 } else { 0o444 };
                // A file that grows meanwhile is cut, and one that shrinks is noticed.
                let mut content = BufReader::with_capacity(1 << 20, File::open(source)?).take(bytes);
                append(&mut builder, path, EntryType::Regular, mode, bytes, &mut content)?;
                if content.limit() > 0 {
                    return Err(io::Error::other(format!("{} became shorter while it was read", source.display())));
                }
            }
        }
    }
    let (into, diff_id, _) = builder.into_inner()?.finish();
    Ok((into, diff_id))
}

fn append<W: Write>(
    builder: &mut Builder<W>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    bytes: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_data(&mut header, path.strip_prefix("/").unwrap_or(path), content)
}
