//! Calls that are computed together: their rows joined, and the outputs' rows parted again.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wattle_engine::Tensor;

use crate::{Error, Result, batcher::Waiting};

/// A call that waits for its batch.
pub(crate) struct Waiter {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) reply: oneshot::Sender<Result<Answered>>,
    pub(crate) since: Instant,
    /// Whether its answer is compared and forgotten.
    pub(crate) copy: bool,
}

/// A call's own part of a batch.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) cpu_seconds: f64,
    pub(crate) queue: Duration,
    pub(crate) batch: Duration,
    pub(crate) compute: Duration,
}

impl Waiting for Waiter {
    fn rows(&self) -> usize {
        rows_of(&self.inputs)
    }

    fn mixes_with(&self, other: &Waiter) -> bool {
        let pairs = self.inputs.iter().zip(&other.inputs);
        self.inputs.len() == other.inputs.len()
            && has_even_rows(&self.inputs)
            && has_even_rows(&other.inputs)
            && pairs.into_iter().all(|(one, other)| one.mixes_with(other))
    }

    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

/// The rows of a call.
pub(crate) fn rows_of(inputs: &[Tensor]) -> usize {
    inputs.first().map_or(1, Tensor::rows)
}

/// Whether the inputs are rows of one table; a graph may take others, and those are computed alone.
fn has_even_rows(inputs: &[Tensor]) -> bool {
    inputs.iter().all(|tensor| !tensor.shape.is_empty() && tensor.rows() == rows_of(inputs))
}

/// The inputs of all, input by input. `None` when they do not mix.
pub(crate) fn join(calls: &[Waiter]) -> Option<Vec<Tensor>> {
    let first = calls.first()?;
    (0..first.inputs.len()).map(|index| Tensor::concat(calls.iter().map(|call| &call.inputs[index]))).collect()
}

/// The outputs of each, by how many rows each had. `None` when the outputs are not the rows' own: then the model is not
/// to be batched.
pub(crate) fn part(outputs: &[Tensor], rows: &[usize]) -> Option<Vec<Vec<Tensor>>> {
    let all: usize = rows.iter().sum();
    if outputs.iter().any(|output| output.shape.is_empty() || output.rows() != all) {
        return None;
    }
    let mut first = 0;
    let part = |count: &usize| {
        let own = outputs.iter().map(|output| output.rows_from(first, *count)).collect();
        first += count;
        own
    };
    Some(rows.iter().map(part).collect())
}

/// Whether both are the same up to the rounding of another order of sums.
pub(crate) fn agree(one: &[Tensor], other: &[Tensor]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_close_to(other, 1e-3))
}

/// The error that all of a batch are told.
pub(crate) fn tell_all(calls: Vec<Waiter>, error: &Error) {
    for call in calls {
        // Whoever left needs no answer.
        let _ = call.reply.send(Err(error.clone()));
    }
}
