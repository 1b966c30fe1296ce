//! The encoded design matrix: rows × features in tiles, in memory or on disk.
//!
//! A **tile** holds [`TILE`] rows, feature by feature, then their targets, then their weights: a kernel walks along the
//! rows of one feature with contiguous loads and never sums across a register until a tile ends. A **shard** is a run of
//! tiles: the unit that is shuffled and spilled. A [`Slice`] is what one task reads. All three have sizes that depend on
//! the number of features alone, so that neither memory nor threads change a result.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pulp::bytemuck;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::seed::{self, Purpose};
use crate::{Error, Result};

/// Rows of a tile.
pub const TILE: usize = 256;

/// Doubles of a shard, about: 16 MiB, which a disk reads and a cache shuffles well.
const SHARD_CELLS: usize = 1 << 21;

/// Doubles of a slice, about: 2 MiB, long enough to hide the hand-off to a thread.
const SLICE_CELLS: usize = 1 << 18;

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

#[derive(Debug)]
enum Shard {
    Memory(Vec<f64>),
    Disk { file: Arc<File>, offset_bytes: u64 },
}

/// The rows of one shard, as they came.
struct Staged<'a> {
    features: usize,
    values: &'a [f64],
    targets: &'a [f64],
    weights: Option<&'a [f64]>,
}

impl Staged<'_> {
    /// The tiles of these rows in a random order. The last tile's empty rows are zero, and never visited.
    fn shuffled_tiles(&self, seed: u64, shard: usize) -> Vec<f64> {
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

fn stride(features: usize, weighted: bool) -> usize {
    (features + 1 + usize::from(weighted)) * TILE
}

/// The greatest power of two of rows, at least a tile, that keeps within about `cells` doubles.
fn power_of_two_rows(cells: usize, features: usize) -> usize {
    let rows = (cells / (features + 1)).clamp(TILE, 1 << 20);
    1 << rows.ilog2()
}

fn unlinked_file(dir: &std::path::Path) -> Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("shards-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = dir.join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(features: usize, memory_bytes: u64, dir: &std::path::Path) -> ShardsOptions {
        ShardsOptions { features, shard_rows: TILE, weighted: true, memory_bytes, spill_dir: dir.into(), seed: 5 }
    }

    fn build(rows: usize, memory_bytes: u64) -> Shards {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = ShardsBuilder::new(options(3, memory_bytes, dir.path())).unwrap();
        for row in 0..rows {
            let row = row as f64;
            builder.push(&[row, row + 0.25, -row], row * 2.0, row + 1.0).unwrap();
        }
        let shards = builder.finish().unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing stays in the folder");
        shards
    }

    fn rows(shards: &Shards) -> Vec<(usize, Vec<f64>, f64, f64)> {
        let mut rows = Vec::new();
        shards.visit_rows(0..shards.rows(), |row, x, y, w| rows.push((row, x.to_vec(), y, w))).unwrap();
        rows
    }

    #[test]
    fn every_row_comes_back_once_from_memory_and_from_disk() {
        let (memory, spilled, mixed) = (build(1000, u64::MAX), build(1000, 0), build(1000, 22_000));
        assert_eq!((memory.spilled_count(), spilled.spilled_count(), mixed.spilled_count()), (0, 4, 2));
        assert_eq!(rows(&memory), rows(&spilled));
        assert_eq!(rows(&memory), rows(&mixed));
        let mut seen: Vec<usize> = Vec::new();
        for (position, (index, x, y, w)) in rows(&memory).into_iter().enumerate() {
            assert_eq!(index, position);
            assert_eq!((x[1], x[2], y, w), (x[0] + 0.25, -x[0], x[0] * 2.0, x[0] + 1.0));
            seen.push(x[0] as usize);
        }
        assert!(seen[..256].iter().all(|&row| row < 256), "rows stay within their shard");
        assert!(seen.windows(2).any(|pair| pair[0] > pair[1]), "rows are shuffled");
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn slices_cover_any_range_once() {
        let shards = build(1000, u64::MAX);
        for range in [0..1000, 0..1, 255..257, 100..900, 999..1000, 0..0] {
            let slices = shards.slices_of(range.clone());
            let covered: Vec<usize> = slices.iter().flat_map(|slice| slice.start..slice.start + slice.rows).collect();
            assert_eq!(covered, range.collect::<Vec<_>>());
        }
    }

    #[test]
    fn rows_in_memory_already_give_the_same_shards() {
        let dir = tempfile::tempdir().unwrap();
        let features = 2;
        let values: Vec<f64> = (0..1400).map(f64::from).collect();
        let targets: Vec<f64> = (0..700).map(f64::from).collect();
        let mut builder = ShardsBuilder::new(ShardsOptions {
            features,
            shard_rows: ShardsOptions::shard_rows(features),
            weighted: false,
            memory_bytes: u64::MAX,
            spill_dir: dir.path().into(),
            seed: 9,
        })
        .unwrap();
        for (row, &target) in values.chunks_exact(2).zip(&targets) {
            builder.push(row, target, 1.0).unwrap();
        }
        let at_once = Shards::from_rows(features, &values, &targets, None, 9).unwrap();
        assert_eq!(rows(&at_once), rows(&builder.finish().unwrap()));
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = ShardsBuilder::new(options(1, 0, dir.path())).unwrap();
        assert!(builder.push(&[f64::NAN], 0.0, 1.0).is_err());
        assert!(builder.push(&[1.0], f64::INFINITY, 1.0).is_err());
        assert!(builder.push(&[1.0, 2.0], 0.0, 1.0).is_err());
    }
}
