use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// How many codes are told apart; protocols have some sixty, and one server answers with a dozen.
const SLOTS: usize = 20;
/// The code of those for which there was no slot left.
const OTHER: u16 = u16::MAX;
/// A slot that no code has yet; no code is as large.
const FREE: u32 = u32::MAX;

/// Counts of calls by the number that their protocol gives to the way they ended. A code takes a slot when it first
/// occurs and keeps it, so that counting is one atomic addition.
#[derive(Debug)]
pub(super) struct Codes {
    slots: [(AtomicU32, AtomicU64); SLOTS],
    others: AtomicU64,
}

impl Codes {
    pub(super) fn new() -> Codes {
        Codes { slots: std::array::from_fn(|_| (AtomicU32::new(FREE), AtomicU64::new(0))), others: AtomicU64::new(0) }
    }

    pub(super) fn count(&self, code: u16) {
        let code = u32::from(code);
        for (slot, count) in &self.slots {
            let mut holder = slot.load(Relaxed);
            if holder == FREE {
                holder = slot.compare_exchange(FREE, code, Relaxed, Relaxed).err().unwrap_or(code);
            }
            if holder == code {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
        self.others.fetch_add(1, Relaxed);
    }

    /// Every code that occurred, and how often; what found no slot comes last, as 65535.
    pub(super) fn counts(&self) -> Vec<(u16, u64)> {
        let told = self.slots.iter().filter_map(|(slot, count)| {
            let code = u16::try_from(slot.load(Relaxed)).ok()?;
            Some((code, count.load(Relaxed)))
        });
        told.chain([(OTHER, self.others.load(Relaxed))]).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_code_has_its_count_and_memory_is_bounded() {
        let codes = Codes::new();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|call| codes.count([0, 200, 503][call % 3])));
            }
        });
        let mut counts = codes.counts();
        counts.sort_unstable();
        assert_eq!(counts, [(0, 1336), (200, 1332), (503, 1332)]);
        (1000..2000).for_each(|code| codes.count(code));
        let counts = codes.counts();
        assert_eq!(counts.len(), SLOTS + 1);
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 5000);
    }
}
