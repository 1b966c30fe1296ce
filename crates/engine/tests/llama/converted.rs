//! Folders of each family as llama.cpp computes them once they are converted, compared with a forward pass in plain Rust
//! over the folder's own weights (Vaswani et al. 2017; Su et al. 2021 for the rotations).

use std::{collections::HashMap, fs, path::Path};

use serde_json::{Value as Json, json};
use wattle_engine::{
    gguf::TensorKind,
    huggingface::{Options, convert},
    tokens::{Token, TokenEngine as _, Vocabulary as _},
};

use crate::{alone, assert_close, load, models::Random};

const WIDTH: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const HEADS_KV: usize = 2;
const LAYERS: usize = 2;
const VOCABULARY: usize = 300;
const EPSILON: f32 = 1e-5;
const BASE: f32 = 10_000.0;

/// What makes a family different from Llama.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Family {
    architecture: &'static str,
    /// Numbers of a head.
    head: usize,
    /// Queries, keys and values have something added.
    biases: bool,
    /// Queries and keys are normalised by head.
    head_norms: bool,
    /// Norms scale by one more than they say, embeddings are scaled, and the gate is GELU's.
    gemma: bool,
    /// Attention and feed-forward results are normalised as well, and logits are capped.
    gemma2: bool,
}

const LLAMA: Family =
    Family { architecture: "LlamaForCausalLM", head: 8, biases: false, head_norms: false, gemma: false, gemma2: false };

#[test]
fn every_family_computes_what_its_folder_says() {
    for family in [
        LLAMA,
        Family { architecture: "MistralForCausalLM", ..LLAMA },
        Family { architecture: "Qwen2ForCausalLM", biases: true, ..LLAMA },
        Family { architecture: "Qwen3ForCausalLM", head: 16, head_norms: true, ..LLAMA },
        Family { architecture: "GemmaForCausalLM", head: 16, gemma: true, ..LLAMA },
        Family { architecture: "Gemma2ForCausalLM", head: 16, gemma: true, gemma2: true, ..LLAMA },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let weights = write_folder(folder.path(), family);
        let path = folder.path().join("model.gguf");
        let mut told = 0;
        convert(folder.path(), &path, Options { kind: None }, &mut |done, all| told = all - done).unwrap();
        assert_eq!(told, 0, "the progress ends at its end");
        let mut engine = load(&path);
        let tokens: Vec<Token> = vec![256, 72, 105, 258, 101, 33];
        let computed = alone(&mut engine, &tokens);
        assert_close(&computed, &forward(family, &weights, &tokens));
        let vocabulary = engine.vocabulary();
        assert_eq!(vocabulary.encode("Hi the<tool>", true), [72, 105, 32, 258, 101, 259]);
        assert_eq!(engine.limits().vocabulary, 300);
    }
}

#[test]
fn half_the_bytes_are_nearly_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let weights = write_folder(folder.path(), LLAMA);
    let path = folder.path().join("half.gguf");
    convert(folder.path(), &path, Options { kind: Some(TensorKind::F16) }, &mut |_, _| {}).unwrap();
    let tokens = [256, 72, 105];
    let (computed, expected) = (alone(&mut load(&path), &tokens), forward(LLAMA, &weights, &tokens));
    let worst = computed.iter().zip(&expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    assert!(worst < 0.05, "{worst}");
}

type Weights = HashMap<String, Vec<f32>>;

fn write_folder(folder: &Path, family: Family) -> Weights {
    let (query, kv) = (HEADS * family.head, HEADS_KV * family.head);
    let mut tensors: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![VOCABULARY, WIDTH]), ("model.norm.weight".into(), vec![WIDTH])];
    if !family.gemma {
        tensors.push(("lm_head.weight".into(), vec![VOCABULARY, WIDTH]));
    }
    for layer in 0..LAYERS {
        let mut put =
            |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        put("self_attn.q_proj.weight", &[query, WIDTH]);
        put("self_attn.k_proj.weight", &[kv, WIDTH]);
        put("self_attn.v_proj.weight", &[kv, WIDTH]);
        put("self_attn.o_proj.weight", &[WIDTH, query]);
        put("mlp.gate_proj.weight", &[INNER, WIDTH]);
        put("mlp.up_proj.weight", &[INNER, WIDTH]);
        put("mlp.down_proj.weight", &[WIDTH, INNER]);
        put("input_layernorm.weight", &[WIDTH]);
        put("post_attention_layernorm.weight", &[WIDTH]);
        if family.biases {
            put("self_attn.q_proj.bias", &[query]);
            put("self_attn.k_proj.bias", &[kv]);
            put("self_attn.v_proj.bias", &[kv]);
        }
        if family.head_norms {
            put("self_attn.q_norm.weight", &[family.head]);
            put("self_attn.k_norm.weight", &[family.head]);
        }
        if family.gemma2 {
            put("pre_feedforward_layernorm.weight", &[WIDTH]);
            put("post_feedforward_layernorm.weight", &[WIDTH]);
        }
    }
    let (mut header, mut data, mut random) = (serde_json::Map::new(), Vec::new(), Random(7));
    let mut weights = Weights::new();
    for (name, shape) in tensors {
        let from = data.len();
        let values: Vec<f32> =
            (0..shape.iter().product::<usize>()).map(|_| (random.next() % 10_000) as f32 / 10_000.0 - 0.5).collect();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}));
        weights.insert(name, values);
    }
    let header = Json::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(folder.join("model.safetensors"), file).unwrap();
    let config = json!({
        "architectures": [family.architecture], "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS_KV,
        "head_dim": family.head, "max_position_embeddings": 128, "rms_norm_eps": EPSILON, "rope_theta": BASE,
        "bos_token_id": 256, "eos_token_id": 257, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
        "sliding_window": 64,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), byte_tokenizer().to_string()).unwrap();
    weights
}

/// GPT-2's bytes, two special tokens, one merge and a word that users may write.
fn byte_tokenizer() -> Json {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut unseen = 0x100_u32;
    let mut letter = |byte: u8| {
        if seen(byte) {
            return char::from(byte);
        }
        unseen += 1;
        char::from_u32(unseen - 1).unwrap()
    };
    let mut vocabulary: serde_json::Map<String, Json> =
        (0..=255_u8).map(|byte| (letter(byte).to_string(), json!(byte))).collect();
    vocabulary.insert("th".into(), json!(258));
    json!({
        "added_tokens": [
            {"id": 256, "content": "<|begin|>", "special": true},
            {"id": 257, "content": "<|end|>", "special": true},
            {"id": 259, "content": "<tool>", "special": false},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["t h"]},
    })
}

/// The logits behind the last token.
fn forward(family: Family, weights: &Weights, tokens: &[Token]) -> Vec<f32> {
    let scale = if family.gemma { (WIDTH as f32).sqrt() } else { 1.0 };
    let embeddings = &weights["model.embed_tokens.weight"];
    let mut states: Vec<Vec<f32>> = tokens
        .iter()
        .map(|token| embeddings[*token as usize * WIDTH..][..WIDTH].iter().map(|value| value * scale).collect())
        .collect();
    for layer in 0..LAYERS {
        let of = |name: &str| &weights[&format!("model.layers.{layer}.{name}.weight")];
        let normed: Vec<Vec<f32>> = states.iter().map(|state| norm(state, of("input_layernorm"), family)).collect();
        let mut attended = attention(family, weights, layer, &normed);
        if family.gemma2 {
            attended.iter_mut().for_each(|state| *state = norm(state, of("post_attention_layernorm"), family));
        }
        add(&mut states, &attended);
        let before = if family.gemma2 { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let fed: Vec<Vec<f32>> = states
            .iter()
            .map(|state| {
                let state = norm(state, of(before), family);
                let gate = times(of("mlp.gate_proj"), &state);
                let up = times(of("mlp.up_proj"), &state);
                let inner: Vec<f32> = gate.iter().zip(up).map(|(gate, up)| activate(*gate, family) * up).collect();
                let fed = times(of("mlp.down_proj"), &inner);
                if family.gemma2 { norm(&fed, of("post_feedforward_layernorm"), family) } else { fed }
            })
            .collect();
        add(&mut states, &fed);
    }
    let last = norm(states.last().unwrap(), &weights["model.norm.weight"], family);
    let logits = times(weights.get("lm_head.weight").unwrap_or(embeddings), &last);
    let cap = |logit: f32| if family.gemma2 { 30.0 * (logit / 30.0).tanh() } else { logit };
    logits.into_iter().map(cap).collect()
}

fn attention(family: Family, weights: &Weights, layer: usize, states: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let of = |name: &str| weights.get(&format!("model.layers.{layer}.self_attn.{name}"));
    let project = |name: &str, state: &[f32]| {
        let mut values = times(of(&format!("{name}_proj.weight")).unwrap(), state);
        if let Some(bias) = of(&format!("{name}_proj.bias")) {
            values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
        values
    };
    let turned = |name: &str| -> Vec<Vec<f32>> {
        let heads = states.iter().enumerate().map(|(position, state)| {
            let values = project(name, state);
            let heads = values.chunks(family.head).map(|head| {
                let head = match of(&format!("{name}_norm.weight")) {
                    Some(scale) => norm(head, scale, family),
                    None => head.to_vec(),
                };
                rotate(&head, position)
            });
            heads.collect::<Vec<_>>().concat()
        });
        heads.collect()
    };
    let (queries, keys) = (turned("q"), turned("k"));
    let values: Vec<Vec<f32>> = states.iter().map(|state| project("v", state)).collect();
    let attended = queries.iter().enumerate().map(|(position, query)| {
        let mut all = Vec::new();
        for (head, query) in query.chunks(family.head).enumerate() {
            let own = head / (HEADS / HEADS_KV) * family.head..;
            let mut scores: Vec<f32> = keys[..=position]
                .iter()
                .map(|key| {
                    let key = &key[own.clone()][..family.head];
                    let score = query.iter().zip(key).map(|(one, other)| one * other).sum::<f32>();
                    let score = score / (family.head as f32).sqrt();
                    if family.gemma2 { 50.0 * (score / 50.0).tanh() } else { score }
                })
                .collect();
            let most = scores.iter().copied().fold(f32::MIN, f32::max);
            scores.iter_mut().for_each(|score| *score = (*score - most).exp());
            let sum: f32 = scores.iter().sum();
            for index in 0..family.head {
                let value = |value: &Vec<f32>| value[own.clone()][index];
                all.push(scores.iter().zip(&values).map(|(score, values)| score / sum * value(values)).sum());
            }
        }
        times(of("o_proj.weight").unwrap(), &all)
    });
    attended.collect()
}

/// The first half of a head is turned with the second, as the transformers do it.
fn rotate(head: &[f32], position: usize) -> Vec<f32> {
    let half = head.len() / 2;
    let mut turned = head.to_vec();
    for index in 0..half {
        let angle = position as f32 * BASE.powf(-2.0 * index as f32 / head.len() as f32);
        let (sin, cos) = angle.sin_cos();
        turned[index] = head[index] * cos - head[index + half] * sin;
        turned[index + half] = head[index + half] * cos + head[index] * sin;
    }
    turned
}

fn norm(state: &[f32], scale: &[f32], family: Family) -> Vec<f32> {
    let mean = state.iter().map(|value| value * value).sum::<f32>() / state.len() as f32;
    let more = if family.gemma { 1.0 } else { 0.0 };
    state.iter().zip(scale).map(|(value, scale)| value / (mean + EPSILON).sqrt() * (scale + more)).collect()
}

fn activate(value: f32, family: Family) -> f32 {
    if family.gemma {
        let inner = (2.0 / std::f32::consts::PI).sqrt() * (value + 0.044_715 * value.powi(3));
        return 0.5 * value * (1.0 + inner.tanh());
    }
    value / (1.0 + (-value).exp())
}

fn times(matrix: &[f32], vector: &[f32]) -> Vec<f32> {
    matrix.chunks(vector.len()).map(|row| row.iter().zip(vector).map(|(one, other)| one * other).sum()).collect()
}

fn add(states: &mut [Vec<f32>], more: &[Vec<f32>]) {
    for (state, more) in states.iter_mut().zip(more) {
        state.iter_mut().zip(more).for_each(|(value, more)| *value += more);
    }
}
