//! all-MiniLM-L6-v2 as llama.cpp computes it, compared with NumPy over the same weights (`scripts/make_minilm_reference.py`).

use std::{fs, path::Path};

use serde_json::Value as Json;
use wattle_engine::{
    huggingface::{Options, convert},
    llama::{LlamaEngine, Settings},
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _, Vocabulary as _},
};

use crate::{models::minilm, settings, vocabulary::cosine};

/// Numbers in an embedding.
const WIDTH: u32 = 384;

#[test]
fn embeddings_of_minilm_are_those_that_numpy_computes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("minilm.gguf");
    convert(&minilm(), &path, Options { kind: None }, &mut |_, _| {}).unwrap();
    let settings = Settings { sequences: 0, batch_tokens: 2048, ..settings() };
    let mut engine = LlamaEngine::load(&path, &settings).unwrap();
    let limits = engine.limits();
    assert_eq!((limits.embedding, limits.context_tokens, limits.sequences), (WIDTH, 512, 0));

    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/llama/reference");
    let cases: Vec<Json> = serde_json::from_slice(&fs::read(reference.join("minilm.json")).unwrap()).unwrap();
    let expected: Vec<f32> = fs::read(reference.join("minilm.f32"))
        .unwrap()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!((cases.len(), expected.len()), (50, 50 * WIDTH as usize));

    let vocabulary = engine.vocabulary();
    let (first, last) = (vocabulary.beginning().unwrap(), vocabulary.ending().unwrap());
    let mut texts = Vec::new();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let mut tokens = vec![first];
        tokens.extend(vocabulary.encode(text, false));
        tokens.push(last);
        let expected: Vec<Token> = serde_json::from_value(case["tokens"].clone()).unwrap();
        assert_eq!(tokens, expected, "{text:?}");
        texts.push(tokens);
    }
    // One by one, and with as many others as fit.
    let mut worst = 1.0_f32;
    for (text, expected) in texts.iter().zip(expected.chunks(WIDTH as usize)) {
        let embedding = engine.embed(&[text]).unwrap();
        worst = worst.min(cosine(&embedding, expected));
    }
    let mut rest = &texts[..];
    let mut expected = expected.chunks(WIDTH as usize);
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |text: &&Vec<Token>| {
            tokens += text.len();
            tokens <= limits.batch_tokens as usize
        };
        let group: Vec<&[Token]> = rest.iter().take_while(fits).map(Vec::as_slice).collect();
        let embeddings = engine.embed(&group).unwrap();
        for (embedding, expected) in embeddings.chunks(WIDTH as usize).zip(&mut expected) {
            worst = worst.min(cosine(embedding, expected));
        }
        rest = &rest[group.len()..];
    }
    assert!(worst >= 0.999, "{worst}");

    let error = engine.embed(&[&[first; 513]]).unwrap_err().to_string();
    assert!(error.contains("513 tokens, and 512 is the most"), "{error}");
    // It generates nothing, even if sequences are asked for.
    let mut engine = LlamaEngine::load(&path, &Settings { sequences: 16, ..settings }).unwrap();
    let chunk = Chunk { sequence: SequenceId(0), start: 0, tokens: &[first], logits: 1 };
    let error = engine.decode(&[chunk], &mut Logits::default()).unwrap_err().to_string();
    assert!(error.contains("generates no text"), "{error}");
}
