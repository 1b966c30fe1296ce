//! Models whose memory is no row of cells that can be cut anywhere.

use wattle_engine::{
    llama::LlamaEngine,
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _},
};

use crate::{
    alone, assert_close, load,
    models::{self, Random},
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
    let texts = [100, 400, 500, 110].map(|length| random.tokens(length));
    let whole = |end: usize| -> Vec<Token> { texts[1][..end].iter().chain(&rest).copied().collect() };
    let expected = [20, 390].map(|end| alone(&mut engine, &whole(end)));

    // As long as nobody needs their cells, tokens before the window are there.
    step(&mut engine, 1, 0, &texts[1]);
    assert!(engine.truncate(SequenceId(1), 20));
    let logits = step(&mut engine, 1, 20, &rest);
    assert_close(&logits, &expected[0]);
    engine.free(SequenceId(1));

    // Cells run short: the fourth text takes those of the first, and then those of the second that no window sees.
    for (sequence, text) in (0..).zip(&texts[..3]) {
        step(&mut engine, sequence, 0, text);
    }
    engine.free(SequenceId(0));
    step(&mut engine, 3, 0, &texts[3]);
    engine.free(SequenceId(2));
    engine.fork(SequenceId(1), SequenceId(4), 20);
    let chunk = Chunk { sequence: SequenceId(4), start: 20, tokens: &rest, logits: 1 };
    assert!(engine.decode(&[chunk], &mut Logits::default()).is_err());
    engine.fork(SequenceId(1), SequenceId(4), 390);
    let logits = step(&mut engine, 4, 390, &rest);
    assert_close(&logits, &expected[1]);
    engine.free(SequenceId(4));
    assert!(!engine.truncate(SequenceId(1), 20));
    // It is empty then.
    let logits = step(&mut engine, 1, 0, &whole(20));
    assert_close(&logits, &expected[0]);
    for sequence in 0..4 {
        engine.free(SequenceId(sequence));
    }

    // What a window does not show is not saved, so that only what fits into one is.
    let text = random.tokens(WINDOW);
    step(&mut engine, 1, 0, &text);
    let saved = engine.save(SequenceId(1)).unwrap();
    engine.restore(SequenceId(4), &saved).unwrap();
    assert!(engine.truncate(SequenceId(4), 20));
    let logits = step(&mut engine, 4, 20, &rest);
    let cut: Vec<Token> = text[..20].iter().chain(&rest).copied().collect();
    let expected = alone(&mut engine, &cut);
    assert_close(&logits, &expected);
    step(&mut engine, 1, WINDOW, &[1]);
    let error = engine.save(SequenceId(1)).unwrap_err().to_string();
    assert!(error.contains("look back 32 tokens only"), "{error}");
}
