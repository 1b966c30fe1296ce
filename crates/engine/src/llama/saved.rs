//! What a sequence holds, as bytes that may lie on a disk: a header that says whose they are, and a checksum of all of it.
//!
//! llama.cpp reads within the bytes that it is given and checks shapes, but takes the numbers for what they say; so it sees
//! only bytes that this engine's model wrote, whole and unchanged.

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// The first bytes, with the format's version.
const MAGIC: &[u8; 8] = b"WATTLEs2";
/// Magic, owner, number of tokens, length of what llama.cpp wrote, checksum of all but itself.
const HEADER_BYTES: usize = 8 + 32 + 4 + 8 + 16;
/// Where the checksum begins.
const CHECKSUM_AT: usize = HEADER_BYTES - 16;

/// Who can read what was saved: the same model, of the same llama.cpp, with cells of the same kind and as many stores of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner([u8; 32]);

impl Owner {
    /// Parts that are told apart wherever one ends.
    pub(super) fn new(parts: &[&str]) -> Owner {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Owner(hash.finalize().into())
    }
}

/// Room for the header, behind which the rest is to be written before [`seal`].
pub(super) fn begin() -> Vec<u8> {
    vec![0; HEADER_BYTES]
}

/// Writes the header.
pub(super) fn seal(saved: &mut [u8], owner: Owner, tokens: u32) {
    let payload_bytes = (saved.len() - HEADER_BYTES) as u64;
    saved[..8].copy_from_slice(MAGIC);
    saved[8..40].copy_from_slice(&owner.0);
    saved[40..44].copy_from_slice(&tokens.to_le_bytes());
    saved[44..52].copy_from_slice(&payload_bytes.to_le_bytes());
    let checksum = checksum(saved);
    saved[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum);
}

/// The number of tokens, and what llama.cpp wrote.
///
/// # Errors
/// If the bytes are not whole, not unchanged, or another one's.
pub(super) fn open(saved: &[u8], owner: Owner) -> Result<(u32, &[u8])> {
    let refuse = |why: &str| Error::InvalidInput(format!("the saved sequence cannot be used: {why}; compute it again"));
    let Some(header) = saved.first_chunk::<HEADER_BYTES>() else { return Err(refuse("it was cut off")) };
    if &header[..8] != MAGIC {
        return Err(refuse("it is none of this engine's"));
    }
    let field = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let payload_bytes = u64::from(field(44)) | u64::from(field(48)) << 32;
    let payload = &saved[HEADER_BYTES..];
    if payload_bytes != payload.len() as u64 {
        return Err(refuse("it was cut off, or something follows it"));
    }
    if header[CHECKSUM_AT..] != checksum(saved) {
        return Err(refuse("its bytes have changed"));
    }
    if header[8..40] != owner.0 {
        return Err(refuse("it is of another model or another version"));
    }
    Ok((field(40), payload))
}

/// XXH3 of 128 bits, as fast as memory: sequences come and go in the time of a step. Whoever could write another state into the
/// folder could write its checksum too, so that one against intent would guard nothing.
fn checksum(saved: &[u8]) -> [u8; 16] {
    let mut hash = twox_hash::xxhash3_128::Hasher::new();
    hash.write(&saved[..CHECKSUM_AT]);
    hash.write(&saved[HEADER_BYTES..]);
    hash.finish_128().to_le_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn sealed(payload: &[u8], owner: Owner, tokens: u32) -> Vec<u8> {
        let mut saved = begin();
        saved.extend_from_slice(payload);
        seal(&mut saved, owner, tokens);
        saved
    }

    #[test]
    fn only_its_owner_reads_it() {
        let (mine, other) = (Owner::new(&["a", "bc"]), Owner::new(&["ab", "c"]));
        let saved = sealed(b"state", mine, 7);
        assert_eq!(open(&saved, mine).unwrap(), (7, &b"state"[..]));
        assert!(open(&saved, other).unwrap_err().to_string().contains("another model"));
    }

    proptest! {
        #[test]
        fn no_changed_byte_and_no_other_length_is_taken(
            payload in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), flip in 1..=255_u8,
        ) {
            let owner = Owner::new(&["model"]);
            let saved = sealed(&payload, owner, 3);
            let mut changed = saved.clone();
            *at.get_mut(&mut changed) ^= flip;
            prop_assert!(open(&changed, owner).is_err());
            prop_assert!(open(&saved[..at.index(saved.len())], owner).is_err());
            let mut longer = saved;
            longer.push(flip);
            prop_assert!(open(&longer, owner).is_err());
        }

        #[test]
        fn nothing_from_outside_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&bytes, Owner::new(&["model"])).is_err());
        }
    }
}
