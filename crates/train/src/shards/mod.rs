//! The encoded design matrix: rows × features in tiles, in memory or on disk.
//!
//! A **tile** holds [`TILE`] rows, feature by feature, then their targets, then their weights: a kernel walks along the
//! rows of one feature with contiguous loads and never sums across a register until a tile ends. A **shard** is a run of
//! tiles: the unit that is shuffled and spilled. A [`Slice`] is what one task reads. All three have sizes that depend on
//! the number of features alone, so that neither memory nor threads change a result.

mod builder;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pulp::bytemuck;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use builder::Staged;
pub use builder::{ShardsBuilder, ShardsOptions};

use crate::{Error, Result};

/// Rows of a tile.
pub const TILE: usize = 256;

/// Doubles of a shard, about: 16 MiB, which a disk reads and a cache shuffles well.
const SHARD_CELLS: usize = 1 << 21;

/// Doubles of a slice, about: 2 MiB, long enough to hide the hand-off to a thread.
const SLICE_CELLS: usize = 1 << 18;

/// A run of rows within one shard: the input of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Slice {
    /// The first row, counted over all shards.
    pub start: usize,
    /// How many rows; never none, and never beyond the shard's end.
    pub rows: usize,
}

/// The rows of a matrix, encoded, shuffled within their shards, and immutable.
#[derive(Debug)]
pub struct Shards {
    features: usize,
    weighted: bool,
    shard_rows: usize,
    rows: usize,
    weight_sum: f64,
    shards: Vec<Shard>,
}

impl Shards {
    /// Encodes rows that are in memory already: `values` is row-major, rows × features. Shards are built in parallel.
    pub fn from_rows(
        features: usize,
        values: &[f64],
        targets: &[f64],
        weights: Option<&[f64]>,
        seed: u64,
    ) -> Result<Self> {
        let rows = targets.len();
        if values.len() != rows * features || weights.is_some_and(|weights| weights.len() != rows) {
            return Err(Error::Internal(format!("{} values do not make {rows} rows of {features}", values.len())));
        }
        let shard_rows = ShardsOptions::shard_rows(features);
        let weighted = weights.is_some();
        let shards: Vec<Shard> = (0..rows.div_ceil(shard_rows))
            .into_par_iter()
            .map(|index| {
                let range = index * shard_rows..((index + 1) * shard_rows).min(rows);
                let staged = Staged {
                    features,
                    values: &values[range.start * features..range.end * features],
                    targets: &targets[range.clone()],
                    weights: weights.map(|weights| &weights[range]),
                };
                Shard::Memory(staged.shuffled_tiles(seed, index))
            })
            .collect();
        let weight_sum = weights.map_or(rows as f64, |weights| weights.iter().sum());
        Ok(Self { features, weighted, shard_rows, rows, weight_sum, shards })
    }

    /// Columns of the matrix, without the intercept.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Rows of all shards.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The sum of the rows' weights; the number of rows where they have none.
    pub fn weight_sum(&self) -> f64 {
        self.weight_sum
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// How many of the shards lie on disk.
    pub fn spilled_count(&self) -> usize {
        self.shards.iter().filter(|shard| matches!(shard, Shard::Disk { .. })).count()
    }

    /// All rows, cut into the slices of one pass.
    pub fn slices(&self) -> Vec<Slice> {
        self.slices_of(0..self.rows)
    }

    /// The rows of `range`, cut at the shards' ends and at the length of a task.
    pub fn slices_of(&self, range: Range<usize>) -> Vec<Slice> {
        let mut slices = Vec::new();
        self.slices_into(range, &mut slices);
        slices
    }

    /// As [`Shards::slices_of`], into a list that is used again and again.
    pub fn slices_into(&self, range: Range<usize>, slices: &mut Vec<Slice>) {
        slices.clear();
        let slice_rows = power_of_two_rows(SLICE_CELLS, self.features).min(self.shard_rows);
        let end = range.end.min(self.rows);
        let mut start = range.start;
        while start < end {
            let in_shard = start % self.shard_rows;
            let cut = (in_shard / slice_rows + 1) * slice_rows;
            let rows = (cut.min(self.shard_rows) - in_shard).min(end - start);
            slices.push(Slice { start, rows });
            start += rows;
        }
    }

    /// Hands the tiles of `slice` to `visit`, in order. `buffer` holds what comes from disk, and grows to one slice.
    #[inline]
    pub fn visit(&self, slice: Slice, buffer: &mut Vec<f64>, mut visit: impl FnMut(Tile<'_>)) -> Result<()> {
        let stride = self.stride();
        let (index, start) = (slice.start / self.shard_rows, slice.start % self.shard_rows);
        let end = start + slice.rows;
        if slice.rows == 0 || end > self.shard_rows || slice.start + slice.rows > self.rows {
            return Err(Error::Internal(format!("{slice:?} does not lie in one shard")));
        }
        let tiles = start / TILE..end.div_ceil(TILE);
        let cells = match &self.shards[index] {
            Shard::Memory(cells) => &cells[tiles.start * stride..tiles.end * stride],
            Shard::Disk { file, offset_bytes } => {
                buffer.resize(tiles.len() * stride, 0.0);
                let skipped_bytes = (tiles.start * stride * size_of::<f64>()) as u64;
                file.read_exact_at(bytemuck::cast_slice_mut(buffer), offset_bytes + skipped_bytes)?;
                &buffer[..]
            }
        };
        for (tile, cells) in tiles.zip(cells.chunks_exact(stride)) {
            let rows = start.max(tile * TILE) - tile * TILE..end.min((tile + 1) * TILE) - tile * TILE;
            visit(Tile { features: self.features, weighted: self.weighted, cells, start: rows.start, end: rows.end });
        }
        Ok(())
    }

    /// Asks the system to read `slice` ahead, where it lies on disk.
    pub fn prefetch(&self, slice: Slice) {
        if let Shard::Disk { file, offset_bytes } = &self.shards[slice.start / self.shard_rows] {
            let (start, stride_bytes) = (slice.start % self.shard_rows, self.stride() * size_of::<f64>());
            let (first, end) = (start / TILE, (start + slice.rows).div_ceil(TILE));
            let length = std::num::NonZeroU64::new(((end - first) * stride_bytes) as u64);
            // Advice alone: a file system that takes none still reads the rows when they are due.
            let _ = rustix::fs::fadvise(
                file,
                offset_bytes + (first * stride_bytes) as u64,
                length,
                rustix::fs::Advice::WillNeed,
            );
        }
    }

    /// Hands each row of `range` to `visit` with its features: (row, features, target, weight). For tests and reports;
    /// a pass that counts goes through the kernels.
    pub fn visit_rows(&self, range: Range<usize>, mut visit: impl FnMut(usize, &[f64], f64, f64)) -> Result<()> {
        let mut buffer = Vec::new();
        let mut row = vec![0.0; self.features];
        for slice in self.slices_of(range) {
            let mut index = slice.start;
            self.visit(slice, &mut buffer, |tile| {
                for position in 0..tile.rows() {
                    for (feature, value) in row.iter_mut().enumerate() {
                        *value = tile.column(feature)[position];
                    }
                    visit(index, &row, tile.targets()[position], tile.weights()[position]);
                    index += 1;
                }
            })?;
        }
        Ok(())
    }

    fn stride(&self) -> usize {
        stride(self.features, self.weighted)
    }
}

/// Some rows of one tile.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    features: usize,
    weighted: bool,
    cells: &'a [f64],
    start: usize,
    end: usize,
}

impl<'a> Tile<'a> {
    /// How many rows; at most [`TILE`].
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.end - self.start
    }

    /// Columns, without target and weight.
    #[inline(always)]
    pub fn features(&self) -> usize {
        self.features
    }

    /// The values of one feature, a row each.
    #[inline(always)]
    pub fn column(&self, feature: usize) -> &'a [f64] {
        &self.cells[feature * TILE..(feature + 1) * TILE][self.start..self.end]
    }

    /// The targets: a value, or the number of a class.
    #[inline(always)]
    pub fn targets(&self) -> &'a [f64] {
        self.column(self.features)
    }

    /// The weights, all one where the rows have none.
    #[inline(always)]
    pub fn weights(&self) -> &'a [f64] {
        const ONES: [f64; TILE] = [1.0; TILE];
        if self.weighted { self.column(self.features + 1) } else { &ONES[self.start..self.end] }
    }

    /// The rows `range` of this tile's rows.
    #[inline(always)]
    pub fn part(&self, range: Range<usize>) -> Self {
        Self { start: self.start + range.start, end: self.start + range.end, ..*self }
    }
}

#[derive(Debug)]
enum Shard {
    Memory(Vec<f64>),
    Disk { file: Arc<File>, offset_bytes: u64 },
}

fn stride(features: usize, weighted: bool) -> usize {
    (features + 1 + usize::from(weighted)) * TILE
}

/// The greatest power of two of rows, at least a tile, that keeps within about `cells` doubles.
fn power_of_two_rows(cells: usize, features: usize) -> usize {
    let rows = (cells / (features + 1)).clamp(TILE, 1 << 20);
    1 << rows.ilog2()
}
