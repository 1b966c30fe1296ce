//! Where the arithmetic runs. [`Local`] runs it on this machine's threads; another runner may send the same tasks away.

use rayon::prelude::*;

use crate::kernel::{Kernel, Scratch};
use crate::shards::{Shards, Slice};
use crate::{Error, Result};

/// Runs a kernel over slices and sums what comes out.
///
/// A task is a pure function of (slice, parameters); partials are summed in the order of the slices. Retries and the
/// number of workers therefore change nothing, not even the last bit.
pub trait MapReduce: Sync {
    /// Puts into `sum` the kernel's partials over all `slices`. `sum` is [`Kernel::partial`] long; what it held is lost.
    fn map_reduce(
        &self,
        kernel: Kernel,
        shards: &Shards,
        slices: &[Slice],
        parameters: &[f64],
        sum: &mut [f64],
    ) -> Result<()>;
}

/// Threads of this machine.
#[derive(Debug)]
pub struct Local {
    pool: rayon::ThreadPool,
}

impl Local {
    /// A pool of `threads` threads of its own; 0 takes as many as there are cores.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("train-{index}"))
            .build()
            .map_err(|error| Error::Internal(format!("no threads to train with: {error}")))?;
        Ok(Self { pool })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` in the pool, so that its parallel loops use these threads.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }
}

/// Doubles of all partials that wait to be summed: 64 MiB.
const WAITING_CELLS: usize = 1 << 23;

impl MapReduce for Local {
    fn map_reduce(
        &self,
        kernel: Kernel,
        shards: &Shards,
        slices: &[Slice],
        parameters: &[f64],
        sum: &mut [f64],
    ) -> Result<()> {
        sum.fill(0.0);
        if let [slice] = slices {
            // A small batch is done before a thread would have woken.
            return SCRATCH.with_borrow_mut(|scratch| kernel.run(shards, *slice, parameters, scratch, sum));
        }
        let length = sum.len();
        // Partials are summed wave by wave: their memory is bounded, and the order stays that of the slices.
        let wave = (WAITING_CELLS / length).max(self.threads());
        for slices in slices.chunks(wave) {
            let task = |slice: &Slice| -> Result<Vec<f64>> {
                let mut partial = vec![0.0; length];
                SCRATCH.with_borrow_mut(|scratch| kernel.run(shards, *slice, parameters, scratch, &mut partial))?;
                Ok(partial)
            };
            let partials: Vec<Vec<f64>> = if self.threads() == 1 {
                slices.iter().map(task).collect::<Result<_>>()?
            } else {
                self.pool.install(|| slices.par_iter().with_max_len(1).map(task).collect::<Result<_>>())?
            };
            for partial in partials {
                for (sum, value) in sum.iter_mut().zip(partial) {
                    *sum += value;
                }
            }
        }
        Ok(())
    }
}

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}
