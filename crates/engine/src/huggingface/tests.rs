#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use serde_json::{Value as Json, json};

use super::*;
use crate::gguf::{Gguf, Value, describe};

/// A folder of a model with random weights, in the given shape.
pub(crate) fn write_folder(folder: &Path, config: &Json, tensors: &[(String, Vec<u64>)], tokenizer: &Json) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let (mut header, mut data, mut seed) = (serde_json::Map::new(), Vec::new(), 1_u64);
    for (name, shape) in tensors {
        let from = data.len();
        for _ in 0..shape.iter().product::<u64>() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = ((seed >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * 0.5;
            data.extend(value.to_le_bytes());
        }
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = Json::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

pub(crate) fn decoder_config(architecture: &str) -> Json {
    json!({
        "architectures": [architecture], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "vocab_size": 300, "bos_token_id": 256, "eos_token_id": 257,
    })
}

pub(crate) fn decoder_tensors(more: &[(&str, u64)]) -> Vec<(String, Vec<u64>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![300, 32]),
        ("model.norm.weight".to_owned(), vec![32]),
        ("lm_head.weight".to_owned(), vec![300, 32]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("self_attn.q_proj", vec![32, 32]),
            ("self_attn.k_proj", vec![16, 32]),
            ("self_attn.v_proj", vec![16, 32]),
            ("self_attn.o_proj", vec![32, 32]),
            ("mlp.gate_proj", vec![64, 32]),
            ("mlp.up_proj", vec![64, 32]),
            ("mlp.down_proj", vec![32, 64]),
            ("input_layernorm", vec![32]),
            ("post_attention_layernorm", vec![32]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
        for (name, length) in more {
            tensors.push((format!("model.layers.{layer}.{name}"), vec![*length]));
        }
    }
    tensors
}

/// GPT-2's bytes, two special tokens and one merge.
pub(crate) fn byte_tokenizer() -> Json {
    let mut vocabulary = serde_json::Map::new();
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut unseen = 0x100;
    for byte in 0..=255_u8 {
        let letter = if seen(byte) {
            char::from(byte)
        } else {
            unseen += 1;
            char::from_u32(unseen - 1).unwrap()
        };
        vocabulary.insert(letter.to_string(), json!(byte));
    }
    vocabulary.insert("th".into(), json!(258));
    json!({
        "added_tokens": [
            {"id": 256, "content": "<|begin|>", "special": true},
            {"id": 257, "content": "<|end|>", "special": true},
            {"id": 259, "content": "<tool>", "special": false},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["t", "h"]]},
    })
}

fn convert_to_header(folder: &Path) -> Result<Gguf> {
    let target = folder.join("model.gguf");
    convert(folder, &target, Options { kind: None }, &mut |_, _| {})?;
    Gguf::open(&target)
}

fn text(header: &Gguf, key: &str, index: usize) -> String {
    header.get(key).unwrap().as_array().unwrap()[index].as_text().unwrap().to_owned()
}

#[test]
fn a_decoder_keeps_its_tokenizer_and_its_template() {
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &decoder_config("LlamaForCausalLM"), &decoder_tensors(&[]), &byte_tokenizer());
    let settings =
        json!({"chat_template": [{"name": "default", "template": "{{ messages }}"}], "eos_token": "<|end|>"});
    fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    let header = convert_to_header(folder.path()).unwrap();
    let description = describe(&header).unwrap();
    assert_eq!((description.architecture.as_str(), description.vocabulary, description.layers), ("llama", 300, 2));
    assert_eq!(description.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!((description.beginning.as_deref(), description.end.as_deref()), (Some("<|begin|>"), Some("<|end|>")));
    assert_eq!(header.get("tokenizer.ggml.add_bos_token"), Some(&Value::Bool(true)));
    assert_eq!(header.get("tokenizer.ggml.pre").and_then(Value::as_text), Some("gpt-2"));
    assert_eq!(text(&header, "tokenizer.ggml.merges", 0), "t h");
    assert_eq!(text(&header, "tokenizer.ggml.tokens", 299), "[PAD299]");
    let kinds = header.get("tokenizer.ggml.token_type").unwrap().as_array().unwrap();
    assert_eq!(
        [&kinds[97], &kinds[256], &kinds[259], &kinds[299]],
        [&Value::I32(1), &Value::I32(3), &Value::I32(4), &Value::I32(5)]
    );
}

#[test]
fn shards_are_read_and_nothing_outside_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = decoder_tensors(&[]);
    write_folder(folder.path(), &decoder_config("MistralForCausalLM"), &tensors, &byte_tokenizer());
    fs::rename(folder.path().join("model.safetensors"), folder.path().join("model-1-of-1.safetensors")).unwrap();
    let index = |file: &str| {
        let map: serde_json::Map<String, Json> = tensors.iter().map(|(name, _)| (name.clone(), json!(file))).collect();
        fs::write(folder.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    };
    index("model-1-of-1.safetensors");
    convert_to_header(folder.path()).unwrap();
    for outside in ["../model.safetensors", "/etc/passwd", "..", ""] {
        index(outside);
        let error = convert_to_header(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not in it"), "{error}");
    }
    index("model-2-of-2.safetensors");
    assert!(convert_to_header(folder.path()).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn what_cannot_be_converted_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |config: &Json, tensors: &[(String, Vec<u64>)], tokenizer: &Json| {
        write_folder(folder.path(), config, tensors, tokenizer);
        convert_to_header(folder.path()).unwrap_err().to_string()
    };
    let (config, tensors, tokenizer) = (decoder_config("LlamaForCausalLM"), decoder_tensors(&[]), byte_tokenizer());
    let other = refused(&decoder_config("MambaForCausalLM"), &tensors, &tokenizer);
    assert!(
        other.contains("the architecture MambaForCausalLM is not one that can be converted (LlamaForCausalLM"),
        "{other}"
    );
    let lacking = refused(&config, &tensors[..tensors.len() - 1], &tokenizer);
    assert!(lacking.contains("blk.1.ffn_norm.weight"), "{lacking}");
    let more = [tensors.clone(), vec![("model.layers.0.moe.gate.weight".into(), vec![2, 2])]].concat();
    let unknown = refused(&config, &more, &tokenizer);
    assert!(unknown.contains("moe.gate.weight"), "{unknown}");
    let mut scaled = config.clone();
    scaled["rope_scaling"] = json!({"rope_type": "longrope"});
    assert!(refused(&scaled, &tensors, &tokenizer).contains("longrope"));
    let mut heads = config.clone();
    heads["num_key_value_heads"] = json!(3);
    assert!(refused(&heads, &tensors, &tokenizer).contains("4 heads cannot share 3"));
    let mut split = tokenizer.clone();
    split["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "[a-z]"}});
    assert!(refused(&config, &tensors, &split).contains("not known: [a-z]"));
    let mut unigram = tokenizer;
    unigram["model"]["type"] = json!("Unigram");
    assert!(refused(&config, &tensors, &unigram).contains("Unigram"));
    fs::write(folder.path().join("model.safetensors"), [255; 40]).unwrap();
    assert!(convert_to_header(folder.path()).unwrap_err().to_string().contains("its header does not fit"));
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(convert_to_header(folder.path()).unwrap_err().to_string().contains("neither model.safetensors nor"));
}

#[test]
fn llama_3_divides_slow_frequencies() {
    let mut config = decoder_config("LlamaForCausalLM");
    config["head_dim"] = json!(64);
    config["rope_theta"] = json!(500_000.0);
    config["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let factors = rope::factors(&config.into()).unwrap().unwrap();
    assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 8.0));
    assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
    assert!(factors.iter().any(|factor| (1.01..7.99).contains(factor)), "{factors:?}");
}

#[test]
fn characters_are_merged_in_their_order() {
    let tokenizer = json!({
        "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
        "model": {
            "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "merges": ["a b", "ab c"],
            "vocab": {"<unk>": 0, "<s>": 1, "<0x41>": 2, "a": 3, "b": 4, "c": 5, "abc": 6, "ab": 7},
        },
    });
    let words = tokenizer::of(&tokenizer).unwrap();
    let kinds: Vec<i32> = words.tokens.iter().map(|(_, kind)| *kind as i32).collect();
    assert_eq!((words.model, kinds), ("llama", vec![2, 3, 6, 1, 1, 1, 1, 1]));
    let of = |key: &str| words.more.iter().find(|(name, _)| name.ends_with(key)).unwrap().1.clone();
    let scores = of("scores");
    let scores = scores.as_array().unwrap();
    assert_eq!([&scores[7], &scores[6]], [&Value::F32(0.0), &Value::F32(-1.0)]);
    assert!(matches!(scores[3], Value::F32(score) if score < -1.0));
    assert_eq!(of("add_space_prefix"), Value::Bool(true));
}
