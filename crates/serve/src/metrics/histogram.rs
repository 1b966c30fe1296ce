use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counts of values by size, in fixed buckets: two atomic additions for a value, and no lock.
///
/// Values are whole numbers of a small unit, so that their sum is one addition too.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    /// One for each bound, and one for what is beyond the last.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// The buckets of a histogram.
#[derive(Debug)]
pub(super) struct Scale {
    /// The greatest value of each bucket but the last, ascending.
    bounds: &'static [u64],
    /// How many of these make the unit that is told to readers.
    per_unit: f64,
}

/// Times from 10 µs to two minutes, kept in nanoseconds and told in seconds.
pub(super) const SECONDS: Scale = Scale {
    bounds: &[
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        30_000_000_000,
        120_000_000_000,
    ],
    per_unit: 1e9,
};

/// How many of something were taken together.
pub(super) const COUNTS: Scale =
    Scale { bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 65_536], per_unit: 1.0 };

/// A histogram as it was at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// The greatest value of each bucket and how many values were at most that, in ascending order.
    pub buckets: Vec<(f64, u64)>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    pub(super) fn new(scale: &'static Scale) -> Histogram {
        let buckets = (0..=scale.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { scale, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub(super) fn add(&self, value: u64) {
        let bucket = self.scale.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Counts a length of time; beyond five centuries it is five centuries.
    pub(super) fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was counted so far; `None` when that is nothing.
    pub fn distribution(&self) -> Option<Distribution> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let count = counts.iter().sum();
        if count == 0 {
            return None;
        }
        let mut below = 0;
        let buckets = self.scale.bounds.iter().zip(&counts).map(|(bound, count)| {
            below += count;
            (*bound as f64 / self.scale.per_unit, below)
        });
        let buckets = buckets.collect();
        Some(Distribution { buckets, count, sum: self.sum.load(Relaxed) as f64 / self.scale.per_unit })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&COUNTS);
        assert_eq!(histogram.distribution(), None);
        for value in [1, 2, 3, 1_000_000] {
            histogram.add(value);
        }
        let told = histogram.distribution().unwrap();
        assert_eq!(told.buckets[..3], [(1.0, 1), (2.0, 2), (4.0, 3)]);
        assert_eq!(told.buckets.last(), Some(&(65_536.0, 3)), "what is beyond the last bound is in the count alone");
        assert_eq!((told.count, told.sum), (4, 1_000_006.0));
    }

    #[test]
    fn times_are_told_in_seconds() {
        let histogram = Histogram::new(&SECONDS);
        histogram.add_time(Duration::from_millis(2));
        histogram.add_time(Duration::from_secs(3600));
        let told = histogram.distribution().unwrap();
        assert_eq!(told.buckets[6..8], [(0.001, 0), (0.0025, 1)]);
        assert!((told.sum - 3600.002).abs() < 1e-9);
        assert!(SECONDS.bounds.is_sorted() && COUNTS.bounds.is_sorted());
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let histogram = Histogram::new(&COUNTS);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|value| histogram.add(value % 100)));
            }
        });
        let told = histogram.distribution().unwrap();
        assert_eq!((told.count, told.sum), (40_000, 4.0 * 100.0 * 4950.0));
    }
}
