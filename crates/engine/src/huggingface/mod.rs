//! Folders as the Hugging Face libraries write them, made into GGUF files: a table of names and a few transformations for
//! each family, with the tokenizer and the template of chats inside.
//!
//! Nothing in a folder is trusted: files are bounded in size, names of files stay in the folder, and every tensor is of
//! the shape that the configuration says, or the folder is refused.

mod config;
mod family;
mod rope;
mod template;
mod tokenizer;
mod weights;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use crate::{
    Error, Result,
    gguf::{NewTensor, TensorKind, Value, Writer},
};
use config::Folder;
use family::{Change, Family};
use weights::Weights;

/// How a folder is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The type of the matrices: [`TensorKind::F32`], [`TensorKind::F16`] or [`TensorKind::BF16`]; that of each in the
    /// folder when absent. Vectors always have 32 bits.
    pub kind: Option<TensorKind>,
}

/// A tensor of the new file, and what it is made of.
struct Planned {
    new: NewTensor,
    source: Source,
}

enum Source {
    /// A tensor of the folder, and what is done to it.
    Weights { name: String, change: Change },
    /// Values that the configuration implies.
    Made(Vec<f32>),
}

/// Writes the model of a folder as a GGUF file. `progress` is told how many bytes are written, and how many there will be.
///
/// # Errors
/// [`Error::InvalidModel`] naming what of the folder is missing, is wrong or is not known; [`Error::Io`] when a file cannot
/// be read or written.
pub fn convert(folder: &Path, target: &Path, options: Options, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let folder = Folder::open(folder)?;
    let config = folder.config()?;
    let family = Family::of(&config)?;
    let weights = Weights::open(&folder)?;
    let mut metadata = family.metadata(&config, &folder)?;
    let planned = plan(family, &config, &weights, options)?;
    let rows = weights.rows(family.embeddings()).ok_or_else(|| missing(family.embeddings()))?;
    metadata.extend(tokenizer::metadata(&folder, &config, family, rows)?);
    if let Some(template) = template::of(&folder)? {
        metadata.push(("tokenizer.chat_template".into(), Value::Text(template)));
    }
    let tensors: Vec<NewTensor> = planned.iter().map(|planned| planned.new.clone()).collect();
    let all: u64 = tensors.iter().filter_map(NewTensor::bytes).sum();
    let mut writer = Writer::begin(BufWriter::new(File::create(target)?), &metadata, &tensors)?;
    let mut done = 0;
    progress(done, all);
    for Planned { new, source } in planned {
        let bytes = match source {
            Source::Weights { name, change } => weights.read(&name, new.kind, &change)?,
            Source::Made(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        writer.tensor(&bytes)?;
        done += bytes.len() as u64;
        progress(done, all);
    }
    writer.finish()?.flush()?;
    Ok(())
}

/// The tensors of the new file, in an order that depends on nothing but their names.
fn plan(family: Family, config: &config::Config, weights: &Weights, options: Options) -> Result<Vec<Planned>> {
    let tied = config.flag("tie_word_embeddings").unwrap_or(family.ties_embeddings());
    let mut planned = Vec::new();
    let mut unknown = Vec::new();
    for (name, place) in weights.iter() {
        if family.passes_over(name) || (tied && name == family::OUTPUT) {
            continue;
        }
        let Some((own, change)) = family.tensor(name, config)? else {
            unknown.push(name.to_owned());
            continue;
        };
        // The fastest dimension comes first in GGUF.
        let shape: Vec<u64> = place.shape.iter().rev().copied().collect();
        let is_matrix = shape.len() > 1 && !family.keeps_whole(&own);
        let kind = if is_matrix { options.kind.unwrap_or(place.kind) } else { TensorKind::F32 };
        planned.push(Planned {
            new: NewTensor { name: own, shape, kind },
            source: Source::Weights { name: name.to_owned(), change },
        });
    }
    if let [first, ..] = unknown.as_slice() {
        return Err(Error::InvalidModel(format!(
            "the tensor {first:?} and {} others are not ones of {}: convert the model with its makers' tools and import the GGUF file",
            unknown.len() - 1,
            family.name()
        )));
    }
    for name in family.required(config)? {
        if !planned.iter().any(|planned| planned.new.name == name) {
            return Err(missing(&name));
        }
    }
    if let Some(factors) = rope::factors(config)? {
        let new =
            NewTensor { name: "rope_freqs.weight".into(), shape: vec![factors.len() as u64], kind: TensorKind::F32 };
        planned.push(Planned { new, source: Source::Made(factors) });
    }
    Ok(planned)
}

fn missing(name: &str) -> Error {
    Error::InvalidModel(format!("the folder's files lack the tensor for {name:?}: are all of its shards there?"))
}
