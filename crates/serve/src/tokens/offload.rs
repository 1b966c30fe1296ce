//! Sequences out of the engine's cells, in main memory: there they cost no step any time, and to bring one back is some
//! hundred times cheaper than to compute it again.

use std::time::Instant;

use wattle_engine::tokens::{SequenceId, Token};

use super::{
    steps::Steps,
    tree::{Worth, common},
};

/// A shorter sequence is computed sooner than it is brought back.
pub(super) const LEAST_TOKENS: usize = 32;
/// A sequence of which others hold more than all but such a part is not worth the bytes of the whole.
const LEAST_OWN: u32 = 4;

/// What was taken out of the cells, within a bound.
#[derive(Debug)]
pub(super) struct Offload {
    sequences: Vec<Offloaded>,
    bytes: u64,
    most_bytes: u64,
    evicted_tokens: u64,
}

/// A sequence that grows no more.
#[derive(Debug)]
pub(super) struct Offloaded {
    pub(super) tokens: Vec<Token>,
    /// What the engine made of it.
    pub(super) state: Vec<u8>,
    /// How many of its first tokens were of use to another one.
    pub(super) reused: usize,
    pub(super) worth: Worth,
}

impl Offload {
    pub(super) fn new(most_bytes: u64) -> Offload {
        Offload { sequences: Vec::new(), bytes: 0, most_bytes, evicted_tokens: 0 }
    }

    /// Bytes that are taken.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tokens that went for lack of room.
    pub(super) fn evicted_tokens(&self) -> u64 {
        self.evicted_tokens
    }

    /// All that there is.
    pub(super) fn all(&self) -> impl Iterator<Item = &Offloaded> {
        self.sequences.iter()
    }

    /// The sequence that begins with the most of these tokens, by its number here, and how many these are. Where sequences
    /// cannot be cut, all of it has to be.
    pub(super) fn find(&self, tokens: &[Token], cuts: bool) -> Option<(usize, usize)> {
        let found = self.sequences.iter().enumerate().map(|(index, one)| (index, common(&one.tokens, tokens)));
        let found = found.filter(|(index, length)| cuts || *length == self.sequences[*index].tokens.len());
        found.filter(|(_, length)| *length > 0).max_by_key(|(_, length)| *length)
    }

    /// Takes a sequence in, in the place of those that it begins with, and lets go what is worth the least as long as there
    /// is too much; `false` if it is too large itself.
    pub(super) fn put(&mut self, taken: Offloaded, cuts: bool, now: Instant) -> bool {
        let covers = |one: &Offloaded| taken.tokens.starts_with(&one.tokens);
        if cuts {
            self.retain(|one| !covers(one));
        }
        let bytes = taken.bytes();
        if bytes > self.most_bytes {
            return false;
        }
        while self.bytes + bytes > self.most_bytes {
            let least = self.sequences.iter().enumerate();
            let least = least.min_by(|(_, one), (_, other)| one.value(now).total_cmp(&other.value(now)));
            let Some((index, _)) = least else { break };
            self.evicted_tokens += self.take(index).tokens.len() as u64;
        }
        self.bytes += bytes;
        self.sequences.push(taken);
        true
    }

    fn take(&mut self, index: usize) -> Offloaded {
        let taken = self.sequences.swap_remove(index);
        self.bytes -= taken.bytes();
        taken
    }

    fn retain(&mut self, stays: impl Fn(&Offloaded) -> bool) {
        self.sequences.retain(stays);
        self.bytes = self.sequences.iter().map(Offloaded::bytes).sum();
    }
}

impl Offloaded {
    fn bytes(&self) -> u64 {
        (self.state.len() + size_of_val(self.tokens.as_slice())) as u64
    }

    fn value(&self, now: Instant) -> f64 {
        self.worth.of(self.tokens.len() as u32, now)
    }
}

impl Steps {
    /// Takes kept sequences out of the cells, the least valuable first, until no more cells are idle than slow no step.
    pub(super) fn offload_idle(&mut self, now: Instant) {
        let most = self.engine.idle_cells();
        while self.tree.used() - self.tree.used_by_running() > most {
            let Some(going) = self.tree.least_valuable_sequence(now) else { return };
            self.let_go(going, now);
            self.pool.give_back(going);
        }
    }

    /// Takes a sequence out of the cells, if it is worth it, and frees it; what was not worth it is gone.
    pub(super) fn let_go(&mut self, sequence: SequenceId, now: Instant) {
        let is_there = self.offload(sequence, now);
        let used = self.tree.used();
        self.engine.free(sequence);
        self.tree.remove(sequence);
        if !is_there {
            self.statistics.evicted_tokens += u64::from(used - self.tree.used());
        }
    }

    /// Copies a sequence out of the cells, if it is worth it; says whether it can be brought back.
    pub(super) fn offload(&mut self, sequence: SequenceId, now: Instant) -> bool {
        let length = self.tree.length(sequence);
        if self.offload.most_bytes == 0
            || (length as usize) < LEAST_TOKENS
            || self.tree.own(sequence) < length / LEAST_OWN
        {
            return false;
        }
        let tokens = self.tree.tokens(sequence);
        let (reused, worth) = self.tree.use_of(sequence);
        let there = self.offload.find(&tokens, self.cuts);
        if let Some((index, _)) = there.filter(|(_, length)| *length == tokens.len()) {
            let there = &mut self.offload.sequences[index];
            there.reused = there.reused.max(reused);
            there.worth = there.worth.or(worth);
            return true;
        }
        match self.engine.save(sequence) {
            Ok(state) => self.offload.put(Offloaded { tokens, state, reused, worth }, self.cuts, now),
            Err(error) => {
                tracing::debug!(%error, "a sequence stays where it is until it is overwritten");
                false
            }
        }
    }

    /// How many of these tokens can be brought back.
    pub(super) fn offloaded(&self, tokens: &[Token]) -> usize {
        self.offload.find(tokens, self.cuts).map_or(0, |(_, length)| length)
    }

    /// Gives a sequence the longest beginning of these tokens that is offloaded, if that is well beyond what is there.
    pub(super) fn bring_back(&mut self, tokens: &[Token], there: usize, now: Instant) -> Option<(SequenceId, u32)> {
        let (index, length) = self.offload.find(tokens, self.cuts)?;
        let whole = self.offload.sequences[index].tokens.len();
        let room = (self.limits.cells - self.tree.used_by_running()) as usize;
        if length < there + LEAST_TOKENS || whole > room {
            return None;
        }
        // What makes room for it may be offloaded, and must not take its place.
        let mut found = self.offload.take(index);
        let sequence = self.free_sequence(None, now).filter(|sequence| {
            let has_room = self.make_room(whole as u32, now);
            if !has_room {
                self.pool.give_back(*sequence);
            }
            has_room
        });
        let restored = sequence.and_then(|sequence| match self.engine.restore(sequence, &found.state) {
            Ok(()) => Some(sequence),
            Err(error) => {
                tracing::debug!(%error, "an offloaded sequence is of no use");
                self.engine.free(sequence);
                self.pool.give_back(sequence);
                found.state.clear();
                None
            }
        });
        if restored.is_some() {
            found.reused = found.reused.max(length);
            found.worth.used(now);
        }
        let restored = restored.map(|sequence| {
            self.tree.begin(sequence);
            self.tree.append(sequence, &found.tokens);
            let length = if length < whole { self.shorten(sequence, length as u32) } else { length as u32 };
            (sequence, length)
        });
        if !found.state.is_empty() {
            self.offload.put(found, self.cuts, now);
        }
        restored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offloaded(tokens: &[Token], bytes: usize) -> Offloaded {
        Offloaded { tokens: tokens.to_vec(), state: vec![0; bytes], reused: 0, worth: Worth::default() }
    }

    #[test]
    fn the_longest_beginning_is_found() {
        let mut offload = Offload::new(1 << 20);
        let now = Instant::now();
        assert!(offload.put(offloaded(&[1, 2, 3, 4], 10), true, now));
        assert!(offload.put(offloaded(&[1, 2, 9], 10), true, now));
        assert_eq!(offload.find(&[1, 2, 3, 7], true), Some((0, 3)));
        assert_eq!(offload.find(&[1, 2, 9, 7], false), Some((1, 3)));
        assert_eq!(offload.find(&[1, 2, 3, 7], false), None);
        assert_eq!(offload.find(&[5], true), None);
    }

    #[test]
    fn the_bound_is_kept_and_what_is_covered_goes() {
        let mut offload = Offload::new(300);
        let now = Instant::now();
        assert!(!offload.put(offloaded(&[1], 400), true, now));
        assert!(offload.put(offloaded(&[1], 90), true, now));
        assert!(offload.put(offloaded(&[1, 2], 92), true, now));
        assert_eq!((offload.all().count(), offload.bytes()), (1, 100));
        let mut used = offloaded(&[2], 96);
        used.worth.used(now);
        assert!(offload.put(used, true, now));
        assert!(offload.put(offloaded(&[3], 96), true, now));
        assert!(offload.put(offloaded(&[4], 96), true, now));
        assert_eq!((offload.all().count(), offload.bytes()), (3, 300));
        assert!(offload.find(&[2], true).is_some());
    }
}
