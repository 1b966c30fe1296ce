//! Who of a deployment's revisions answers a call, and whether its canary may go on: pure policy.

use sha2::{Digest, Sha256};
use wattle_core::Name;
use wattle_store::Traffic;

/// The revision that answers a call; `None` where nothing is deployed.
///
/// A call with a key meets the same revision as long as the traffic is the same. The space of keys is cut at the canary's
/// share from below, so that a growing canary takes keys from the stable revision and gives none back. `random` places
/// the calls without a key.
pub fn pick(traffic: &Traffic, deployment: &Name, key: Option<&str>, random: u64) -> Option<u32> {
    let Some(canary) = traffic.canary() else { return traffic.stable() };
    let place = key.map_or(random, |key| place_of(deployment, key));
    // The percent of the space that the place lies in, without the bias of a remainder.
    let percent = (u128::from(place) * 100) >> 64;
    if percent < u128::from(canary.percent) { Some(canary.revision) } else { traffic.stable() }
}

/// Where a key lies: the first eight bytes, the most significant first, of the SHA-256 of the deployment's name, a zero
/// byte and the key. The name takes part, so that the same callers are not the first to meet every canary; nothing else
/// does, so that every gateway finds the same place.
fn place_of(deployment: &Name, key: &str) -> u64 {
    let hash = Sha256::new().chain_update(deployment.as_str()).chain_update([0]).chain_update(key).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// When a canary has failed too often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// By how much the share of its calls that fail may be larger than the stable revision's, in percent.
    pub max_error_percent: f64,
    /// How many calls it answers before it is judged.
    pub min_calls: u64,
}

/// What a revision did since its canary began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were answered or failed; those that the caller got wrong are none.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
}

/// What becomes of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// Its calls go back to the stable revision, and why.
    RollBack(String),
}

/// What chance makes of few calls is forgiven up to so many standard errors, since a canary is judged at every call.
const STANDARD_ERRORS: f64 = 3.0;

impl Gate {
    /// Judges a canary by its calls and the stable revision's meanwhile: it has failed when the share of its calls that
    /// fail is larger by more than is allowed, and by more than chance explains.
    pub fn judge(&self, canary: Tally, stable: Tally) -> Verdict {
        if canary.calls < self.min_calls.max(1) {
            return Verdict::Keep;
        }
        let (share, usual) = (canary.failed_percent(), stable.failed_percent());
        let chance = 100.0 * STANDARD_ERRORS * standard_error(canary, stable);
        if share <= usual + self.max_error_percent + chance {
            return Verdict::Keep;
        }
        Verdict::RollBack(format!(
            "{} of its {} calls failed ({share:.1}%), and {} of the stable revision's {} ({usual:.1}%): more than {}% apart",
            canary.failures, canary.calls, stable.failures, stable.calls, self.max_error_percent
        ))
    }
}

/// The standard error of the difference between both shares, were they the same: that of two proportions, pooled.
fn standard_error(one: Tally, other: Tally) -> f64 {
    let calls = (one.calls + other.calls) as f64;
    let pooled = (one.failures + other.failures) as f64 / calls;
    let inverse = |tally: Tally| if tally.calls == 0 { 0.0 } else { 1.0 / tally.calls as f64 };
    (pooled * (1.0 - pooled) * (inverse(one) + inverse(other))).sqrt()
}

impl Tally {
    fn failed_percent(self) -> f64 {
        if self.calls == 0 { 0.0 } else { 100.0 * self.failures as f64 / self.calls as f64 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn line() -> Name {
        "line".parse().unwrap()
    }

    /// Numbers that are spread evenly, the same in every run: SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
    fn random(index: u64) -> u64 {
        let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The part of so many calls that the canary gets, by `pick_one`.
    fn share(calls: u64, pick_one: impl Fn(u64) -> Option<u32>) -> f64 {
        (0..calls).filter(|call| pick_one(*call) == Some(2)).count() as f64 / calls as f64
    }

    #[test]
    fn a_place_is_the_same_everywhere() {
        // printf 'line\0anna' | sha256sum
        assert_eq!(place_of(&line(), "anna"), 0xf7a8_46ea_7047_9bcb);
    }

    #[test]
    fn one_revision_takes_all_and_none_takes_nothing() {
        assert_eq!(pick(&Traffic::default(), &line(), None, 7), None);
        assert_eq!(pick(&Traffic::all(3).with_shadow(4), &line(), Some("anna"), u64::MAX), Some(3));
        let least = Traffic::all(1).with_canary(2, 1);
        assert_eq!((pick(&least, &line(), None, 0), pick(&least, &line(), None, u64::MAX)), (Some(2), Some(1)));
        let most = Traffic::all(1).with_canary(2, 99);
        assert_eq!((pick(&most, &line(), None, 0), pick(&most, &line(), None, u64::MAX)), (Some(2), Some(1)));
    }

    #[test]
    fn the_measured_share_is_within_the_binomial_error() {
        const CALLS: u64 = 20_000;
        for percent in [1, 10, 50, 90, 99] {
            let traffic = Traffic::all(1).with_canary(2, percent);
            let wanted = f64::from(percent) / 100.0;
            // Five standard deviations: a right share is outside once in 1.7 million runs, and the numbers are fixed.
            let error = 5.0 * (wanted * (1.0 - wanted) / CALLS as f64).sqrt();
            let at_random = share(CALLS, |call| pick(&traffic, &line(), None, random(call)));
            let by_key = share(CALLS, |call| pick(&traffic, &line(), Some(&format!("caller-{call}")), 0));
            for measured in [at_random, by_key] {
                assert!((measured - wanted).abs() < error, "{measured} of {wanted}");
            }
        }
    }

    #[test]
    fn other_deployments_try_their_canaries_on_other_callers() {
        let traffic = Traffic::all(1).with_canary(2, 50);
        let curve: Name = "curve".parse().unwrap();
        let both = (0..1000_u64).filter(|call| {
            let key = format!("caller-{call}");
            pick(&traffic, &line(), Some(&key), 0) == pick(&traffic, &curve, Some(&key), 0)
        });
        assert!((400..600).contains(&both.count()));
    }

    proptest! {
        #[test]
        fn a_key_meets_the_same_revision_and_moves_one_way(
            key in ".{0,40}",
            (few, more) in (1_u8..=99).prop_flat_map(|few| (Just(few), few..=99)),
            (one, other) in (any::<u64>(), any::<u64>()),
        ) {
            let (before, after) = (Traffic::all(1).with_canary(2, few), Traffic::all(1).with_canary(2, more));
            let met = pick(&before, &line(), Some(&key), one);
            prop_assert_eq!(met, pick(&before, &line(), Some(&key), other));
            if met == Some(2) {
                prop_assert_eq!(pick(&after, &line(), Some(&key), one), Some(2));
            }
        }

        #[test]
        fn a_canary_is_judged_by_how_much_worse_it_is(
            canary in tallies(), stable in tallies(), max_error_percent in 0.0..=100.0, min_calls in 0_u64..50,
        ) {
            let gate = Gate { max_error_percent, min_calls };
            let kept = gate.judge(canary, stable) == Verdict::Keep;
            let share = |tally: Tally| if tally.calls == 0 { 0.0 } else { tally.failures as f64 / tally.calls as f64 };
            let worse = share(canary) - share(stable);
            if canary.calls < min_calls || canary.calls == 0 {
                prop_assert!(kept, "too few calls to tell");
            }
            if worse * 100.0 < max_error_percent - 1e-9 {
                prop_assert!(kept, "no worse than is allowed");
            }
            // Nobody could take this for chance.
            let hopeless = Tally { calls: min_calls + 20, failures: min_calls + 20 };
            let sound = Tally { calls: stable.calls + 100, failures: 0 };
            let strict = Gate { max_error_percent: max_error_percent / 2.0, ..gate };
            prop_assert!(strict.judge(hopeless, sound) != Verdict::Keep);
        }
    }

    fn tallies() -> impl Strategy<Value = Tally> {
        (0_u64..200)
            .prop_flat_map(|calls| (Just(calls), 0..=calls))
            .prop_map(|(calls, failures)| Tally { calls, failures })
    }

    #[test]
    fn a_verdict_says_why() {
        let gate = Gate { max_error_percent: 5.0, min_calls: 20 };
        let failed = |failures, calls| Tally { calls, failures };
        assert_eq!(gate.judge(failed(19, 19), failed(0, 100)), Verdict::Keep);
        assert_eq!(gate.judge(failed(1, 20), failed(0, 100)), Verdict::Keep);
        assert_eq!(gate.judge(failed(20, 20), failed(95, 100)), Verdict::Keep);
        assert_eq!(gate.judge(failed(3, 20), failed(1, 100)), Verdict::Keep, "that may be chance");
        assert_eq!(gate.judge(failed(5, 9), failed(6, 13)), Verdict::Keep, "both fail as often");
        assert!(gate.judge(failed(20, 20), failed(0, 0)) != Verdict::Keep, "there need be nobody to compare with");
        assert_eq!(
            gate.judge(failed(5, 20), failed(1, 100)),
            Verdict::RollBack(
                "5 of its 20 calls failed (25.0%), and 1 of the stable revision's 100 (1.0%): more than 5% apart"
                    .into()
            )
        );
    }
}
