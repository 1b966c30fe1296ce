use wattle_engine::{
    Error,
    llama::{Footprint, LlamaEngine, Settings, instruction_sets},
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _},
};

use crate::{
    TOLERANCE, alone, assert_close, likeliest, load,
    models::{Decoder, Random, VOCABULARY},
    settings, small, step,
};

#[test]
fn a_sequence_has_the_same_logits_alone_and_in_a_batch() {
    let (mut engine, _folder) = small();
    let mut random = Random(7);
    let texts: Vec<Vec<Token>> = (1..=8).map(|index| random.tokens(index * 7)).collect();
    let expected: Vec<Vec<f32>> = texts.iter().map(|text| alone(&mut engine, text)).collect();
    let batch: Vec<Chunk<'_>> = (0..)
        .zip(&texts)
        .map(|(index, tokens)| Chunk { sequence: SequenceId(index), start: 0, tokens, logits: 1 })
        .collect();
    let mut logits = Logits::default();
    engine.decode(&batch, &mut logits).unwrap();
    assert_eq!(logits.values.len(), 8 * VOCABULARY as usize);
    for (row, expected) in expected.iter().enumerate() {
        assert_close(logits.row(row, VOCABULARY), expected);
    }
    // And different texts have different ones.
    let apart = expected[0].iter().zip(&expected[1]).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    assert!(apart > 100.0 * TOLERANCE, "{apart}");
}

#[test]
fn only_the_wanted_rows_come_back_in_the_order_of_the_chunks() {
    let (mut engine, _folder) = small();
    let text = Random(8).tokens(40);
    let mut logits = Logits::default();
    let chunks = [
        Chunk { sequence: SequenceId(3), start: 0, tokens: &text[..20], logits: 3 },
        Chunk { sequence: SequenceId(1), start: 0, tokens: &text[..30], logits: 0 },
        Chunk { sequence: SequenceId(2), start: 0, tokens: &text, logits: 1 },
    ];
    engine.decode(&chunks, &mut logits).unwrap();
    assert_eq!(logits.values.len(), 4 * VOCABULARY as usize);
    for (row, end) in [18, 19, 20, 40].into_iter().enumerate() {
        let expected = alone(&mut engine, &text[..end]);
        assert_close(logits.row(row, VOCABULARY), &expected);
    }
    // A batch of which nothing is wanted leaves nothing of the last one behind.
    let chunk = Chunk { sequence: SequenceId(4), start: 0, tokens: &text, logits: 0 };
    engine.decode(&[chunk], &mut logits).unwrap();
    assert!(logits.values.is_empty());
    engine.decode(&[], &mut logits).unwrap();
}

#[test]
fn more_rows_than_are_computed_at_once_come_in_parts() {
    let (_engine, folder) = small();
    let path = folder.path().join("small.gguf");
    let mut engine = LlamaEngine::load(&path, &Settings { rows: 16, batch_tokens: 64, ..settings() }).unwrap();
    let text = Random(15).tokens(60);
    let mut logits = Logits::default();
    let chunks = [
        Chunk { sequence: SequenceId(0), start: 0, tokens: &text[..20], logits: 19 },
        Chunk { sequence: SequenceId(1), start: 0, tokens: &text[20..], logits: 33 },
    ];
    engine.decode(&chunks, &mut logits).unwrap();
    assert_eq!(logits.values.len(), 52 * VOCABULARY as usize);
    let ends = (2..=20).map(|end| &text[..end]).chain((28..=60).map(|end| &text[20..end]));
    for (row, text) in ends.enumerate() {
        let expected = alone(&mut engine, text);
        assert_close(logits.row(row, VOCABULARY), &expected);
    }
    step(&mut engine, 0, 20, &text);

    // Even one token at a time.
    let mut engine =
        LlamaEngine::load(&path, &Settings { rows: 1, batch_tokens: 1, sequences: 1, ..settings() }).unwrap();
    for (position, token) in text.iter().enumerate() {
        step(&mut engine, 0, position, &[*token]);
    }
}

#[test]
fn forks_share_cells_and_go_on_by_themselves() {
    let (mut engine, _folder) = small();
    let mut random = Random(9);
    let shared = random.tokens(400);
    step(&mut engine, 0, 0, &shared);
    // Fifteen sequences of 400 tokens would not fit into 1024 cells.
    for other in 1..15 {
        engine.fork(SequenceId(0), SequenceId(other), 380 + other);
    }
    for other in 1..15 {
        let rest = random.tokens(5);
        let own = 380 + other as usize;
        let logits = step(&mut engine, other, own, &rest);
        let text: Vec<Token> = shared[..own].iter().chain(&rest).copied().collect();
        let expected = alone(&mut engine, &text);
        assert_close(&logits, &expected);
    }
    // What the others share is not let go with the first.
    engine.free(SequenceId(0));
    let logits = step(&mut engine, 0, 0, &shared[..10]);
    let again = step(&mut engine, 1, 386, &shared[..1]);
    assert!(logits.iter().chain(&again).all(|value| value.is_finite()));
}

#[test]
fn a_truncated_sequence_goes_on_as_if_the_rest_had_never_been() {
    let (mut engine, _folder) = small();
    let mut random = Random(10);
    let (text, other) = (random.tokens(100), random.tokens(20));
    step(&mut engine, 0, 0, &text);
    assert!(engine.truncate(SequenceId(0), 60));
    let logits = step(&mut engine, 0, 60, &other);
    let whole: Vec<Token> = text[..60].iter().chain(&other).copied().collect();
    let expected = alone(&mut engine, &whole);
    assert_close(&logits, &expected);
    // To more than it has is no change, and to nothing is freedom.
    assert!(engine.truncate(SequenceId(0), 1000));
    step(&mut engine, 0, 80, &other);
    engine.free(SequenceId(0));
    let again = step(&mut engine, 0, 0, &whole);
    assert_close(&again, &expected);
}

#[test]
fn greedy_answers_are_the_same_alone_and_in_a_batch_of_eight_with_shared_prefixes() {
    const ANSWER: usize = 24;
    let (mut engine, _folder) = small();
    let mut random = Random(40);
    let shared = random.tokens(200);
    let texts: Vec<Vec<Token>> = (0..8).map(|_| shared.iter().copied().chain(random.tokens(3)).collect()).collect();
    // Alone, nothing is shared. Where rounding might decide, a text proves nothing.
    let mut expected = Vec::new();
    let mut closest = f32::INFINITY;
    for text in &texts {
        let mut answer = Vec::new();
        let mut logits = step(&mut engine, 15, 0, text);
        while answer.len() < ANSWER {
            let (token, gap) = likeliest(&logits);
            closest = closest.min(gap);
            answer.push(token);
            logits = step(&mut engine, 15, text.len() + answer.len() - 1, &[token]);
        }
        engine.free(SequenceId(15));
        expected.push(answer);
    }
    assert!(closest > TOLERANCE / 2.0, "two tokens are {closest} apart; choose another seed");
    // Together, the prefix is computed once.
    step(&mut engine, 0, 0, &shared);
    for other in 1..8 {
        engine.fork(SequenceId(0), SequenceId(other), 200);
    }
    let mut next: Vec<Vec<Token>> = texts.iter().map(|text| text[200..].to_vec()).collect();
    let mut answers = vec![Vec::new(); 8];
    let mut length = 200;
    for _ in 0..ANSWER {
        let batch: Vec<Chunk<'_>> = (0..)
            .zip(&next)
            .map(|(index, tokens)| Chunk { sequence: SequenceId(index), start: length, tokens, logits: 1 })
            .collect();
        let mut logits = Logits::default();
        engine.decode(&batch, &mut logits).unwrap();
        length += next[0].len() as u32;
        for (row, answer) in answers.iter_mut().enumerate() {
            let (token, _) = likeliest(logits.row(row, VOCABULARY));
            answer.push(token);
            next[row] = vec![token];
        }
    }
    assert_eq!(answers, expected);
}

#[test]
fn what_llama_cpp_would_die_of_is_refused() {
    let (mut engine, _folder) = small();
    let text = Random(12).tokens(400);
    step(&mut engine, 0, 0, &text);
    let mut refused = |sequence, start, tokens: &[Token], logits, why: &str| {
        let chunk = Chunk { sequence: SequenceId(sequence), start, tokens, logits };
        let error = engine.decode(&[chunk], &mut Logits::default()).unwrap_err();
        assert!(matches!(error, Error::InvalidInput(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(0, 399, &[1], 1, "cannot go on at 399");
    refused(0, 401, &[1], 1, "cannot go on at 401");
    refused(16, 0, &[1], 1, "no sequence 16");
    refused(1, 0, &[VOCABULARY], 1, "the token 259");
    refused(1, 0, &[u32::MAX], 1, "the token 4294967295");
    refused(1, 0, &[], 0, "of 0 tokens");
    refused(1, 0, &[1], 2, "2 rows");
    refused(1, 0, &[1; 513], 1, "513 tokens");
    refused(0, 400, &[1; 113], 1, "more than 512 tokens");
    let twice = [Chunk { sequence: SequenceId(1), start: 0, tokens: &[1], logits: 1 }; 2];
    assert!(engine.decode(&twice, &mut Logits::default()).unwrap_err().to_string().contains("twice"));
    // After all of this it computes as before.
    let logits = step(&mut engine, 0, 400, &[5]);
    let whole: Vec<Token> = text.iter().copied().chain([5]).collect();
    let expected = alone(&mut engine, &whole);
    assert_close(&logits, &expected);
}

#[test]
fn a_batch_without_room_changes_nothing() {
    let (mut engine, _folder) = small();
    let mut random = Random(13);
    let texts = [random.tokens(500), random.tokens(500)];
    step(&mut engine, 0, 0, &texts[0]);
    step(&mut engine, 1, 0, &texts[1]);
    let mut logits = Logits::default();
    let chunk = Chunk { sequence: SequenceId(2), start: 0, tokens: &texts[0][..100], logits: 1 };
    let error = engine.decode(&[chunk], &mut logits).unwrap_err();
    assert!(error.to_string().contains("too few cells"), "{error}");
    let grown = step(&mut engine, 0, 500, &[9]);
    engine.free(SequenceId(1));
    engine.decode(&[chunk], &mut logits).unwrap();
    let expected = alone(&mut engine, &texts[0][..100]);
    assert_close(&logits.values, &expected);
    let whole: Vec<Token> = texts[0].iter().copied().chain([9]).collect();
    engine.free(SequenceId(2));
    let expected = alone(&mut engine, &whole);
    assert_close(&grown, &expected);
}

#[test]
fn an_engine_says_what_it_holds_and_takes() {
    let (engine, folder) = small();
    let limits = engine.limits();
    assert_eq!((limits.sequences, limits.cells, limits.context_tokens), (16, 1024, 512));
    assert_eq!((limits.batch_tokens, limits.vocabulary, limits.embedding), (512, VOCABULARY, 0));
    assert!(engine.cuts_anywhere());

    // Two layers, keys and values of two heads of 16 numbers of two bytes.
    let Footprint { mapped_bytes, repacked_bytes, cache_bytes, compute_bytes } = engine.footprint();
    let close = |bytes: u64, expected: u64| bytes.abs_diff(expected) <= 1 << 14;
    assert!(close(cache_bytes, 2 * 2 * 2 * 16 * 2 * 1024), "{cache_bytes}");
    let file_bytes = folder.path().join("small.gguf").metadata().unwrap().len();
    assert!(close(mapped_bytes + repacked_bytes, file_bytes), "{mapped_bytes} {repacked_bytes} {file_bytes}");
    assert!(compute_bytes > 1 << 16, "{compute_bytes}");
    assert_eq!(engine.footprint().bytes(), mapped_bytes + repacked_bytes + cache_bytes + compute_bytes);
}

#[test]
fn two_threads_compute_what_one_does() {
    let (mut engine, folder) = small();
    let path = folder.path().join("small.gguf");
    let mut two = LlamaEngine::load(&path, &Settings { threads: 2.try_into().unwrap(), ..settings() }).unwrap();
    let text = Random(16).tokens(40);
    let expected = step(&mut engine, 0, 0, &text);
    let logits = step(&mut two, 0, 0, &text);
    assert_close(&logits, &expected);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let (_engine, folder) = small();
    let path = folder.path().join("small.gguf");
    let refused = |settings: Settings, why: &str| {
        let error = LlamaEngine::load(&path, &settings).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(Settings { sequences: 257, ..settings() }, "256 is the most");
    refused(Settings { rows: 15, ..settings() }, "15 rows");
    refused(Settings { batch_tokens: 0, ..settings() }, "batches of 0 tokens");
    refused(Settings { cells: 0, ..settings() }, "0 cells");
    refused(Settings { cells: u32::MAX, ..settings() }, "4294967295 cells");
    refused(Settings { threads: 1000.try_into().unwrap(), ..settings() }, "1000 threads");
    // A model that pools nothing embeds nothing, and one that was loaded to embed alone does nothing else.
    let mut engine = LlamaEngine::load(&path, &Settings { sequences: 0, ..settings() }).unwrap();
    assert_eq!((engine.limits().sequences, engine.limits().embedding), (0, 0));
    let chunk = Chunk { sequence: SequenceId(0), start: 0, tokens: &[1], logits: 1 };
    assert!(engine.decode(&[chunk], &mut Logits::default()).is_err());
    assert!(engine.embed(&[&[1]]).unwrap_err().to_string().contains("pools nothing"));
}

#[test]
fn a_decoder_that_pools_embeds_without_touching_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pools.gguf");
    Decoder { pools: true, ..Decoder::SMALL }.write(&path);
    let mut engine = load(&path);
    assert_eq!(engine.limits().embedding, 64);
    let mut random = Random(14);
    let text = random.tokens(50);
    step(&mut engine, 0, 0, &text);

    let texts: Vec<Vec<Token>> = (1..=70).map(|index| random.tokens(1 + index % 9)).collect();
    let texts: Vec<&[Token]> = texts.iter().map(Vec::as_slice).collect();
    let together = engine.embed(&texts).unwrap();
    assert_eq!(together.len(), 70 * 64);
    for (row, text) in together.chunks(64).zip(&texts) {
        let alone = engine.embed(&[text]).unwrap();
        let difference = row.iter().zip(&alone).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
        assert!(difference < TOLERANCE, "{difference}");
    }
    assert!(engine.embed(&[&[]]).is_err());
    assert!(engine.embed(&[&[VOCABULARY]]).is_err());
    assert!(engine.embed(&[&[1; 400], &[1; 113]]).unwrap_err().to_string().contains("513 tokens together"));

    let logits = step(&mut engine, 0, 50, &[3]);
    let whole: Vec<Token> = text.iter().copied().chain([3]).collect();
    let expected = alone(&mut engine, &whole);
    assert_close(&logits, &expected);
}

#[test]
fn llama_cpp_uses_this_machines_instruction_sets() {
    let used = instruction_sets();
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag: &str| processor.split_whitespace().any(|word| word == flag);
    let pairs = [("avx2", "AVX2"), ("fma", "FMA"), ("f16c", "F16C"), ("avx512f", "AVX512"), ("asimd", "NEON")];
    for (flag, name) in pairs {
        assert_eq!(has(flag), used.iter().any(|set| set == name), "{name}, of {used:?}");
    }
}
