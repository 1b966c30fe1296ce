//! llama.cpp over small models of random weights.

#![cfg(feature = "llama")]
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod bert;
mod converted;
mod decode;
mod divided;
mod hostile;
mod memories;
mod models;
mod saved;
mod vocabulary;

use std::{num::NonZeroU32, path::Path};

use tempfile::TempDir;
use wattle_engine::{
    llama::{LlamaEngine, Settings},
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _},
};

/// What rounding makes of a logit at most, where kernels differ by the size of a batch. Measured over all of these tests, the
/// largest difference is 0.011, of logits whose deviation is 4: keys and values have half precision.
pub const TOLERANCE: f32 = 0.02;

pub fn settings() -> Settings {
    Settings {
        sequences: 16,
        cells: 1024,
        context_tokens: None,
        batch_tokens: 512,
        rows: 16,
        // Tests run beside each other, and threads that wait for others on the same processor wait long.
        threads: NonZeroU32::MIN,
        identity: "test".into(),
    }
}

/// An engine with the small decoder, and the folder of its file.
pub fn small() -> (LlamaEngine, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    models::Decoder::SMALL.write(&path);
    (load(&path), folder)
}

pub fn load(path: &Path) -> LlamaEngine {
    LlamaEngine::load(path, &settings()).unwrap()
}

/// Appends tokens to a sequence, and gives the logits behind the last.
pub fn step(engine: &mut LlamaEngine, sequence: u32, start: usize, tokens: &[Token]) -> Vec<f32> {
    let mut logits = Logits::default();
    let chunk = Chunk { sequence: SequenceId(sequence), start: start as u32, tokens, logits: 1 };
    engine.decode(&[chunk], &mut logits).unwrap();
    logits.values
}

/// The logits behind the last token of a text that nobody shares.
pub fn alone(engine: &mut LlamaEngine, tokens: &[Token]) -> Vec<f32> {
    let spare = engine.limits().sequences - 1;
    let logits = step(engine, spare, 0, tokens);
    engine.free(SequenceId(spare));
    logits
}

#[track_caller]
pub fn assert_close(left: &[f32], right: &[f32]) {
    assert_eq!(left.len(), right.len());
    let difference = left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    assert!(difference <= TOLERANCE, "{difference}");
    if std::env::var_os("WATTLE_TEST_SHOW").is_some() {
        eprintln!("difference {difference}");
    }
}

/// The likeliest token, and how far the next one is behind.
pub fn likeliest(logits: &[f32]) -> (Token, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|left, right| logits[*right].total_cmp(&logits[*left]));
    (order[0] as Token, logits[order[0]] - logits[order[1]])
}
