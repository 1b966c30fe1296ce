//! Which instance has read which beginnings of prompts, as far as can be told from what it was given.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hasher},
};

use crate::language::Prompt;

/// How many bytes of a prompt one mark stands for.
const MARK_BYTES: usize = 256;
/// The most marks of a prompt, 64 KiB of text; what comes after them is taken for different.
const MOST_MARKS: usize = 256;
/// The most marks that are remembered at once, twice. Those that nobody began with for longest go first.
const REMEMBERED: usize = 1 << 15;

/// What was read where.
#[derive(Default)]
pub(super) struct Prefixes {
    young: HashMap<u64, Vec<u64>>,
    old: HashMap<u64, Vec<u64>>,
}

/// Numbers that two prompts share as far as they begin with the same text, one for each whole [`MARK_BYTES`] of it.
pub(super) fn marks(prompt: &Prompt) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    match prompt {
        Prompt::Text { text, .. } => chained(&mut hasher, text.as_bytes().chunks_exact(MARK_BYTES)),
        Prompt::Tokens(tokens) => {
            let bytes: Vec<u8> =
                tokens.iter().take(MOST_MARKS * MARK_BYTES / 4).flat_map(|token| token.to_le_bytes()).collect();
            chained(&mut hasher, bytes.chunks_exact(MARK_BYTES))
        }
    }
}

fn chained<'a>(hasher: &mut DefaultHasher, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    let mark = |piece: &[u8]| {
        hasher.write(piece);
        hasher.finish()
    };
    pieces.take(MOST_MARKS).map(mark).collect()
}

impl Prefixes {
    /// How many of these marks each instance has read one after the other from the first, where it has any.
    pub(super) fn known(&self, marks: &[u64]) -> BTreeMap<u64, usize> {
        let mut known = BTreeMap::new();
        for (index, mark) in marks.iter().enumerate() {
            let mut any = false;
            for key in self.young.get(mark).into_iter().chain(self.old.get(mark)).flatten() {
                let read = known.entry(*key).or_insert(0);
                // One that read an earlier mark not is behind for good.
                if *read >= index {
                    *read = index + 1;
                    any = true;
                }
            }
            if !any {
                break;
            }
        }
        known.retain(|_, read| *read > 0);
        known
    }

    /// An instance is about to read these.
    pub(super) fn learn(&mut self, marks: &[u64], key: u64) {
        for mark in marks {
            if self.young.len() >= REMEMBERED {
                self.old = std::mem::take(&mut self.young);
            }
            let mut readers = self.old.remove(mark).unwrap_or_default();
            let present = self.young.entry(*mark).or_default();
            present.append(&mut readers);
            if !present.contains(&key) {
                present.push(key);
            }
        }
    }

    /// An instance went, and what it had read with it.
    pub(super) fn forget(&mut self, key: u64) {
        for readers in [&mut self.young, &mut self.old] {
            readers.retain(|_, keys| {
                keys.retain(|one| *one != key);
                !keys.is_empty()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<u64> {
        marks(&Prompt::Text { text: text.into(), special: true })
    }

    #[test]
    fn prompts_share_marks_as_far_as_they_begin_the_same() {
        let common = "You are a careful assistant. ".repeat(30);
        let (one, other) = (of(&format!("{common}one")), of(&format!("{common}another, and longer{common}")));
        assert_eq!(one.len(), common.len() / MARK_BYTES);
        assert_eq!(one[..], other[..one.len()]);
        assert_ne!(of(&format!("x{common}"))[0], one[0]);
        assert!(of("short").is_empty());
        assert_eq!(of(&"long ".repeat(1 << 20)).len(), MOST_MARKS);
        let tokens: Vec<u32> = (0..200).collect();
        assert_eq!(marks(&Prompt::Tokens(tokens)).len(), 3);
    }

    #[test]
    fn what_was_read_is_known_as_far_as_it_hangs_together() {
        let mut prefixes = Prefixes::default();
        prefixes.learn(&[1, 2, 3], 7);
        prefixes.learn(&[1, 2], 8);
        assert_eq!(prefixes.known(&[1, 2, 3, 4]), BTreeMap::from([(7, 3), (8, 2)]));
        assert!(prefixes.known(&[2, 3]).contains_key(&7), "a mark stands for all before it");
        assert!(prefixes.known(&[5]).is_empty() && prefixes.known(&[]).is_empty());
        prefixes.forget(7);
        assert_eq!(prefixes.known(&[1, 2, 3]), BTreeMap::from([(8, 2)]));
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let mut prefixes = Prefixes::default();
        prefixes.learn(&[u64::MAX], 1);
        for mark in 0..4 * REMEMBERED as u64 {
            prefixes.learn(&[mark], 2);
            if mark % 1000 == 0 {
                prefixes.learn(&[u64::MAX], 1);
            }
        }
        assert!(prefixes.young.len() <= REMEMBERED && prefixes.old.len() <= REMEMBERED);
        assert_eq!(prefixes.known(&[u64::MAX]), BTreeMap::from([(1, 1)]));
        assert!(prefixes.known(&[0]).is_empty());
    }
}
