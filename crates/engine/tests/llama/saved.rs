use wattle_engine::{
    llama::{LlamaEngine, Settings},
    tokens::{SequenceId, Token, TokenEngine as _},
};

use crate::{alone, assert_close, models::Random, settings, small, step};

#[test]
fn a_sequence_goes_on_after_it_was_saved_and_restored() {
    let (mut engine, folder) = small();
    let text = Random(20).tokens(300);
    step(&mut engine, 0, 0, &text);
    let saved = engine.save(SequenceId(0)).unwrap();
    // Into another sequence beside the first, and into another engine of the same model.
    engine.restore(SequenceId(5), &saved).unwrap();
    let logits = step(&mut engine, 5, 300, &[1, 2, 3]);
    let whole: Vec<Token> = text.iter().copied().chain([1, 2, 3]).collect();
    let expected = alone(&mut engine, &whole);
    assert_close(&logits, &expected);

    let mut other = crate::load(&folder.path().join("small.gguf"));
    other.restore(SequenceId(0), &saved).unwrap();
    assert!(other.truncate(SequenceId(0), 200));
    let logits = step(&mut other, 0, 200, &text[200..250]);
    let expected = alone(&mut engine, &text[..250]);
    assert_close(&logits, &expected);
}

#[test]
fn what_is_not_this_models_or_not_whole_is_refused() {
    let (mut engine, folder) = small();
    let text = Random(21).tokens(100);
    step(&mut engine, 0, 0, &text);
    let saved = engine.save(SequenceId(0)).unwrap();
    let mut refused = |bytes: &[u8], why: &str| {
        let error = engine.restore(SequenceId(1), bytes).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        // It is empty, and usable.
        step(&mut engine, 1, 0, &[1]);
    };
    refused(&[], "cut off");
    refused(&saved[..saved.len() - 1], "cut off");
    let mut changed = saved.clone();
    *changed.last_mut().unwrap() ^= 1;
    refused(&changed, "have changed");

    let path = folder.path().join("small.gguf");
    let mut other = LlamaEngine::load(&path, &Settings { identity: "other".into(), ..settings() }).unwrap();
    assert!(other.restore(SequenceId(0), &saved).unwrap_err().to_string().contains("another model"));
}

#[test]
fn without_room_nothing_is_restored_and_nobody_else_is_touched() {
    let (mut engine, _folder) = small();
    let mut random = Random(22);
    let texts = [random.tokens(400), random.tokens(400)];
    step(&mut engine, 0, 0, &texts[0]);
    let saved = engine.save(SequenceId(0)).unwrap();
    step(&mut engine, 1, 0, &texts[1]);
    let error = engine.restore(SequenceId(2), &saved).unwrap_err();
    assert!(error.to_string().contains("too few cells"), "{error}");
    let logits = step(&mut engine, 1, 400, &[7]);
    engine.free(SequenceId(0));
    engine.restore(SequenceId(2), &saved).unwrap();
    engine.free(SequenceId(2));
    let whole: Vec<Token> = texts[1].iter().copied().chain([7]).collect();
    let expected = alone(&mut engine, &whole);
    assert_close(&logits, &expected);
}
