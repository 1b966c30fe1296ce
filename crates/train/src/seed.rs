//! Randomness from a seed: the same seed gives the same numbers on every machine and for any number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What the randomness is for. Each purpose has a stream of its own, so that one more draw here shifts nothing there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the rows within a shard.
    Shuffle,
    /// The order of the batches within an epoch.
    Batches,
    /// Which rows are held out.
    HoldOut,
}

/// A generator for `purpose`; `index` tells its streams apart (the shard, the epoch).
pub fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(hash(seed, purpose as u64));
    generator.set_stream(index);
    generator
}

/// Puts `items` into a random order: Fisher and Yates, with Lemire's unbiased choice.
///
/// Source: D. Lemire, Fast random integer generation in an interval, 2019.
pub fn shuffle<T>(items: &mut [T], generator: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last as u64 + 1, generator) as usize);
    }
}

/// A hash of `index` under `seed`, evenly spread over all 64 bits.
///
/// Source: the finaliser of SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014).
pub fn hash(seed: u64, index: u64) -> u64 {
    let mut z = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ index;
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mix(z)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn below(bound: u64, generator: &mut ChaCha8Rng) -> u64 {
    let mut product = u128::from(generator.next_u64()) * u128::from(bound);
    if (product as u64) < bound {
        let threshold = bound.wrapping_neg() % bound;
        while (product as u64) < threshold {
            product = u128::from(generator.next_u64()) * u128::from(bound);
        }
    }
    (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_that_the_seed_decides() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..1000).collect();
            shuffle(&mut items, &mut generator(seed, Purpose::Shuffle, 3));
            items
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let mut sorted = order(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn hashes_spread_evenly() {
        let ones: u32 = (0..10_000).map(|index| hash(1, index).count_ones()).sum();
        assert!((315_000..325_000).contains(&ones), "{ones}");
        assert_ne!(hash(1, 2), hash(2, 1));
    }
}
