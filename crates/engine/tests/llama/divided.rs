//! Sequences that have cells of their own.

use tempfile::TempDir;
use wattle_engine::{
    llama::{LlamaEngine, Settings},
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _},
};

use crate::{
    alone, assert_close,
    models::{Random, VOCABULARY},
    settings, small, step,
};

/// An engine with cells for eight contexts.
fn divided() -> (LlamaEngine, TempDir) {
    let (_engine, folder) = small();
    let settings = Settings { cells: 8 * 256, context_tokens: Some(250), ..settings() };
    let engine = LlamaEngine::load(&folder.path().join("small.gguf"), &settings).unwrap();
    (engine, folder)
}

#[test]
fn there_are_as_many_sequences_as_whole_contexts() {
    let (engine, folder) = divided();
    let limits = engine.limits();
    assert_eq!((limits.sequences, limits.cells, limits.context_tokens), (8, 2048, 250));
    assert_eq!(engine.idle_cells(), u32::MAX);
    // Too few cells for eight contexts are shared.
    let settings = Settings { cells: 7 * 256, context_tokens: Some(250), ..settings() };
    let shared = LlamaEngine::load(&folder.path().join("small.gguf"), &settings).unwrap();
    let limits = shared.limits();
    assert_eq!((limits.sequences, limits.cells, limits.context_tokens), (16, 1792, 250));
    assert!(shared.idle_cells() < u32::MAX);
    // Cells that no sequence can have are not reserved.
    for (cells, sequences) in [(8 * 256 + 100, 8), (1 << 16, 16)] {
        let settings = Settings { cells, ..settings.clone() };
        let many = LlamaEngine::load(&folder.path().join("small.gguf"), &settings).unwrap();
        let limits = many.limits();
        assert_eq!((limits.sequences, limits.cells, limits.context_tokens), (sequences, sequences * 256, 250));
    }
}

#[test]
fn answers_and_prompts_of_one_batch_have_the_logits_that_each_has_alone() {
    let (mut engine, _folder) = divided();
    let mut random = Random(30);
    let begun: Vec<Vec<Token>> = (0..6).map(|index| random.tokens(20 + index)).collect();
    // The last one stays out of the batch: nobody's logits change by that.
    for (sequence, tokens) in [0_u32, 1, 3, 5, 6, 7].into_iter().zip(&begun) {
        step(&mut engine, sequence, 0, tokens);
    }
    let next: Vec<Vec<Token>> = [1, 1, 1, 3, 1].into_iter().map(|count| random.tokens(count)).collect();
    let prompts = [random.tokens(100), random.tokens(70)];
    let new = |sequence, tokens| Chunk { sequence: SequenceId(sequence), start: 0, tokens, logits: 1 };
    let grown = |sequence, index: usize| Chunk {
        sequence: SequenceId(sequence),
        start: begun[index].len() as u32,
        tokens: &next[index],
        logits: next[index].len() as u32,
    };
    // In no order; a prompt lies between answers, another one does not.
    let batch =
        [grown(5, 3), new(4, &prompts[0]), grown(0, 0), grown(6, 4), grown(3, 2), new(2, &prompts[1]), grown(1, 1)];
    let mut logits = Logits::default();
    engine.decode(&batch, &mut logits).unwrap();
    assert_eq!(logits.values.len(), 9 * VOCABULARY as usize);
    let of = |index: usize, count: usize| [&begun[index][..], &next[index][..count]].concat();
    let texts =
        [of(3, 1), of(3, 2), of(3, 3), prompts[0].clone(), of(0, 1), of(4, 1), of(2, 1), prompts[1].clone(), of(1, 1)];
    engine.free(SequenceId(7));
    for (row, text) in texts.iter().enumerate() {
        let expected = alone(&mut engine, text);
        assert_close(logits.row(row, VOCABULARY), &expected);
    }
}

#[test]
fn a_fork_is_a_copy_that_goes_on_by_itself() {
    let (mut engine, _folder) = divided();
    let mut random = Random(31);
    let (text, rest, other) = (random.tokens(200), random.tokens(9), random.tokens(9));
    step(&mut engine, 0, 0, &text);
    engine.fork(SequenceId(0), SequenceId(5), 150);
    engine.fork(SequenceId(5), SequenceId(6), 150);
    // What the copy was made of goes, and its cells are written over.
    engine.free(SequenceId(0));
    step(&mut engine, 0, 0, &other);
    for (sequence, rest) in [(5, &rest), (6, &other)] {
        let logits = step(&mut engine, sequence, 150, rest);
        let expected = alone(&mut engine, &[&text[..150], rest].concat());
        assert_close(&logits, &expected);
    }
}

#[test]
fn what_is_saved_is_restored_where_cells_are_divided_alike() {
    let (mut engine, _folder) = divided();
    let mut random = Random(33);
    let (text, rest) = (random.tokens(200), random.tokens(9));
    step(&mut engine, 2, 0, &text);
    let saved = engine.save(SequenceId(2)).unwrap();
    let expected = step(&mut engine, 2, 200, &rest);
    let (mut other, _folder) = divided();
    other.restore(SequenceId(6), &saved).unwrap();
    let logits = step(&mut other, 6, 200, &rest);
    assert_close(&logits, &expected);
    let (mut shared, _folder) = small();
    let error = shared.restore(SequenceId(2), &saved).unwrap_err();
    assert!(error.to_string().contains("another model or another version"), "{error}");
}

#[test]
fn a_sequence_takes_no_cells_of_another() {
    let (mut engine, _folder) = divided();
    let text = Random(32).tokens(250);
    for sequence in 0..8 {
        step(&mut engine, sequence, 0, &text);
    }
    let full = [Chunk { sequence: SequenceId(3), start: 250, tokens: &text[..1], logits: 1 }];
    let error = engine.decode(&full, &mut Logits::default()).unwrap_err();
    assert!(error.to_string().contains("more than 250 tokens"), "{error}");
}
