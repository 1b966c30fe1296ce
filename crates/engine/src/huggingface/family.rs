//! The families of models: what their tensors are called, what is done to them, and what their files say.

use serde_json::Value as Json;

use super::{
    config::{Config, Folder},
    rope,
};
use crate::{Error, Result, gguf::Value};

/// The matrix that makes logits, where it is not that of the embeddings.
pub(super) const OUTPUT: &str = "lm_head.weight";

/// A family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Llama, and Mistral, which is the same but for its sizes.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Gemma.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, of text alone.
    Gemma3,
    /// BERT, and sentence encoders that are one.
    Bert,
}

/// What is done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// One is added to each number: these norms scale by one more than they say.
    AddOne,
    /// The rows of each head, whose halves are rotated with each other, stand in pairs.
    Pair {
        /// How many heads there are.
        heads: u32,
    },
}

/// What architectures are called, and the family of each.
const ARCHITECTURES: [(&str, Family); 10] = [
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Llama),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("GemmaForCausalLM", Family::Gemma),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
    ("BertModel", Family::Bert),
    ("BertForMaskedLM", Family::Bert),
    ("BertForSequenceClassification", Family::Bert),
];

/// A decoder's tensors outside and inside of its layers, and what they are called in GGUF.
const DECODER: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
const DECODER_LAYER: [(&str, &str); 10] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
];
/// The norms behind attention, whose names mean one thing in most families and another in Gemma 2 and 3.
const NORMS: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];
const GEMMA_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const ENCODER: [(&str, &str); 4] = [
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.position_embeddings", "position_embd"),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
];
const ENCODER_LAYER: [(&str, &str); 8] = [
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
];

impl Family {
    /// The family of a configuration.
    ///
    /// # Errors
    /// For one that is not known, by its name.
    pub(super) fn of(config: &Config) -> Result<Family> {
        let named = config.get("architectures").and_then(Json::as_array).and_then(|all| all.first()?.as_str());
        let named = named.ok_or_else(|| Error::InvalidModel("config.json names no architecture".into()))?;
        let found = ARCHITECTURES.iter().find(|(name, _)| *name == named).map(|(_, family)| *family);
        found.ok_or_else(|| {
            let mut known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            known.dedup();
            Error::InvalidModel(format!(
                "the architecture {named} is not one that can be converted ({}): convert it with its makers' tools and import the GGUF file",
                known.join(", ")
            ))
        })
    }

    /// Its name in GGUF.
    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma => "gemma",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3",
            Family::Bert => "bert",
        }
    }

    /// The matrix of the tokens' embeddings.
    pub(super) fn embeddings(self) -> &'static str {
        if self == Family::Bert { "embeddings.word_embeddings.weight" } else { "model.embed_tokens.weight" }
    }

    /// Whether logits are made by the embeddings where nothing else is said.
    pub(super) fn ties_embeddings(self) -> bool {
        self.is_gemma()
    }

    fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    /// Whether a tensor is of no use: what can be computed again, and what only training needs.
    pub(super) fn passes_over(self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
            || (self == Family::Bert
                && (name.ends_with("position_ids")
                    || ["pooler.", "cls.", "classifier."].iter().any(|head| plain(name).starts_with(head))))
    }

    /// Whether a matrix keeps 32 bits: what is added and not multiplied.
    pub(super) fn keeps_whole(self, name: &str) -> bool {
        matches!(name, "position_embd.weight" | "token_types.weight")
    }

    /// A tensor's name in GGUF, and what is done to it; nothing for one that is not known.
    pub(super) fn tensor(self, name: &str, config: &Config) -> Result<Option<(String, Change)>> {
        let Some((name, suffix)) =
            plain(name).rsplit_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))
        else {
            return Ok(None);
        };
        let is_bert = self == Family::Bert;
        let (outside, prefix): (&[(&str, &str)], _) =
            if is_bert { (&ENCODER, "encoder.layer.") } else { (&DECODER, "model.layers.") };
        if let Some((_, own)) = outside.iter().find(|(their, _)| *their == name) {
            let change = if self.is_gemma() && *own == "output_norm" { Change::AddOne } else { Change::None };
            return Ok(Some((format!("{own}.{suffix}"), change)));
        }
        let Some((layer, rest)) = name.strip_prefix(prefix).and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        let norms: &[(&str, &str)] =
            if matches!(self, Family::Gemma2 | Family::Gemma3) { &GEMMA_NORMS } else { &NORMS };
        let inside: Vec<&(&str, &str)> =
            if is_bert { ENCODER_LAYER.iter().collect() } else { DECODER_LAYER.iter().chain(norms).collect() };
        let Some((_, own)) = inside.into_iter().find(|(their, _)| *their == rest) else { return Ok(None) };
        let known_layer = layer.parse::<u32>().is_ok_and(|number| number.to_string() == layer);
        if !known_layer || layer.parse::<u32>().unwrap_or(u32::MAX) >= config.count("num_hidden_layers")? {
            return Ok(None);
        }
        let change = match *own {
            "attn_q" if self == Family::Llama => Change::Pair { heads: config.heads()? },
            "attn_k" if self == Family::Llama => Change::Pair { heads: config.heads_kv()? },
            own if self.is_gemma() && own.ends_with("norm") => Change::AddOne,
            _ => Change::None,
        };
        Ok(Some((format!("blk.{layer}.{own}.{suffix}"), change)))
    }

    /// What the new file must have.
    pub(super) fn required(self, config: &Config) -> Result<Vec<String>> {
        let mut names = vec!["token_embd.weight".to_owned()];
        if self != Family::Bert {
            names.push("output_norm.weight".into());
        }
        let own: &[&str] = if self == Family::Bert {
            &[
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_up",
                "ffn_down",
                "attn_output_norm",
                "layer_output_norm",
            ]
        } else {
            &["attn_q", "attn_k", "attn_v", "attn_output", "attn_norm", "ffn_gate", "ffn_up", "ffn_down", "ffn_norm"]
        };
        for layer in 0..config.count("num_hidden_layers")? {
            names.extend(own.iter().map(|own| format!("blk.{layer}.{own}.weight")));
        }
        Ok(names)
    }

    /// What the new file says of the model, the tokenizer excepted.
    pub(super) fn metadata(self, config: &Config, folder: &Folder) -> Result<Vec<(String, Value)>> {
        let architecture = self.name();
        let key = |name: &str| format!("{architecture}.{name}");
        let count = |name: &str| config.count(name).map(Value::U32);
        let mut metadata = vec![("general.architecture".to_owned(), Value::from(architecture))];
        let name = config.text("_name_or_path").filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = name.or_else(|| folder.name()) {
            metadata.push(("general.name".into(), Value::from(name.as_str())));
        }
        metadata.extend([
            (key("block_count"), count("num_hidden_layers")?),
            (key("context_length"), count("max_position_embeddings")?),
            (key("embedding_length"), count("hidden_size")?),
            (key("feed_forward_length"), count("intermediate_size")?),
            (key("attention.head_count"), Value::U32(config.heads()?)),
        ]);
        if self == Family::Bert {
            let epsilon = config.number("layer_norm_eps")?.unwrap_or(1e-12);
            metadata.extend([
                (key("attention.layer_norm_epsilon"), Value::F32(epsilon as f32)),
                (key("attention.causal"), Value::Bool(false)),
                (key("pooling_type"), Value::U32(pooling(folder)?)),
            ]);
            return Ok(metadata);
        }
        let epsilon = config.number("rms_norm_eps")?.unwrap_or(1e-6);
        let head_width = config.head_width()?;
        metadata.extend([
            (key("attention.head_count_kv"), Value::U32(config.heads_kv()?)),
            (key("attention.layer_norm_rms_epsilon"), Value::F32(epsilon as f32)),
            (key("attention.key_length"), Value::U32(head_width)),
            (key("attention.value_length"), Value::U32(head_width)),
            (key("rope.dimension_count"), Value::U32(head_width)),
        ]);
        metadata.extend(rope::metadata(config, architecture)?);
        if matches!(self, Family::Gemma2 | Family::Gemma3) {
            if let Some(window) = config.optional_count("sliding_window")? {
                metadata.push((key("attention.sliding_window"), Value::U32(window)));
            }
            for (theirs, own) in [
                ("attn_logit_softcapping", "attn_logit_softcapping"),
                ("final_logit_softcapping", "final_logit_softcapping"),
            ] {
                if let Some(cap) = config.number(theirs)? {
                    metadata.push((key(own), Value::F32(cap as f32)));
                }
            }
        }
        Ok(metadata)
    }
}

impl Change {
    /// The rows in their new order.
    ///
    /// # Errors
    /// If there are not as many as the change needs.
    pub(super) fn order(self, rows: usize) -> Result<Vec<usize>, String> {
        let Change::Pair { heads } = self else { return Ok((0..rows).collect()) };
        let width = rows / heads as usize;
        if width * heads as usize != rows || !width.is_multiple_of(2) {
            return Err(format!("has {rows} rows, which are no pairs for {heads} heads"));
        }
        let half = width / 2;
        let from = |row: usize| row / width * width + (row % 2) * half + row % width / 2;
        Ok((0..rows).map(from).collect())
    }

    pub(super) fn added(self) -> f32 {
        if self == Change::AddOne { 1.0 } else { 0.0 }
    }
}

/// A name without the prefix that a model with a head of its own puts before it.
fn plain(name: &str) -> &str {
    name.strip_prefix("bert.").unwrap_or(name)
}

/// How texts become one vector, as sentence-transformers writes it; the mean where nothing is said.
fn pooling(folder: &Folder) -> Result<u32> {
    const MEAN: u32 = 1;
    let Some(pooling) = folder.json("1_Pooling/config.json")? else { return Ok(MEAN) };
    let kinds = [("pooling_mode_cls_token", 2), ("pooling_mode_mean_tokens", MEAN), ("pooling_mode_lasttoken", 3)];
    let is_on = |key: &str| pooling.get(key).and_then(Json::as_bool) == Some(true);
    let chosen: Vec<u32> = kinds.iter().filter(|(key, _)| is_on(key)).map(|(_, kind)| *kind).collect();
    match chosen.as_slice() {
        [kind] => Ok(*kind),
        _ => Err(Error::InvalidModel(
            "1_Pooling/config.json pools in a way that is not known: the mean, the first and the last token are".into(),
        )),
    }
}
