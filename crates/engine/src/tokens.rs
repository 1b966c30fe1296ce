//! Tokens in, logits out: what the scheduler asks of an engine for language models, whichever it is.
//!
//! An engine keeps the keys and values of its sequences in *cells*, one a token and layer stack. Sequences may share
//! cells: [`TokenEngine::fork`] gives a sequence the beginning of another one without computing or copying it. A cell is
//! free again when the last sequence that holds it lets it go.

use crate::Result;

/// A token's number in the model's vocabulary.
pub type Token = u32;

/// One of an engine's sequences, from 0 to [`Limits::sequences`] - 1. Whoever calls the engine hands them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

/// What an engine can hold, fixed once a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that may be there at once.
    pub sequences: u32,
    /// Cells that all sequences together may hold; a shared cell counts once.
    pub cells: u32,
    /// Tokens that one sequence may have.
    pub context_tokens: u32,
    /// Tokens that one call of [`TokenEngine::decode`] may compute.
    pub batch_tokens: u32,
    /// Tokens in the vocabulary, the length of a row of logits.
    pub vocabulary: u32,
    /// Numbers in an embedding; 0 if the model gives none.
    pub embedding: u32,
}

/// A run of new tokens for one sequence, in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The sequence that grows.
    pub sequence: SequenceId,
    /// The position of the first token, which is the sequence's length before.
    pub start: u32,
    /// The tokens; at least one.
    pub tokens: &'a [Token],
    /// How many of the last tokens want their logits: 0 within a prompt, 1 at its end, more to check a draft.
    pub logits: u32,
}

/// Logits, row by row in the order of the chunks and of the tokens within a chunk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logits {
    /// `[rows, vocabulary]`, row-major.
    pub values: Vec<f32>,
}

impl Logits {
    /// The row of number `row`, of `vocabulary` values.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize, vocabulary: u32) -> &[f32] {
        &self.values[row * vocabulary as usize..][..vocabulary as usize]
    }
}

/// Computes a model of language, sequence by sequence. One thread calls it, and no call waits for anything but the
/// computation.
pub trait TokenEngine: Send {
    /// What the engine holds at most.
    fn limits(&self) -> Limits;

    /// Whether sequences can be forked and truncated at every length. Recurrent layers keep a state of all tokens so far,
    /// and layers with a window may have lost what it no longer shows; where such a model's sequence cannot be forked,
    /// [`TokenEngine::fork`] leaves `to` empty. The whole of a sequence can always be forked.
    fn cuts_anywhere(&self) -> bool {
        true
    }

    /// How many cells may be held by sequences that are not computed without slowing down those that are. All of them, for an
    /// engine that looks at the cells of a batch's own sequences only.
    fn idle_cells(&self) -> u32 {
        u32::MAX
    }

    /// How many tokens of a prompt are better computed at once: fewer take longer, each.
    fn chunk_tokens(&self) -> u32 {
        1
    }

    /// Computes a batch and appends its tokens to their sequences. A sequence appears in one chunk at most, and the
    /// caller keeps the batch within [`TokenEngine::limits`]. `logits` is overwritten.
    ///
    /// # Errors
    /// If the computation failed. The sequences of the batch are then as they were, or gone: the caller frees them.
    fn decode(&mut self, batch: &[Chunk<'_>], logits: &mut Logits) -> Result<()>;

    /// Gives `to`, which is empty, the first `tokens` tokens of `from`; both share the cells.
    fn fork(&mut self, from: SequenceId, to: SequenceId, tokens: u32);

    /// Shortens a sequence to its first `tokens` tokens. `false` if the model's memory cannot be cut there (as with
    /// recurrent layers); the sequence is then empty.
    fn truncate(&mut self, sequence: SequenceId, tokens: u32) -> bool;

    /// Lets all tokens of a sequence go.
    fn free(&mut self, sequence: SequenceId) {
        self.truncate(sequence, 0);
    }

    /// What a sequence holds, as bytes that [`TokenEngine::restore`] of the same model and engine understands.
    ///
    /// # Errors
    /// If the engine cannot save it.
    fn save(&mut self, sequence: SequenceId) -> Result<Vec<u8>>;

    /// Fills an empty sequence with what was saved, of which nothing is trusted: the bytes come from a disk.
    ///
    /// # Errors
    /// If the bytes are not of this model and engine, or there are too few cells; the sequence is empty then.
    fn restore(&mut self, sequence: SequenceId, saved: &[u8]) -> Result<()>;

    /// The embeddings of whole texts, `[texts, embedding]`, row-major, pooled as the model says and not normalised. The
    /// caller keeps the sum of their lengths within [`Limits::batch_tokens`]. No sequence of the caller's is touched.
    ///
    /// # Errors
    /// If the model gives no embeddings, or the computation failed.
    fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<f32>>;
}

/// A model's words: text to tokens, and tokens to bytes. It is shared by threads and does not need the engine.
pub trait Vocabulary: Send + Sync {
    /// How many tokens there are; the same as [`Limits::vocabulary`].
    fn len(&self) -> u32;

    /// Whether there is none, which no model has.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of a text. With `special`, the names of special tokens in the text (`<|im_end|>`) mean these tokens;
    /// without, they are plain text, as is right for what users wrote.
    fn encode(&self, text: &str, special: bool) -> Vec<Token>;

    /// The bytes of a token; not always whole characters. A special token has none unless `special`.
    fn bytes(&self, token: Token, special: bool) -> Vec<u8>;

    /// The token that the model expects first, if it does.
    fn beginning(&self) -> Option<Token>;

    /// The token that the model expects last of a text to embed, if it does (BERT's `[SEP]`).
    fn ending(&self) -> Option<Token> {
        None
    }

    /// Whether the model ends its answer (or its turn) with this token.
    fn is_end(&self, token: Token) -> bool;

    /// Whether the token is a control token, which no text has.
    fn is_special(&self, token: Token) -> bool;
}
