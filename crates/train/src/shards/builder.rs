//! Rows that come one by one, into tiles that are shuffled and, beyond the memory allowed, on disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pulp::bytemuck;

use super::{SHARD_CELLS, Shard, Shards, TILE, power_of_two_rows, stride};
use crate::seed::{self, Purpose};
use crate::{Error, Result};

/// How the rows are laid out and where they may lie.
#[derive(Debug, Clone)]
pub struct ShardsOptions {
    /// Columns of the matrix, without the intercept.
    pub features: usize,
    /// Rows of a shard, a multiple of [`TILE`]; [`ShardsOptions::shard_rows`] for the usual choice.
    pub shard_rows: usize,
    /// Whether rows carry weights; without, every weight is one and takes no memory.
    pub weighted: bool,
    /// Shards beyond this many bytes go to disk.
    pub memory_bytes: u64,
    /// The folder for what goes to disk. Its file is unlinked at once: the space comes back whatever ends the process.
    pub spill_dir: PathBuf,
    /// Decides the order of the rows within each shard.
    pub seed: u64,
}

impl ShardsOptions {
    /// The usual number of rows of a shard with this many features.
    pub fn shard_rows(features: usize) -> usize {
        power_of_two_rows(SHARD_CELLS, features)
    }
}

/// Takes rows one by one and makes shards of them.
#[derive(Debug)]
pub struct ShardsBuilder {
    options: ShardsOptions,
    values: Vec<f64>,
    targets: Vec<f64>,
    weights: Vec<f64>,
    memory_used_bytes: u64,
    spill: Option<(Arc<File>, u64)>,
    shards: Vec<Shard>,
    rows: usize,
    weight_sum: f64,
}

impl ShardsBuilder {
    /// An empty matrix.
    pub fn new(options: ShardsOptions) -> Result<Self> {
        if options.shard_rows == 0 || !options.shard_rows.is_multiple_of(TILE) {
            return Err(Error::Internal(format!("{} rows a shard are not a multiple of {TILE}", options.shard_rows)));
        }
        Ok(Self {
            options,
            values: Vec::new(),
            targets: Vec::new(),
            weights: Vec::new(),
            memory_used_bytes: 0,
            spill: None,
            shards: Vec::new(),
            rows: 0,
            weight_sum: 0.0,
        })
    }

    /// Adds a row: its features, its target (a value, or the number of a class) and its weight (1 where there are none).
    ///
    /// # Errors
    /// Where a number is not finite, the row has another length, or the disk takes no more.
    pub fn push(&mut self, row: &[f64], target: f64, weight: f64) -> Result<()> {
        if row.len() != self.options.features {
            let (got, want) = (row.len(), self.options.features);
            return Err(Error::Internal(format!("a row of {got} values in a matrix of {want} features")));
        }
        if !self.options.weighted && weight != 1.0 {
            return Err(Error::Internal("a weight in a matrix without weights".to_owned()));
        }
        if !(target.is_finite() && weight.is_finite() && weight >= 0.0 && row.iter().all(|value| value.is_finite())) {
            let row = self.rows + 1;
            return Err(Error::Invalid(format!(
                "the {row}. encoded row holds a number that is not finite, or a negative weight: clean or rescale the data"
            )));
        }
        self.values.extend_from_slice(row);
        self.targets.push(target);
        if self.options.weighted {
            self.weights.push(weight);
        }
        self.rows += 1;
        self.weight_sum += weight;
        if self.targets.len() == self.options.shard_rows { self.close_shard() } else { Ok(()) }
    }

    /// The matrix of all rows that were pushed.
    pub fn finish(mut self) -> Result<Shards> {
        if !self.targets.is_empty() {
            self.close_shard()?;
        }
        Ok(Shards {
            features: self.options.features,
            weighted: self.options.weighted,
            shard_rows: self.options.shard_rows,
            rows: self.rows,
            weight_sum: self.weight_sum,
            shards: self.shards,
        })
    }

    fn close_shard(&mut self) -> Result<()> {
        let staged = Staged {
            features: self.options.features,
            values: &self.values,
            targets: &self.targets,
            weights: self.options.weighted.then_some(&self.weights),
        };
        let cells = staged.shuffled_tiles(self.options.seed, self.shards.len());
        let size_bytes = (cells.len() * size_of::<f64>()) as u64;
        if self.memory_used_bytes + size_bytes <= self.options.memory_bytes {
            self.memory_used_bytes += size_bytes;
            self.shards.push(Shard::Memory(cells));
        } else {
            let (file, end) = match &mut self.spill {
                Some(spill) => spill,
                none => none.insert((Arc::new(unlinked_file(&self.options.spill_dir)?), 0)),
            };
            file.write_all_at(bytemuck::cast_slice(&cells), *end)?;
            self.shards.push(Shard::Disk { file: Arc::clone(file), offset_bytes: *end });
            *end += size_bytes;
        }
        self.values.clear();
        self.targets.clear();
        self.weights.clear();
        Ok(())
    }
}

/// The rows of one shard, as they came.
pub(super) struct Staged<'a> {
    pub(super) features: usize,
    pub(super) values: &'a [f64],
    pub(super) targets: &'a [f64],
    pub(super) weights: Option<&'a [f64]>,
}

impl Staged<'_> {
    /// The tiles of these rows in a random order. The last tile's empty rows are zero, and never visited.
    pub(super) fn shuffled_tiles(&self, seed: u64, shard: usize) -> Vec<f64> {
        let rows = self.targets.len();
        let mut order: Vec<u32> = (0..rows as u32).collect();
        seed::shuffle(&mut order, &mut seed::generator(seed, Purpose::Shuffle, shard as u64));
        let stride = stride(self.features, self.weights.is_some());
        let mut cells = vec![0.0; rows.div_ceil(TILE) * stride];
        for (tile, order) in cells.chunks_exact_mut(stride).zip(order.chunks(TILE)) {
            let (values, rest) = tile.split_at_mut(self.features * TILE);
            let (targets, weights) = rest.split_at_mut(TILE);
            // Eight rows at once, so that each store fills a cache line.
            for (block, order) in order.chunks(8).enumerate() {
                let first = block * 8;
                if let Ok(order) = <&[u32; 8]>::try_from(order) {
                    let rows = order.map(|row| self.row(row as usize));
                    for (feature, column) in values.chunks_exact_mut(TILE).enumerate() {
                        for (cell, row) in column[first..first + 8].iter_mut().zip(&rows) {
                            *cell = row[feature];
                        }
                    }
                } else {
                    for (position, &row) in order.iter().enumerate() {
                        for (feature, &value) in self.row(row as usize).iter().enumerate() {
                            values[feature * TILE + first + position] = value;
                        }
                    }
                }
            }
            for (target, &row) in targets.iter_mut().zip(order) {
                *target = self.targets[row as usize];
            }
            if let Some(from) = self.weights {
                for (weight, &row) in weights.iter_mut().zip(order) {
                    *weight = from[row as usize];
                }
            }
        }
        cells
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.features..(row + 1) * self.features]
    }
}

fn unlinked_file(dir: &Path) -> Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("shards-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
