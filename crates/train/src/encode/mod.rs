//! From the rows of a data set to the matrix that the arithmetic reads.
//!
//! The table is read three times, never held: the target's column alone (which rows count, which are held out, which
//! classes there are), the features' statistics over the training rows, then every row into [`Shards`].

mod encoder;
mod split;
mod statistics;
mod target;

use std::{collections::HashSet, ops::ControlFlow, path::Path};

use wattle_core::{ColumnKind, Schema};
use wattle_store::table::{Table, Values};

pub use encoder::{CategoryFeature, Encoder, Feature, NumberFeature};
pub use split::Split;
pub use target::{Classes, Target};

use crate::{
    Error, Result,
    export::{PROBABILITIES, Y_PRED},
    shards::{Shards, ShardsBuilder, ShardsOptions},
    spec::{Algorithm, Features, ResolvedSpec},
};

/// The most categories of a feature, and the most classes of a target.
pub const MAX_CATEGORIES: usize = 1_000;

/// The most columns of the encoded matrix.
pub const MAX_ENCODED_FEATURES: usize = 20_000;

/// The most parameters of a model. An optimiser keeps tens of numbers for each.
pub const MAX_PARAMETERS: usize = 1_000_000;

/// Numbers that are encoded at once; small enough that they stay in the cache on their way into a shard.
const CHUNK_CELLS: usize = 1 << 15;

/// A data set, ready for the optimiser.
#[derive(Debug)]
pub struct Encoded {
    /// How raw columns become numbers.
    pub encoder: Encoder,
    /// What is predicted.
    pub target: Target,
    /// The rows to learn from.
    pub train: Shards,
    /// The rows to judge by, if any are held out.
    pub held_out: Option<Shards>,
    /// Rows without a target, which are in neither.
    pub skipped_rows: u64,
    /// Columns that nobody named and that have no value in the training rows.
    pub dropped_features: Vec<String>,
}

/// Reads and encodes `table`. What does not fit into the memory that `spec` allows is put into `spill_dir`.
///
/// `observe` is told how many rows are done, and of how many, all three readings together; it may break off.
///
/// # Errors
/// [`Error::Invalid`] says why the data does not allow this training, and what to do; [`Error::Cancelled`].
pub fn encode(
    table: &Table,
    spec: &ResolvedSpec,
    spill_dir: &Path,
    observe: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Encoded> {
    let names = feature_names(table.schema(), spec)?;
    let mut pass = Pass { observe, done: 0, of: 3 * table.rows() };
    let survey = target::survey(table, spec, &mut pass)?;
    let statistics = statistics::gather(table, &names, &survey, &mut pass)?;
    let (encoder, dropped_features) = statistics.encoder(spec)?;
    let used: Vec<&str> = encoder.features.iter().map(Feature::name).collect();

    let width = encoder.width();
    let parameters = survey.target.loss().parameters(width);
    if parameters > MAX_PARAMETERS {
        return Err(Error::Invalid(format!(
            "the model would have {parameters} parameters, and {MAX_PARAMETERS} is the most: leave columns out with \"features\", or choose a target with fewer classes"
        )));
    }
    let options = |memory_bytes, seed| ShardsOptions {
        features: width,
        shard_rows: ShardsOptions::shard_rows(width),
        weighted: survey.class_weights.is_some(),
        memory_bytes,
        spill_dir: spill_dir.to_owned(),
        seed,
    };
    // The training rows are read in every iteration, the held-out rows seldom: those may take what these leave.
    let cells = (width + 1 + usize::from(survey.class_weights.is_some())) as u64;
    let train_bytes = survey.train_rows.saturating_mul(8 * cells);
    let held_out_bytes = spec.memory.0.saturating_sub(train_bytes);
    let mut train = ShardsBuilder::new(options(spec.memory.0, spec.seed))?;
    let mut held_out = ShardsBuilder::new(options(held_out_bytes, spec.seed))?;

    let chunk_rows = (CHUNK_CELLS / width).max(1);
    let mut rows = vec![0.0; chunk_rows * width];
    read(table, &survey, &used, &mut pass, |columns, placed| {
        for (chunk, placed) in placed.chunks(chunk_rows).enumerate() {
            let first = chunk * chunk_rows;
            encoder.encode(columns, first..first + placed.len(), &mut rows)?;
            for (row, placed) in rows.chunks_exact(width).zip(placed) {
                let Some(placed) = placed else { continue };
                let weight = survey.weight(placed);
                let builder = if placed.held_out { &mut held_out } else { &mut train };
                builder.push(row, placed.target, weight)?;
            }
        }
        Ok(())
    })?;
    Ok(Encoded {
        encoder,
        train: train.finish()?,
        held_out: (survey.held_out_rows > 0).then(|| held_out.finish()).transpose()?,
        skipped_rows: survey.skipped_rows,
        target: survey.target,
        dropped_features,
    })
}

/// Checks what can be told without reading a row: whether the columns that `spec` names are there and of the right kind.
///
/// # Errors
/// [`Error::Invalid`] names the column, and the nearest for an unknown one.
pub fn check_columns(schema: &Schema, spec: &ResolvedSpec) -> Result<()> {
    target::check_kind(schema, spec)?;
    feature_names(schema, spec).map(|_| ())
}

/// Where a row goes.
#[derive(Debug, Clone, Copy)]
struct Placed {
    /// The number to predict, or the number of the class.
    target: f64,
    held_out: bool,
}

/// The progress of all readings together.
struct Pass<'a> {
    observe: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    done: u64,
    of: u64,
}

impl Pass<'_> {
    fn advance(&mut self, rows: usize) -> Result<()> {
        self.done += rows as u64;
        match (self.observe)(self.done.min(self.of), self.of) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// Streams the columns `names` beside where each of their rows goes; `None` for a row without a target.
fn read(
    table: &Table,
    survey: &target::Survey,
    names: &[&str],
    pass: &mut Pass<'_>,
    mut visit: impl FnMut(&[Values], &[Option<Placed>]) -> Result<()>,
) -> Result<()> {
    let columns: Vec<&str> = std::iter::once(survey.column.as_str()).chain(names.iter().copied()).collect();
    let mut first = 0;
    let mut placed = Vec::new();
    for batch in table.read(&columns)? {
        let batch = batch?;
        let [target, features @ ..] = batch.as_slice() else {
            return Err(Error::Internal("a batch without its target".into()));
        };
        survey.place(first, target, &mut placed)?;
        visit(features, &placed)?;
        first += placed.len() as u64;
        pass.advance(placed.len())?;
    }
    Ok(())
}

/// The features' names: those of the job, or all but the target.
fn feature_names<'a>(schema: &'a Schema, spec: &'a ResolvedSpec) -> Result<Vec<&'a str>> {
    column_kind(schema, &spec.target)?;
    let known: HashSet<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
    let names: Vec<&str> = match &spec.features {
        Features::All => {
            schema.columns.iter().map(|column| column.name.as_str()).filter(|name| *name != spec.target).collect()
        }
        Features::Named(names) => names.iter().map(String::as_str).collect(),
    };
    for name in &names {
        if !known.contains(name) {
            return Err(unknown_column(schema, name));
        }
        check_name(name, spec.algorithm)?;
    }
    if names.is_empty() {
        return Err(Error::Invalid(format!(
            "the data set has no column but the target {:?}: add a column to predict it from",
            spec.target
        )));
    }
    Ok(names)
}

/// The kind of a column, or an error that names the nearest.
fn column_kind(schema: &Schema, name: &str) -> Result<ColumnKind> {
    schema.column(name).map(|column| column.kind).ok_or_else(|| unknown_column(schema, name))
}

fn unknown_column(schema: &Schema, name: &str) -> Error {
    Error::Invalid(match schema.nearest(name) {
        Some(nearest) => format!("the data set has no column {name:?}: did you mean {nearest:?}?"),
        None => {
            let names = schema.columns.iter().map(|column| column.name.as_str()).take(20).collect::<Vec<_>>();
            format!("the data set has no column {name:?}: it has {}", names.join(", "))
        }
    })
}

/// A feature's name becomes the name of an input of the graph.
fn check_name(name: &str, algorithm: Algorithm) -> Result<()> {
    let taken = match algorithm {
        Algorithm::LinearRegression => name == Y_PRED,
        Algorithm::LogisticRegression => name == Y_PRED || name == PROBABILITIES,
    };
    if taken {
        return Err(Error::Invalid(format!(
            "the column {name:?} has the name of a model's output: rename it in the file, or leave it out with \"features\""
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::Invalid(format!(
            "the name of the column {name:?} holds a control character: rename it in the file, or leave it out with \"features\""
        )));
    }
    Ok(())
}
