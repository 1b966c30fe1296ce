//! Prefixes on the disk: what was used again while a model was loaded is there when it is loaded the next time.
//!
//! A file is its magic, how many tokens there are, the tokens, and what the engine made of them; numbers are little-endian
//! and 32 bits wide. The engine trusts none of it.

use std::{fs, io, path::Path, time::Instant};

use sha2::{Digest, Sha256};
use wattle_engine::tokens::Token;

use super::steps::Steps;

const MAGIC: &[u8; 8] = b"WATTLEP1";
/// A shorter prefix is computed sooner than it is read.
const LEAST_TOKENS: u32 = 32;
/// The end of a file's name while it is written.
const UNFINISHED: &str = ".tmp";

impl Steps {
    /// Writes the most useful prefixes to a folder, in place of what is there.
    pub(super) fn save(&mut self, folder: &Path) -> io::Result<()> {
        let now = self.clock.now();
        let mut left = self.settings.saved_bytes;
        let mut kept = Vec::new();
        if left > 0 {
            fs::create_dir_all(folder)?;
        }
        for (sequence, length) in self.tree.reused(now) {
            if length < LEAST_TOKENS || self.tree.length(sequence) < length {
                continue;
            }
            let whole = self.tree.length(sequence) == length;
            if !whole && !self.cuts {
                continue;
            }
            let tokens = self.tree.tokens(sequence)[..length as usize].to_vec();
            let state = if whole {
                self.engine.save(sequence)
            } else {
                let Some(copy) = self.free_sequence(Some(sequence), now) else { continue };
                self.engine.fork(sequence, copy, length);
                let state = self.engine.save(copy);
                self.engine.free(copy);
                self.pool.give_back(copy);
                state
            };
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    tracing::debug!(%error, "a prefix is not saved");
                    continue;
                }
            };
            let bytes = encode(&tokens, &state);
            if bytes.len() as u64 > left {
                continue;
            }
            left -= bytes.len() as u64;
            let name = name(&tokens);
            let unfinished = folder.join(format!("{name}{UNFINISHED}"));
            fs::write(&unfinished, bytes)?;
            fs::rename(unfinished, folder.join(&name))?;
            kept.push(name);
        }
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry?;
            if !kept.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Takes in what a folder has, as long as there is room; what is of no use is removed.
    pub(super) fn restore(&mut self, folder: &Path) {
        let now = self.clock.now();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let too_large = entry.metadata().map_or(true, |file| file.len() > self.settings.saved_bytes);
            let read = if too_large { None } else { fs::read(&path).ok() };
            let taken =
                read.as_deref().and_then(decode).is_some_and(|(tokens, state)| self.take_in(&tokens, state, now));
            if !taken {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn take_in(&mut self, tokens: &[Token], state: &[u8], now: Instant) -> bool {
        let fits = tokens.len() as u64 + u64::from(self.tree.used()) <= u64::from(self.limits.cells / 2);
        if !fits || tokens.len() as u32 >= self.limits.context_tokens {
            return false;
        }
        let Some(sequence) = self.pool.take() else { return false };
        if let Err(error) = self.engine.restore(sequence, state) {
            tracing::debug!(%error, "a saved prefix is of no use");
            self.engine.free(sequence);
            self.pool.give_back(sequence);
            return false;
        }
        self.tree.begin(sequence);
        self.tree.append(sequence, tokens);
        self.tree.keep(sequence, now);
        // It was of use before, and is to be there the next time as well.
        self.tree.resume(sequence, now);
        self.tree.keep(sequence, now);
        true
    }
}

fn name(tokens: &[Token]) -> String {
    let mut hash = Sha256::new();
    tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(tokens: &[Token], state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + tokens.len() * 4 + state.len());
    bytes.extend(MAGIC);
    bytes.extend((tokens.len() as u32).to_le_bytes());
    tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
    bytes.extend(state);
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Vec<Token>, &[u8])> {
    let (count, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let (tokens, state) = rest.split_at_checked(count.checked_mul(4)?)?;
    let tokens = tokens.chunks_exact(4).map(|token| Token::from_le_bytes(token.try_into().unwrap_or_default()));
    Some((tokens.collect(), state)).filter(|_| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let bytes = encode(&[1, 2, 70_000], b"state");
        assert_eq!(decode(&bytes), Some((vec![1, 2, 70_000], b"state".as_slice())));
        for cut in 0..24 {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
        let mut lying = bytes;
        lying[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&lying), None);
        assert_ne!(name(&[1, 2]), name(&[2, 1]));
    }
}
