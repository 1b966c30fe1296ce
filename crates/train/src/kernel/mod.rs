//! The arithmetic of one pass over the rows: losses and gradients, fused, a tile at a time.
//!
//! Every loop is written over fixed lanes and compiled for several instruction sets, of which the machine's best is
//! chosen at run time. No product is contracted with a sum, and lanes are added in one order, so that every x86 level
//! gives the same bits.

mod binary;
mod exp;
mod linear;
mod multinomial;
mod predict;
#[cfg(test)]
mod tests;

use pulp::{Arch, NullaryFnOnce};
use serde::{Deserialize, Serialize};

pub use exp::{exp, ln, log1p, sigmoid};
pub use predict::{outputs_of, predict};

use crate::Result;
use crate::shards::{Shards, Slice, Tile};

/// What a row's error costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Loss {
    /// ½ (x·w + b − y)².
    SquaredError,
    /// ln(1 + e^z) − y z with z = x·w + b and y either 0 or 1.
    Logistic,
    /// −ln softmax(z)_y with z_c = x·w_c + b_c and y the number of a class.
    Multinomial {
        /// How many classes.
        classes: usize,
    },
}

impl Loss {
    /// Rows of the weight matrix: the classes of the multinomial loss, else one.
    pub fn rows(self) -> usize {
        match self {
            Self::SquaredError | Self::Logistic => 1,
            Self::Multinomial { classes } => classes,
        }
    }

    /// How many parameters: weights row by row, then an intercept for each row (present also where it is not used).
    pub fn parameters(self, features: usize) -> usize {
        self.rows() * (features + 1)
    }
}

/// What a task computes from its slice. It says everything, so that a task can be sent to another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kernel {
    /// [weighted sum of the losses, sum of the weights].
    Value(Loss),
    /// As [`Kernel::Value`], then the weighted sum of the gradients in the order of the parameters.
    Gradient(Loss),
}

/// Where the gradient starts in a partial: after the loss and the weights.
pub const GRADIENT: usize = 2;

impl Kernel {
    /// How long a partial is.
    pub fn partial(self, features: usize) -> usize {
        match self {
            Self::Value(_) => GRADIENT,
            Self::Gradient(loss) => GRADIENT + loss.parameters(features),
        }
    }

    /// Adds the partial of `slice` to `sum`, which has [`Kernel::partial`] numbers.
    pub fn run(
        self,
        shards: &Shards,
        slice: Slice,
        parameters: &[f64],
        scratch: &mut Scratch,
        sum: &mut [f64],
    ) -> Result<()> {
        let arch = Arch::new();
        let Scratch { buffer, margins } = scratch;
        // A tile of many features outgrows the cache between the forward and the backward product: take fewer rows.
        let block = rows_at_once(shards.features());
        let (loss, gradient) = match self {
            Self::Value(loss) => (loss, false),
            Self::Gradient(loss) => (loss, true),
        };
        shards.visit(slice, buffer, |tile| {
            let mut start = 0;
            while start < tile.rows() {
                let end = (start + block).min(tile.rows());
                let part = tile.part(start..end);
                arch.dispatch(Pass { loss, gradient, tile: part, parameters, margins, partial: sum });
                start = end;
            }
        })
    }
}

/// Memory that a thread keeps between its tasks.
#[derive(Debug, Default)]
pub struct Scratch {
    buffer: Vec<f64>,
    margins: Vec<f64>,
}

/// One tile's arithmetic. A type of its own, because a closure would not be compiled into each instruction set.
struct Pass<'a> {
    loss: Loss,
    gradient: bool,
    tile: Tile<'a>,
    parameters: &'a [f64],
    margins: &'a mut Vec<f64>,
    partial: &'a mut [f64],
}

impl NullaryFnOnce for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { loss, gradient, tile, parameters, margins, partial } = self;
        match loss {
            Loss::SquaredError => linear::squared_error(&tile, parameters, gradient, partial),
            Loss::Logistic => binary::logistic(&tile, parameters, gradient, partial),
            Loss::Multinomial { classes } => {
                multinomial::softmax(&tile, parameters, classes, gradient, margins, partial);
            }
        }
    }
}

fn rows_at_once(features: usize) -> usize {
    const CACHED_CELLS: usize = 1 << 16;
    (CACHED_CELLS / (features + 1)).clamp(linear::LANES, crate::shards::TILE) / linear::LANES * linear::LANES
}

/// Splits the parameters, or their gradient, into weights and intercepts.
#[inline(always)]
fn split(parameters: &[f64], features: usize) -> (&[f64], &[f64]) {
    let rows = parameters.len() / (features + 1);
    parameters.split_at(rows * features)
}
