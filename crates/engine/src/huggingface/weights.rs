//! The tensors of a folder, in one file or in several, read one at a time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::Metadata};
use serde_json::Value;

use super::{config::Folder, family::Change};
use crate::{Error, Result, gguf::TensorKind};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// The largest header that the format allows.
const MOST_HEADER_BYTES: u64 = 100 << 20;

/// All tensors.
pub(super) struct Weights {
    files: Vec<(PathBuf, File)>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor is.
pub(super) struct Place {
    file: usize,
    start: u64,
    bytes: u64,
    pub(super) kind: TensorKind,
    /// The slowest dimension first.
    pub(super) shape: Vec<u64>,
}

impl Weights {
    pub(super) fn open(folder: &Folder) -> Result<Weights> {
        let mut weights = Weights { files: Vec::new(), places: BTreeMap::new() };
        let Some(index) = folder.json(INDEX)? else {
            if !folder.has(SINGLE) {
                return Err(Error::InvalidModel(format!(
                    "the folder has neither {SINGLE} nor {INDEX}: convert its weights to safetensors first"
                )));
            }
            weights.add(&folder.file(SINGLE)?, None)?;
            return Ok(weights);
        };
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| Error::InvalidModel(format!("{INDEX} has no weight_map")))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in map {
            let file =
                file.as_str().ok_or_else(|| Error::InvalidModel(format!("{INDEX} names no file for {tensor}")))?;
            shards.entry(file).or_default().push(tensor);
        }
        for (file, tensors) in shards {
            weights.add(&folder.file(file)?, Some(&tensors))?;
        }
        Ok(weights)
    }

    /// Takes in a file's tensors, those that are named or all.
    fn add(&mut self, path: &Path, wanted: Option<&[&str]>) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let broken = |why: &str| Error::InvalidModel(format!("{name} is no safetensors file: {why}"));
        let mut file = File::open(path)
            .map_err(|error| Error::InvalidModel(format!("the folder's file {name} cannot be read: {error}")))?;
        let length = file.metadata()?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(|_| broken("it is too short"))?;
        let size = u64::from_le_bytes(size);
        if size > MOST_HEADER_BYTES || size + 8 > length {
            return Err(broken("its header does not fit"));
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| broken(&error.to_string()))?;
        if metadata.data_len() as u64 != length - size - 8 {
            return Err(broken("it has other bytes than its header says: was it copied as a whole?"));
        }
        let index = self.files.len();
        for (tensor, info) in metadata.tensors() {
            if wanted.is_some_and(|wanted| !wanted.contains(&tensor.as_str())) {
                continue;
            }
            let kind = match info.dtype {
                Dtype::F32 => TensorKind::F32,
                Dtype::F16 => TensorKind::F16,
                Dtype::BF16 => TensorKind::BF16,
                // Positions that older versions wrote beside the weights; families pass over them.
                Dtype::I64 | Dtype::BOOL | Dtype::U8 => continue,
                other => {
                    return Err(Error::InvalidModel(format!(
                        "the tensor {tensor:?} is of the type {other:?}: F32, F16 and BF16 can be converted"
                    )));
                }
            };
            let (from, to) = info.data_offsets;
            let place = Place {
                file: index,
                start: 8 + size + from as u64,
                bytes: (to - from) as u64,
                kind,
                shape: info.shape.iter().map(|length| *length as u64).collect(),
            };
            if self.places.insert(tensor.clone(), place).is_some() {
                return Err(Error::InvalidModel(format!("the tensor {tensor:?} is there twice")));
            }
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.places.iter().map(|(name, place)| (name.as_str(), place))
    }

    /// How many rows a matrix has.
    pub(super) fn rows(&self, name: &str) -> Option<u64> {
        self.places.get(name)?.shape.first().copied()
    }

    /// A tensor's bytes, changed and of another type.
    pub(super) fn read(&self, name: &str, kind: TensorKind, change: &Change) -> Result<Vec<u8>> {
        let place = &self.places[name];
        let (path, file) = &self.files[place.file];
        let mut bytes = vec![0; usize::try_from(place.bytes).map_err(|_| too_large(name))?];
        file.read_exact_at(&mut bytes, place.start)
            .map_err(|error| Error::InvalidModel(format!("{} cannot be read: {error}", path.display())))?;
        if kind == place.kind && *change == Change::None {
            return Ok(bytes);
        }
        let rows = place.shape.first().copied().unwrap_or(1).max(1) as usize;
        let row_bytes = bytes.len() / rows;
        let order = change.order(rows).map_err(|why| Error::InvalidModel(format!("the tensor {name:?} {why}")))?;
        let mut written = Vec::with_capacity(bytes.len());
        for row in order {
            put(&mut written, &bytes[row * row_bytes..][..row_bytes], place.kind, kind, change.added());
        }
        Ok(written)
    }
}

/// Appends numbers of one type as another, each with so much added.
fn put(to: &mut Vec<u8>, bytes: &[u8], from: TensorKind, kind: TensorKind, added: f32) {
    if from == kind && added == 0.0 {
        return to.extend_from_slice(bytes);
    }
    let width = if from == TensorKind::F32 { 4 } else { 2 };
    for number in bytes.chunks_exact(width) {
        let value = added
            + match *number {
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                [a, b] if from == TensorKind::F16 => f16::from_le_bytes([a, b]).to_f32(),
                [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
                _ => 0.0,
            };
        match kind {
            TensorKind::F16 => to.extend(f16::from_f32(value).to_le_bytes()),
            TensorKind::BF16 => to.extend(bf16::from_f32(value).to_le_bytes()),
            _ => to.extend(value.to_le_bytes()),
        }
    }
}

fn too_large(name: &str) -> Error {
    Error::InvalidModel(format!("the tensor {name:?} does not fit into memory"))
}
