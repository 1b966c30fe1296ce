//! Small models of random weights, the same ones for the same seed; and a real one of embeddings.

use std::{
    env,
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use wattle_engine::gguf::{Kind, NewTensor, TensorKind, Value, Writer};

/// The control token that begins a text.
pub const BEGINNING: u32 = 256;
/// The control token that ends an answer.
pub const END: u32 = 257;
/// The token of the text "th", the only one of two bytes.
pub const TH: u32 = 258;
/// All tokens: the bytes and those three.
pub const VOCABULARY: u32 = 259;

/// A decoder as Llama's, whose tokens are bytes.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    pub layers: u32,
    pub width: u32,
    pub heads: u32,
    pub heads_kv: u32,
    pub feed_forward: u32,
    pub context_tokens: u32,
    /// Whether its file says that embeddings are those of the last token.
    pub pools: bool,
    pub seed: u64,
}

impl Decoder {
    /// One that takes a fraction of a millisecond for a token.
    pub const SMALL: Decoder = Decoder {
        layers: 2,
        width: 64,
        heads: 4,
        heads_kv: 2,
        feed_forward: 128,
        context_tokens: 512,
        pools: false,
        seed: 1,
    };

    pub fn metadata(&self) -> Vec<(String, Value)> {
        let mut metadata = vec![
            ("general.architecture".to_owned(), Value::from("llama")),
            ("llama.context_length".to_owned(), Value::U32(self.context_tokens)),
            ("llama.embedding_length".to_owned(), Value::U32(self.width)),
            ("llama.block_count".to_owned(), Value::U32(self.layers)),
            ("llama.feed_forward_length".to_owned(), Value::U32(self.feed_forward)),
            ("llama.attention.head_count".to_owned(), Value::U32(self.heads)),
            ("llama.attention.head_count_kv".to_owned(), Value::U32(self.heads_kv)),
            ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
            ("llama.rope.dimension_count".to_owned(), Value::U32(self.width / self.heads)),
        ];
        if self.pools {
            metadata.push(("llama.pooling_type".to_owned(), Value::U32(3)));
        }
        metadata.extend(byte_tokenizer());
        metadata
    }

    pub fn tensors(&self) -> Vec<NewTensor> {
        let width = u64::from(self.width);
        let (kv, inner) = (width / u64::from(self.heads) * u64::from(self.heads_kv), u64::from(self.feed_forward));
        let mut tensors = vec![
            tensor("token_embd.weight", &[width, VOCABULARY.into()]),
            tensor("output_norm.weight", &[width]),
            tensor("output.weight", &[width, VOCABULARY.into()]),
        ];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("attn_norm", &[width][..]),
                ("attn_q", &[width, width]),
                ("attn_k", &[width, kv]),
                ("attn_v", &[width, kv]),
                ("attn_output", &[width, width]),
                ("ffn_norm", &[width]),
                ("ffn_gate", &[width, inner]),
                ("ffn_up", &[width, inner]),
                ("ffn_down", &[inner, width]),
            ] {
                tensors.push(tensor(&format!("blk.{layer}.{name}.weight"), shape));
            }
        }
        tensors
    }

    pub fn write(&self, path: &Path) {
        write(path, &self.metadata(), &self.tensors(), self.seed);
    }
}

/// A decoder as Gemma 3's, of six layers, of which all but the last see a window of this many tokens.
pub fn write_windowed(path: &Path, window_tokens: u32) {
    let width = 64;
    let number = |key: &str, value| (format!("gemma3.{key}"), Value::U32(value));
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::from("gemma3")),
        number("context_length", 512),
        number("embedding_length", width as u32),
        number("block_count", 6),
        number("feed_forward_length", 128),
        number("attention.head_count", 4),
        number("attention.head_count_kv", 2),
        number("attention.key_length", 16),
        number("attention.value_length", 16),
        number("attention.sliding_window", window_tokens),
        ("gemma3.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-6)),
    ];
    metadata.extend(byte_tokenizer());
    let mut tensors = Decoder { layers: 6, ..Decoder::SMALL }.tensors();
    for layer in 0..6 {
        for (name, size) in
            [("attn_q_norm", 16), ("attn_k_norm", 16), ("post_attention_norm", width), ("post_ffw_norm", width)]
        {
            tensors.push(tensor(&format!("blk.{layer}.{name}.weight"), &[size]));
        }
    }
    write(path, &metadata, &tensors, 2);
}

/// A model of two recurrent layers, as Mamba's.
pub fn write_recurrent(path: &Path) {
    let (width, inner, state, rank) = (64, 128, 8, 4);
    let number = |key: &str, value: u64| (format!("mamba.{key}"), Value::U32(value as u32));
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::from("mamba")),
        number("context_length", 512),
        number("embedding_length", width),
        number("block_count", 2),
        number("feed_forward_length", 0),
        number("attention.head_count", 0),
        number("ssm.conv_kernel", 4),
        number("ssm.inner_size", inner),
        number("ssm.state_size", state),
        number("ssm.time_step_rank", rank),
        ("mamba.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
    ];
    metadata.extend(byte_tokenizer());
    let mut tensors = vec![
        tensor("token_embd.weight", &[width, VOCABULARY.into()]),
        tensor("output_norm.weight", &[width]),
        tensor("output.weight", &[width, VOCABULARY.into()]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_norm.weight", &[width][..]),
            ("ssm_in.weight", &[width, 2 * inner]),
            ("ssm_conv1d.weight", &[4, inner]),
            ("ssm_conv1d.bias", &[inner]),
            ("ssm_x.weight", &[inner, rank + 2 * state]),
            ("ssm_dt.weight", &[rank, inner]),
            ("ssm_dt.bias", &[inner]),
            ("ssm_a", &[state, inner]),
            ("ssm_d", &[inner]),
            ("ssm_out.weight", &[inner, width]),
        ] {
            tensors.push(tensor(&format!("blk.{layer}.{name}"), shape));
        }
    }
    write(path, &metadata, &tensors, 3);
}

/// The folder of all-MiniLM-L6-v2, where `scripts/minilm.sh` put it.
pub fn minilm() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cache"));
    let folder = cache.join("wattle/minilm/0.1.0");
    assert!(folder.is_dir(), "{} is not there; run `make setup`", folder.display());
    folder
}

/// Writes a file whose matrices keep the size of what goes through them; the last one makes it larger, so that the
/// likeliest token is well apart from the others.
pub fn write(path: &Path, metadata: &[(String, Value)], tensors: &[NewTensor], seed: u64) {
    let mut random = Random(seed);
    let mut writer = Writer::begin(BufWriter::new(File::create(path).unwrap()), metadata, tensors).unwrap();
    for tensor in tensors {
        writer.tensor(&bytes(&values(tensor, &mut random))).unwrap();
    }
    writer.finish().unwrap();
}

/// The values of a tensor: around 1 for a norm's scale, around 0 for all else.
pub fn values(tensor: &NewTensor, random: &mut Random) -> Vec<f32> {
    let count: u64 = tensor.shape.iter().product();
    let (mean, deviation) = match (tensor.shape.len(), tensor.name.as_str()) {
        (1, name) if name.ends_with("norm.weight") => (1.0, 0.1),
        (1, _) => (0.0, 0.1),
        (_, "token_embd.weight") => (0.0, 1.0),
        // How quickly a state fades.
        (_, name) if name.ends_with("ssm_a") => (-1.0, 0.1),
        (_, "output.weight") => (0.0, 4.0 / (tensor.shape[0] as f32).sqrt()),
        _ => (0.0, 1.0 / (tensor.shape[0] as f32).sqrt()),
    };
    (0..count).map(|_| mean + deviation * random.normal()).collect()
}

pub fn tensor(name: &str, shape: &[u64]) -> NewTensor {
    NewTensor { name: name.to_owned(), shape: shape.to_vec(), kind: TensorKind::F32 }
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Numbers by SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Of mean 0 and deviation 1: the sum of twelve uniform ones, less its mean.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    /// Tokens of bytes.
    pub fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| (self.next() % 256) as u32).collect()
    }
}

/// A tokenizer whose tokens are the bytes in their order, written as GPT-2 writes them, and three more.
fn byte_tokenizer() -> Vec<(String, Value)> {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter_of(byte).to_string()).collect();
    tokens.extend(["<|begin|>".to_owned(), "<|end|>".to_owned(), "th".to_owned()]);
    let kind = |token: u32| Value::I32(if [BEGINNING, END].contains(&token) { 3 } else { 1 });
    vec![
        ("tokenizer.ggml.model".to_owned(), Value::from("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), Value::from("gpt-2")),
        ("tokenizer.ggml.tokens".to_owned(), Value::texts(tokens)),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Kind::I32, (0..VOCABULARY).map(kind).collect())),
        ("tokenizer.ggml.merges".to_owned(), Value::texts(["t h"])),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(BEGINNING)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(END)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
    ]
}

/// The letter that stands for a byte in GPT-2's vocabulary: itself if it can be seen, and one from U+0100 on if not.
fn letter_of(byte: u8) -> char {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if seen(byte) {
        return byte.into();
    }
    let unseen_before = (0..byte).filter(|other| !seen(*other)).count() as u32;
    char::from_u32(0x100 + unseen_before).unwrap()
}
