//! Which models stay in memory: a policy without a clock or a model.
//!
//! A model is worth keeping by the energy that loading it again would take, for each byte and second that it stays until
//! it is called again. When room is needed the least valuable go first; when nobody needs the room, a model goes once it has
//! cost more by staying than loading it again would.

use std::time::{Duration, Instant};

/// A model in memory.
#[derive(Debug, Clone)]
pub(crate) struct Resident<K> {
    pub(crate) key: K,
    /// What its load added.
    pub(crate) bytes: u64,
    /// What its load took.
    pub(crate) load_joules: f64,
    pub(crate) last_used: Instant,
    /// The mean time between its calls.
    pub(crate) gap: Duration,
    pub(crate) pinned: bool,
    /// How long it is to stay after a call, if somebody decided that.
    pub(crate) keep_alive: Option<Duration>,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// The budget for all models.
    pub(crate) budget_bytes: u64,
    /// What would stay whatever goes.
    pub(crate) pinned_bytes: u64,
}

/// A model that nobody decided about stays for so long after a call, however little loading it again would take: somebody
/// would wait for that.
pub(crate) const STAYS_AT_LEAST: Duration = Duration::from_secs(60);

impl<K> Resident<K> {
    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used)
    }

    /// Joules that its staying saves, for each byte and second. A model that has been idle for longer than usual is not
    /// expected soon.
    fn value(&self, now: Instant) -> f64 {
        let gap = self.gap.max(self.idle(now)).as_secs_f64().max(1e-3);
        self.load_joules / (self.bytes.max(1) as f64 * gap)
    }

    /// Whether nothing is gained by its staying any longer.
    fn is_overdue(&self, watts_per_byte: f64, now: Instant) -> bool {
        if self.pinned {
            return false;
        }
        let idle = self.idle(now);
        match self.keep_alive {
            Some(keep_alive) => idle >= keep_alive,
            None => {
                let stayed_joules = self.bytes as f64 * watts_per_byte * idle.as_secs_f64();
                idle >= STAYS_AT_LEAST && stayed_joules >= self.load_joules
            }
        }
    }
}

/// Which models have to go so that `needed_bytes` more fit into the budget, the least valuable first.
pub(crate) fn victims<K: Clone>(
    residents: &[Resident<K>],
    needed_bytes: u64,
    budget_bytes: u64,
    now: Instant,
) -> Result<Vec<K>, NoRoom> {
    let used: u64 = residents.iter().map(|resident| resident.bytes).sum();
    let mut excess = used.saturating_add(needed_bytes).saturating_sub(budget_bytes);
    let mut going: Vec<&Resident<K>> = residents.iter().filter(|resident| !resident.pinned).collect();
    going.sort_by(|one, other| one.value(now).total_cmp(&other.value(now)));
    let mut keys = Vec::new();
    for resident in going {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(resident.bytes);
        keys.push(resident.key.clone());
    }
    if excess > 0 {
        let pinned_bytes = residents.iter().filter(|resident| resident.pinned).map(|resident| resident.bytes).sum();
        return Err(NoRoom { budget_bytes, pinned_bytes });
    }
    Ok(keys)
}

/// Which models have stayed for longer than is worth while.
pub(crate) fn overdue<K: Clone>(residents: &[Resident<K>], watts_per_byte: f64, now: Instant) -> Vec<K> {
    let over = residents.iter().filter(|resident| resident.is_overdue(watts_per_byte, now));
    over.map(|resident| resident.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn resident(key: usize, bytes: u64, load_joules: f64, gap_seconds: u64, start: Instant) -> Resident<usize> {
        let gap = Duration::from_secs(gap_seconds);
        Resident { key, bytes, load_joules, last_used: start, gap, pinned: false, keep_alive: None }
    }

    #[test]
    fn the_least_valuable_go_first_and_no_more_than_needed() {
        let now = Instant::now();
        let models = [
            resident(0, 100, 1.0, 10, now),
            // Called as often, ten times as dear to load.
            resident(1, 100, 10.0, 10, now),
            // As dear as the first, called more rarely.
            resident(2, 100, 1.0, 100, now),
            // As dear and as frequent as the first, and ten times as large.
            resident(3, 1000, 1.0, 10, now),
        ];
        assert_eq!(victims(&models, 0, 1300, now), Ok(vec![]));
        let one = victims(&models, 100, 1300, now).unwrap();
        assert!(one == [2] || one == [3], "{one:?}");
        assert_eq!(victims(&models, 1300, 1450, now).unwrap().len(), 3);
        assert!(!victims(&models, 1300, 1450, now).unwrap().contains(&1));
    }

    #[test]
    fn a_pinned_model_stays_and_the_numbers_are_told() {
        let now = Instant::now();
        let pinned = Resident { pinned: true, ..resident(0, 80, 1.0, 1, now) };
        let models = [pinned.clone(), resident(1, 20, 1.0, 1, now)];
        assert_eq!(victims(&models, 20, 100, now), Ok(vec![1]));
        assert_eq!(victims(&models, 21, 100, now), Err(NoRoom { budget_bytes: 100, pinned_bytes: 80 }));
        let years = now + Duration::from_secs(1 << 28);
        assert!(overdue(&[pinned], 1.0, years).is_empty());
    }

    #[test]
    fn a_model_goes_when_it_cost_more_by_staying_than_by_loading_again() {
        let start = Instant::now();
        // 100 bytes at a milliwatt each: 10 J are stayed in 100 s.
        let model = resident(0, 100, 10.0, 1, start);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(overdue(std::slice::from_ref(&model), 1e-3, after(99)).is_empty());
        assert_eq!(overdue(std::slice::from_ref(&model), 1e-3, after(100)), [0]);
        let cheap = Resident { load_joules: 1e-9, ..model };
        assert!(overdue(std::slice::from_ref(&cheap), 1e-3, after(59)).is_empty(), "somebody would wait for the load");
        let kept = Resident { keep_alive: Some(Duration::from_secs(5)), ..cheap };
        assert!(overdue(std::slice::from_ref(&kept), 1e-3, after(4)).is_empty());
        assert_eq!(overdue(&[kept], 1e-3, after(5)), [0]);
    }

    proptest! {
        /// Whatever goes makes enough room, nothing pinned goes, and the last one that goes was needed.
        #[test]
        fn what_goes_is_enough_and_not_too_much(
            models in proptest::collection::vec((1..1000_u64, 0.0..10.0_f64, 0..1000_u64, any::<bool>()), 0..20),
            needed in 0..3000_u64,
            budget in 0..5000_u64,
        ) {
            let now = Instant::now();
            let models: Vec<_> = models.into_iter().enumerate().map(|(key, (bytes, joules, gap, pinned))| {
                Resident { pinned, ..resident(key, bytes, joules, gap, now) }
            }).collect();
            let bytes = |keep: &dyn Fn(&Resident<usize>) -> bool| {
                models.iter().filter(|model| keep(model)).map(|model| model.bytes).sum::<u64>()
            };
            match victims(&models, needed, budget, now) {
                Ok(going) => {
                    let left = bytes(&|model| !going.contains(&model.key));
                    prop_assert!(left + needed <= budget);
                    prop_assert!(going.iter().all(|key| !models[*key].pinned));
                    if let Some(last) = going.last() {
                        prop_assert!(left + models[*last].bytes + needed > budget);
                    }
                }
                Err(_) => prop_assert!(bytes(&|model| model.pinned) + needed > budget),
            }
        }
    }
}
