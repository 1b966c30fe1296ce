//! Language models by llama.cpp: every architecture that it knows, out of GGUF files.
//!
//! llama.cpp is C++ that ends the process where an invariant of its own breaks. What its interface asserts of its arguments
//! is checked here before, and a file's header is read by [`crate::gguf`] first, which trusts none of it. What remains are
//! files whose header is well-formed and whose numbers contradict each other in a way that llama.cpp finds out only while
//! it computes, a tokenizer whose rules recurse too deeply on a long text, and memory that runs out: so a model from outside
//! belongs into a process of its own.
//!
//! What it says goes to the log under the target `llama.cpp`: what went wrong as warnings, all else below.

mod embed;
mod engine;
mod footprint;
mod header;
mod log;
mod native;
mod quantize;
mod runs;
mod saved;
mod vocabulary;

use std::num::NonZeroU32;

pub use engine::LlamaEngine;
pub use footprint::Footprint;
pub use quantize::{Quantization, quantize};
pub use vocabulary::LlamaVocabulary;

/// The most sequences of an engine (`LLAMA_MAX_SEQ`).
pub const MAX_SEQUENCES: u32 = 256;

/// What an engine is to hold and to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Sequences that may be there at once, at most [`MAX_SEQUENCES`]; 0 if the model is to embed alone. They are fewer where
    /// each has cells of its own.
    pub sequences: u32,
    /// Cells that all sequences together may hold; llama.cpp rounds up to a multiple of 256. If they are enough for some whole
    /// contexts, each sequence gets cells of its own.
    pub cells: u32,
    /// Tokens that one sequence may have; as many as the model was trained for when absent.
    pub context_tokens: Option<u32>,
    /// Tokens that one batch may have, and one text that is embedded.
    pub batch_tokens: u32,
    /// Rows of logits that are computed at once, at least one for each sequence: memory is reserved for so many. A batch that
    /// wants more is computed in parts.
    pub rows: u32,
    /// Threads that compute, the caller's among them.
    pub threads: NonZeroU32,
    /// What tells the model from every other one, such as the SHA-256 of its file. It stands in what is saved.
    pub identity: String,
}

/// The instruction sets that llama.cpp was compiled for and uses, by its names: `AVX2`, `AVX512_VNNI`, `NEON`.
pub fn instruction_sets() -> Vec<String> {
    log::initialise();
    // A line of all back ends: "CPU : SSE3 = 1 | AVX = 1 | … | REPACK = 1 | ".
    native::system_info()
        .split(['|', ':'])
        .filter_map(|part| part.trim().strip_suffix(" = 1"))
        .map(str::to_owned)
        .collect()
}
