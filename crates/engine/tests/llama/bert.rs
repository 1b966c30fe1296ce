//! all-MiniLM-L6-v2 as llama.cpp computes it, compared with NumPy over the same weights (`scripts/make_minilm_reference.py`).

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;
use wattle_engine::{
    gguf::{Kind, NewTensor, TensorKind, Value, Writer},
    llama::{LlamaEngine, Settings},
    tokens::{Chunk, Logits, SequenceId, Token, TokenEngine as _, Vocabulary as _},
};

use crate::{settings, vocabulary::cosine};

/// Numbers in an embedding.
const WIDTH: u32 = 384;

#[test]
fn embeddings_of_minilm_are_those_that_numpy_computes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("minilm.gguf");
    convert(&model_folder(), &path);
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

/// Where `scripts/minilm.sh` put the model.
fn model_folder() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cache"));
    let folder = cache.join("wattle/minilm/0.1.0");
    assert!(folder.is_dir(), "{} is not there; run `make setup`", folder.display());
    folder
}

/// Writes the model as GGUF, all numbers as they are.
fn convert(folder: &Path, path: &Path) {
    let file = fs::read(folder.join("model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Json> = serde_json::from_slice(&file[8..start]).unwrap();
    let mut tensors = Vec::new();
    let mut data: Vec<&[u8]> = Vec::new();
    for (name, entry) in &header {
        let Some(name) = gguf_name(name) else { continue };
        assert_eq!(entry["dtype"], "F32");
        let mut shape: Vec<u64> = serde_json::from_value(entry["shape"].clone()).unwrap();
        shape.reverse();
        let [from, to]: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone()).unwrap();
        tensors.push(NewTensor { name, shape, kind: TensorKind::F32 });
        data.push(&file[start + from..start + to]);
    }
    let words = fs::read_to_string(folder.join("vocab.txt")).unwrap();
    let is_special = |word: &str| word.starts_with('[') && word.ends_with(']') && word.len() > 2;
    // llama.cpp marks what begins a word, where BERT marks what does not.
    let marked = words.lines().map(|word| match word.strip_prefix("##") {
        Some(rest) => rest.to_owned(),
        None if is_special(word) => word.to_owned(),
        None => format!("\u{2581}{word}"),
    });
    let kinds = words.lines().map(|word| Value::I32(if is_special(word) { 3 } else { 1 })).collect();
    let metadata = [
        ("general.architecture", Value::from("bert")),
        ("bert.context_length", Value::U32(512)),
        ("bert.embedding_length", Value::U32(WIDTH)),
        ("bert.block_count", Value::U32(6)),
        ("bert.feed_forward_length", Value::U32(1536)),
        ("bert.attention.head_count", Value::U32(12)),
        ("bert.attention.layer_norm_epsilon", Value::F32(1e-12)),
        ("bert.attention.causal", Value::Bool(false)),
        ("bert.pooling_type", Value::U32(1)),
        ("tokenizer.ggml.model", Value::from("bert")),
        ("tokenizer.ggml.token_type_count", Value::U32(2)),
        ("tokenizer.ggml.tokens", Value::texts(marked)),
        ("tokenizer.ggml.token_type", Value::Array(Kind::I32, kinds)),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let mut writer = Writer::begin(fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    for bytes in data {
        writer.tensor(bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// The name of a tensor in GGUF; `None` for what embeddings do not need.
fn gguf_name(name: &str) -> Option<String> {
    let (rest, kind) = name.rsplit_once('.')?;
    let own = match rest {
        "embeddings.word_embeddings" => "token_embd".to_owned(),
        "embeddings.position_embeddings" => "position_embd".to_owned(),
        "embeddings.token_type_embeddings" => "token_types".to_owned(),
        "embeddings.LayerNorm" => "token_embd_norm".to_owned(),
        _ => {
            let (layer, rest) = rest.strip_prefix("encoder.layer.")?.split_once('.')?;
            let own = match rest {
                "attention.self.query" => "attn_q",
                "attention.self.key" => "attn_k",
                "attention.self.value" => "attn_v",
                "attention.output.dense" => "attn_output",
                "attention.output.LayerNorm" => "attn_output_norm",
                "intermediate.dense" => "ffn_up",
                "output.dense" => "ffn_down",
                "output.LayerNorm" => "layer_output_norm",
                _ => return None,
            };
            format!("blk.{layer}.{own}")
        }
    };
    Some(format!("{own}.{kind}"))
}
