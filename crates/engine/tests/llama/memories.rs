//! Models whose memory is no row of cells that can be cut anywhere.

use wattle_engine::{
    llama::LlamaEngine,
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _},
};

use crate::{
    alone, assert_close, load,
    models::{self, Random, VOCABULARY},
    step,
};

fn engine(write: impl FnOnce(&std::path::Path)) -> LlamaEngine {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path);
    // What is mapped stays when its name goes.
    load(&path)
}

#[test]
fn a_recurrent_models_sequences_are_forked_whole_and_cut_to_nothing() {
    let mut engine = engine(models::write_recurrent);
    assert!(!engine.cuts_anywhere());
    let mut random = Random(50);
    let (text, rest) = (random.tokens(60), random.tokens(5));
    let whole: Vec<Token> = text.iter().chain(&rest).copied().collect();
    let expected = alone(&mut engine, &whole);
    step(&mut engine, 0, 0, &text);
    engine.fork(SequenceId(0), SequenceId(1), 60);
    let logits = step(&mut engine, 1, 60, &rest);
    assert_close(&logits, &expected);
    let logits = step(&mut engine, 0, 60, &rest);
    assert_close(&logits, &expected);

    // Of fewer tokens there is no state, and nothing is computed as if there were.
    engine.fork(SequenceId(0), SequenceId(2), 59);
    let chunk = Chunk { sequence: SequenceId(2), start: 59, tokens: &rest, logits: 1 };
    assert!(engine.decode(&[chunk], &mut Logits::default()).is_err());
    assert!(!engine.truncate(SequenceId(0), 59));
    let logits = step(&mut engine, 0, 0, &whole);
    assert_close(&logits, &expected);

    let saved = engine.save(SequenceId(0)).unwrap();
    engine.restore(SequenceId(3), &saved).unwrap();
    let longer: Vec<Token> = whole.iter().copied().chain([1, 2]).collect();
    let expected = alone(&mut engine, &longer);
    let logits = step(&mut engine, 3, 65, &[1, 2]);
    assert_close(&logits, &expected);
}

#[test]
fn a_model_with_windows_is_cut_where_all_is_there_and_nowhere_else() {
    const WINDOW: usize = 32;
    let mut engine = engine(|path| models::write_windowed(path, WINDOW as u32));
    assert!(!engine.cuts_anywhere());
    let mut random = Random(51);
    let rest = random.tokens(3);
    let mut cut = 0;
    let mut refused = 0;
    for round in 0..12 {
        // Others come and go meanwhile, and take cells that no window sees any more.
        let text = random.tokens(40 + 35 * round);
        step(&mut engine, 1, 0, &text);
        let other = random.tokens(300);
        step(&mut engine, 2, 0, &other);
        for (position, token) in (300..).zip(random.tokens(8)) {
            step(&mut engine, 2, position, &[token]);
        }
        engine.free(SequenceId(2));
        let end = text.len() - 1 - (random.next() % text.len() as u64 / 2) as usize;
        engine.fork(SequenceId(1), SequenceId(3), end as u32);
        if engine.truncate(SequenceId(1), end as u32) {
            cut += 1;
            let whole: Vec<Token> = text[..end].iter().chain(&rest).copied().collect();
            let expected = alone(&mut engine, &whole);
            for sequence in [1, 3] {
                let logits = step(&mut engine, sequence, end, &rest);
                assert_close(&logits, &expected);
            }
        } else {
            refused += 1;
            let chunks =
                [1, 3].map(|sequence| Chunk { sequence: SequenceId(sequence), start: 0, tokens: &rest, logits: 1 });
            let mut logits = Logits::default();
            engine.decode(&chunks, &mut logits).unwrap();
            let expected = alone(&mut engine, &rest);
            assert_close(logits.row(1, VOCABULARY), &expected);
        }
        engine.free(SequenceId(1));
        engine.free(SequenceId(3));
    }
    assert!(cut > 0, "{refused} were refused");

    // What a window does not show is not saved, so that only what fits into one is.
    let text = random.tokens(WINDOW);
    step(&mut engine, 1, 0, &text);
    let saved = engine.save(SequenceId(1)).unwrap();
    engine.restore(SequenceId(4), &saved).unwrap();
    assert!(engine.truncate(SequenceId(4), 20));
    let logits = step(&mut engine, 4, 20, &rest);
    let whole: Vec<Token> = text[..20].iter().chain(&rest).copied().collect();
    let expected = alone(&mut engine, &whole);
    assert_close(&logits, &expected);
    step(&mut engine, 1, WINDOW, &[1]);
    let error = engine.save(SequenceId(1)).unwrap_err().to_string();
    assert!(error.contains("look back 32 tokens only"), "{error}");
}
