use serde::{Deserialize, Serialize};

use crate::seed::{self, Purpose};

/// Which rows are held out: a function of the seed and the row's number in the data set alone, so that the size of the
/// batches and the other columns change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    seed: u64,
    /// Rows whose hash is below are held out.
    threshold: u64,
}

impl Split {
    /// Holds out about `fraction` of the rows.
    pub fn new(seed: u64, fraction: f64) -> Split {
        // The product is at most 2^63 for half of the rows; the cast saturates beyond.
        Split { seed, threshold: (fraction * 2f64.powi(64)) as u64 }
    }

    /// The hash that decides over a row.
    pub fn hash(self, row: u64) -> u64 {
        seed::hash(seed::hash(self.seed, Purpose::HoldOut as u64), row)
    }

    /// Whether the row is held out.
    pub fn holds_out(self, row: u64) -> bool {
        self.hash(row) < self.threshold
    }

    /// Holds out the row of this hash and those below it.
    pub(super) fn up_to(self, hash: u64) -> Split {
        Split { threshold: hash.saturating_add(1), ..self }
    }

    /// Holds out the rows below this hash.
    pub(super) fn below(self, hash: u64) -> Split {
        Split { threshold: hash, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_fraction_is_held_out_and_the_seed_decides_which() {
        let rows = |seed, fraction| (0..100_000).filter(move |row| Split::new(seed, fraction).holds_out(*row));
        assert!((19_500..20_500).contains(&rows(1, 0.2).count()));
        assert!((49_500..50_500).contains(&rows(1, 0.5).count()));
        assert_eq!(rows(1, 0.0).count(), 0);
        assert!(rows(1, 0.2).ne(rows(2, 0.2)));
    }
}
