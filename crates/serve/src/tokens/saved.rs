//! Prefixes on the disk: what was used again while a model was loaded is there when it is loaded the next time.
//!
//! A file is its magic, how many tokens there are, the tokens, and what the engine made of them; numbers are little-endian
//! and 32 bits wide. The engine trusts none of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use sha2::{Digest, Sha256};
use wattle_engine::tokens::{SequenceId, Token};

use super::{
    offload::{LEAST_TOKENS, Offloaded},
    steps::Steps,
    tree::Worth,
};

const MAGIC: &[u8; 8] = b"WATTLEP1";
/// The end of a file's name while it is written.
const UNFINISHED: &str = ".tmp";

/// A folder that is being filled.
struct Folder {
    path: PathBuf,
    left: u64,
    names: Vec<String>,
}

impl Steps {
    /// Writes the most useful prefixes to a folder, in place of what is there.
    pub(super) fn save(&mut self, folder: &Path) -> io::Result<()> {
        let now = self.clock.now();
        let mut folder = Folder { path: folder.to_owned(), left: self.settings.saved_bytes, names: Vec::new() };
        if folder.left > 0 {
            fs::create_dir_all(&folder.path)?;
        }
        for (sequence, length) in self.tree.reused(now) {
            let tokens = self.tree.tokens(sequence);
            let Some(tokens) = tokens.get(..length as usize).filter(|tokens| tokens.len() >= LEAST_TOKENS) else {
                continue;
            };
            if let Some(state) = self.state(sequence, length, now) {
                folder.write(tokens, &state)?;
            }
        }
        for index in 0..self.offload.all().count() {
            self.save_offloaded(index, &mut folder)?;
        }
        folder.remove_others()
    }

    /// What the engine makes of a sequence's first tokens; nothing if it cannot.
    fn state(&mut self, sequence: SequenceId, length: u32, now: Instant) -> Option<Vec<u8>> {
        let state = if self.tree.length(sequence) == length {
            self.engine.save(sequence)
        } else {
            if !self.cuts {
                return None;
            }
            let copy = self.free_sequence(Some(sequence), now)?;
            self.engine.fork(sequence, copy, length);
            let state = self.engine.save(copy);
            self.engine.free(copy);
            self.pool.give_back(copy);
            state
        };
        state.inspect_err(|error| tracing::debug!(%error, "a prefix is not saved")).ok()
    }

    /// Writes what was of use of an offloaded sequence.
    fn save_offloaded(&mut self, index: usize, folder: &mut Folder) -> io::Result<()> {
        let Some(Offloaded { tokens, state, reused, .. }) = self.offload.all().nth(index) else { return Ok(()) };
        let (reused, whole) = (*reused, tokens.len());
        if reused < LEAST_TOKENS || (reused < whole && !self.cuts) {
            return Ok(());
        }
        if reused == whole {
            return folder.write(tokens, state);
        }
        // The engine cuts what it has in its cells only, for which there is room while it has nothing to do.
        let (tokens, state) = (tokens[..reused].to_vec(), state.clone());
        if whole > (self.limits.cells - self.tree.used()) as usize {
            return Ok(());
        }
        let Some(sequence) = self.pool.take() else { return Ok(()) };
        let cut = self.engine.restore(sequence, &state).and_then(|()| {
            self.engine.truncate(sequence, reused as u32);
            self.engine.save(sequence)
        });
        self.engine.free(sequence);
        self.pool.give_back(sequence);
        match cut {
            Ok(state) => folder.write(&tokens, &state),
            Err(error) => {
                tracing::debug!(%error, "an offloaded prefix is not saved");
                Ok(())
            }
        }
    }

    /// Takes in what a folder has, out of the cells until it is of use; what is of no use is removed.
    pub(super) fn restore(&mut self, folder: &Path) {
        let now = self.clock.now();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let too_large = entry.metadata().map_or(true, |file| file.len() > self.settings.saved_bytes);
            let read = if too_large { None } else { fs::read(&path).ok() };
            let taken = read.as_deref().and_then(decode).is_some_and(|(tokens, state)| {
                // It was of use before, and is to be there the next time as well.
                let mut worth = Worth::default();
                worth.used(now);
                let reused = tokens.len();
                self.offload.put(Offloaded { tokens, state: state.to_vec(), reused, worth }, self.cuts, now)
            });
            if !taken {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Folder {
    /// Writes a prefix, if there is room for it and it is not there.
    fn write(&mut self, tokens: &[Token], state: &[u8]) -> io::Result<()> {
        let (name, bytes) = (name(tokens), encode(tokens, state));
        if bytes.len() as u64 > self.left || self.names.contains(&name) {
            return Ok(());
        }
        self.left -= bytes.len() as u64;
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        fs::write(&unfinished, bytes)?;
        fs::rename(unfinished, self.path.join(&name))?;
        self.names.push(name);
        Ok(())
    }

    /// Removes what was there before.
    fn remove_others(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path).into_iter().flatten() {
            let entry = entry?;
            if !self.names.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
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
