//! When the requests of an open loop are due, whatever the server does.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::flags::Arrivals;

/// The instants, in seconds since the beginning. They are made one by one, so that what is overdue takes no room.
pub(super) struct Schedule {
    rate: f64,
    gaps: Gaps,
}

enum Gaps {
    Constant { made: u64 },
    Poisson { last: f64, random: Box<ChaCha8Rng> },
}

impl Schedule {
    /// So many requests a second. Each run has the same gaps.
    pub(super) fn new(rate: f64, arrivals: Arrivals) -> Schedule {
        let gaps = match arrivals {
            Arrivals::Constant => Gaps::Constant { made: 0 },
            Arrivals::Poisson => Gaps::Poisson { last: 0.0, random: Box::new(ChaCha8Rng::seed_from_u64(0)) },
        };
        Schedule { rate, gaps }
    }

    /// The next instant.
    pub(super) fn next_seconds(&mut self) -> f64 {
        match &mut self.gaps {
            Gaps::Constant { made } => {
                *made += 1;
                (*made - 1) as f64 / self.rate
            }
            Gaps::Poisson { last, random } => {
                // From 0 exclusively to 1.
                let unit = ((random.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
                *last -= unit.ln() / self.rate;
                *last
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_are_even() {
        let mut schedule = Schedule::new(4.0, Arrivals::Constant);
        assert_eq!([(); 4].map(|()| schedule.next_seconds()), [0.0, 0.25, 0.5, 0.75]);
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_spread_as_chance_does() {
        let mut schedule = Schedule::new(100.0, Arrivals::Poisson);
        let mut in_seconds = vec![0_u32; 1000];
        while let Some(count) = in_seconds.get_mut(schedule.next_seconds() as usize) {
            *count += 1;
        }
        let mean = f64::from(in_seconds.iter().sum::<u32>()) / 1000.0;
        let variance = in_seconds.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum::<f64>() / 999.0;
        // A Poisson count has as much variance as mean; five standard errors of each.
        assert!((mean - 100.0).abs() < 1.6, "{mean}");
        assert!((variance / 100.0 - 1.0).abs() < 0.23, "{variance}");
    }
}
