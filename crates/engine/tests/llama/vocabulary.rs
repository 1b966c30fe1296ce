use std::{num::NonZeroU32, path::Path, sync::LazyLock};

use proptest::prelude::*;
use wattle_engine::{
    gguf::Gguf,
    llama::{LlamaVocabulary, Quantization, quantize},
    tokens::{Token, TokenEngine as _, Vocabulary as _},
};

use crate::{
    load,
    models::{BEGINNING, Decoder, END, Random, TH, VOCABULARY},
    small, step,
};

#[test]
fn special_tokens_are_tokens_where_they_are_asked_for_and_text_where_not() {
    let (engine, folder) = small();
    let vocabulary = engine.vocabulary();
    assert_eq!(vocabulary.len(), VOCABULARY);
    assert_eq!(vocabulary.encode("that<|end|>", true), [TH, b'a'.into(), b't'.into(), END]);
    let plain = vocabulary.encode("that<|end|>", false);
    assert_eq!(plain.len(), 3 + "<|end|>".len());
    assert_eq!(vocabulary.encode("", true), [0_u32; 0]);

    assert_eq!(vocabulary.bytes(TH, false), b"th");
    assert_eq!(vocabulary.bytes(END, false), b"");
    assert_eq!(vocabulary.bytes(END, true), b"<|end|>");
    assert_eq!(vocabulary.bytes(VOCABULARY, true), b"");
    assert_eq!(vocabulary.bytes(Token::MAX, true), b"");

    assert_eq!((vocabulary.beginning(), vocabulary.ending()), (Some(BEGINNING), None));
    let of = |test: &dyn Fn(Token) -> bool| (0..VOCABULARY + 2).filter(|token| test(*token)).collect::<Vec<Token>>();
    assert_eq!(of(&|token| vocabulary.is_end(token)), [END]);
    assert_eq!(of(&|token| vocabulary.is_special(token)), [BEGINNING, END]);

    // It can be had without the weights, and outlives the engine.
    drop(engine);
    let alone = LlamaVocabulary::open(&folder.path().join("small.gguf")).unwrap();
    assert_eq!(alone.encode("that", false), vocabulary.encode("that", false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_bytes_of_a_texts_tokens_are_the_text(texts in prop::collection::vec(any::<String>(), 20)) {
        static VOCABULARY: LazyLock<LlamaVocabulary> = LazyLock::new(|| small().0.vocabulary());
        let vocabulary = &*VOCABULARY;
        for text in texts {
            let bytes: Vec<u8> = vocabulary.encode(&text, false).into_iter().flat_map(|token| vocabulary.bytes(token, false)).collect();
            prop_assert_eq!(bytes, text.into_bytes());
        }
    }
}

#[test]
fn models_are_quantised_and_still_load() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full.gguf");
    // Blocks have up to 256 values.
    let decoder = Decoder { width: 256, feed_forward: 512, heads: 4, heads_kv: 2, ..Decoder::SMALL };
    decoder.write(&full);
    let threads = NonZeroU32::new(2).unwrap();
    let text = Random(30).tokens(20);
    let expected = step(&mut load(&full), 0, 0, &text);
    let size = |path: &Path| path.metadata().unwrap().len();
    let mut last = u64::MAX;
    for (name, stored, nearness) in [
        ("f32", "F32", 0.9999),
        ("f16", "F16", 0.999),
        ("q8_0", "Q8_0", 0.99),
        ("q6_k", "Q6_K", 0.98),
        ("q4_k_m", "Q4_K", 0.9),
    ] {
        let kind: Quantization = name.parse().unwrap();
        let path = folder.path().join(name);
        quantize(&full, &path, kind, threads).unwrap();
        assert!(size(&path) < last, "{name}");
        last = size(&path);
        let header = Gguf::open(&path).unwrap();
        assert_eq!(header.tensor("blk.0.attn_q.weight").unwrap().kind.name(), stored);
        let mut engine = load(&path);
        let logits = step(&mut engine, 0, 0, &text);
        let cosine = cosine(&logits, &expected);
        assert!(cosine > nearness, "{name}: {cosine}");
        assert!(engine.limits().vocabulary == VOCABULARY);
    }

    let error = quantize(&folder.path().join("q8_0"), &folder.path().join("again"), "q4_k_m".parse().unwrap(), threads);
    assert!(error.unwrap_err().to_string().contains("quantised already"));
    assert!(!folder.path().join("again").exists());
    let nowhere = folder.path().join("no/such/folder");
    assert!(matches!(quantize(&full, &nowhere, "f16".parse().unwrap(), threads), Err(wattle_engine::Error::Io(_))));
}

pub fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot = |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(left, right)| left * right).sum::<f32>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}
