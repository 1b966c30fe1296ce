use std::{path::Path, sync::Arc};

use super::{
    Footprint, LlamaVocabulary, MAX_SEQUENCES, Settings,
    embed::Embedder,
    native::{Batch, Context, Model, Ran, Shape, Threads, version},
    runs::{self, Span, TILE_TOKENS},
    saved::{self, Owner},
};
use crate::{
    Error, Result,
    tokens::{Chunk, Limits, Logits, SequenceId, Token, TokenEngine, Vocabulary as _},
};

/// Tokens that go through the layers at once, of a larger batch: what is between layers takes memory for each.
const STEP_TOKENS: u32 = 512;

/// Cells that are enough for so many whole contexts are divided among sequences: each looks at its own alone, and what two
/// have in common is copied. Measured with the same model: 8 rows take 40 ms instead of 43 behind 530 tokens each, 27 instead
/// of 33 behind 130; 128 tokens of a prompt take 180 ms instead of 270 beside 7 answers of 530; copying 500 tokens takes 6 ms.
const LEAST_CONTEXTS: u32 = 8;

/// Where cells are divided, attention is no slower for the tokens of others, and the weights are worth reading for so many.
const DIVIDED_CHUNK_TOKENS: usize = 128;

/// A model that llama.cpp computes.
#[derive(Debug)]
pub struct LlamaEngine {
    /// `None` if the model only embeds.
    generator: Option<Generator>,
    /// `None` if the model pools nothing.
    embedder: Option<Embedder>,
    vocabulary: LlamaVocabulary,
    limits: Limits,
    footprint: Footprint,
    owner: Owner,
}

/// The sequences that grow token by token.
#[derive(Debug)]
struct Generator {
    context: Context,
    batch: Batch,
    /// Which row of the logits each wanted token of the batch gives, counted over all of the call.
    places: Vec<usize>,
    /// Tokens of each sequence.
    lengths: Vec<u32>,
    /// Rows of logits that llama.cpp computes at once.
    rows: u32,
    /// Whether every sequence has cells of its own.
    divided: bool,
}

impl LlamaEngine {
    /// Maps a model into memory and makes room for its sequences.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is not there; [`Error::InvalidModel`] if it is no model that llama.cpp knows;
    /// [`Error::InvalidInput`] for settings that cannot be; [`Error::Run`] if there is too little memory.
    pub fn load(path: &Path, settings: &Settings) -> Result<LlamaEngine> {
        check(settings)?;
        let (model, heard) = Model::load(path, false)?;
        if model.has_encoder() {
            return Err(Error::InvalidModel(
                "the model has an encoder and a decoder, and only models of one of them are served".into(),
            ));
        }
        let mut footprint = Footprint::default();
        footprint.add(&heard);
        let model = Arc::new(model);
        let vocabulary = LlamaVocabulary::of(model.clone())?;
        let threads = Arc::new(Threads::start(settings.threads)?);
        let embedder = Embedder::new(&model, &threads, settings, vocabulary.len(), &mut footprint)?;
        let generates = settings.sequences > 0 && !embedder.as_ref().is_some_and(Embedder::is_alone);
        let generator = generates.then(|| Generator::new(&model, &threads, settings, &mut footprint)).transpose()?;
        let context_tokens = context_tokens(&model, settings);
        let limits = limits(context_tokens, vocabulary.len(), generator.as_ref(), embedder.as_ref());
        // llama.cpp counts the stores in what it writes.
        let stores = generator.as_ref().filter(|generator| generator.divided).map_or(1, |one| one.lengths.len());
        let owner = Owner::new(&[&settings.identity, &version(), &format!("f16 cells in {stores}")]);
        Ok(LlamaEngine { generator, embedder, vocabulary, limits, footprint, owner })
    }

    /// The model's words, for whoever reads and writes texts on other threads. They keep the model's file mapped.
    pub fn vocabulary(&self) -> LlamaVocabulary {
        self.vocabulary.clone()
    }

    /// The memory that it takes.
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    fn generator(&mut self) -> Result<&mut Generator> {
        self.generator
            .as_mut()
            .ok_or_else(|| Error::InvalidInput("the model was loaded for embeddings, and generates no text".into()))
    }
}

impl TokenEngine for LlamaEngine {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn cuts_anywhere(&self) -> bool {
        self.generator.as_ref().is_none_or(|generator| {
            let model = generator.context.model();
            !model.is_recurrent() && model.window_tokens() == 0
        })
    }

    fn idle_cells(&self) -> u32 {
        let shared = self.generator.as_ref().filter(|generator| !generator.divided);
        shared.map_or(u32::MAX, |generator| generator.context.model().idle_cells())
    }

    fn chunk_tokens(&self) -> u32 {
        let is_divided = self.generator.as_ref().is_some_and(|generator| generator.divided);
        if is_divided { DIVIDED_CHUNK_TOKENS as u32 } else { TILE_TOKENS as u32 }
    }

    fn decode(&mut self, batch: &[Chunk<'_>], logits: &mut Logits) -> Result<()> {
        let limits = self.limits;
        self.generator()?.decode(batch, &limits, logits)
    }

    fn fork(&mut self, from: SequenceId, to: SequenceId, tokens: u32) {
        if let Some(generator) = &mut self.generator {
            generator.fork(from, to, tokens);
        }
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: u32) -> bool {
        self.generator.as_mut().is_none_or(|generator| generator.truncate(sequence, tokens))
    }

    fn save(&mut self, sequence: SequenceId) -> Result<Vec<u8>> {
        let owner = self.owner;
        self.generator()?.save(sequence, owner)
    }

    fn restore(&mut self, sequence: SequenceId, saved: &[u8]) -> Result<()> {
        let owner = self.owner;
        self.generator()?.restore(sequence, saved, owner)
    }

    fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<f32>> {
        self.embedder
            .as_mut()
            .ok_or_else(|| Error::InvalidInput("the model pools nothing, and gives no embeddings".into()))?
            .embed(texts)
    }
}

impl Generator {
    fn new(
        model: &Arc<Model>,
        threads: &Arc<Threads>,
        settings: &Settings,
        footprint: &mut Footprint,
    ) -> Result<Generator> {
        // llama.cpp rounds up to so many.
        let context_cells = context_tokens(model, settings).next_multiple_of(256);
        let contexts = settings.cells / context_cells;
        // The state of a recurrent layer, and what no window sees any more, is not copied.
        let divided = contexts >= LEAST_CONTEXTS && !model.is_recurrent() && model.window_tokens() == 0;
        let sequences = if divided { settings.sequences.min(contexts) } else { settings.sequences };
        let shape = Shape {
            sequences,
            cells: if divided { sequences * context_cells } else { settings.cells },
            divided,
            batch_tokens: settings.batch_tokens,
            step_tokens: settings.batch_tokens.min(STEP_TOKENS),
            rows: settings.rows,
            embeddings: false,
        };
        let (context, heard) = Context::new(model, threads, shape)?;
        if !context.has_memory() {
            return Err(Error::InvalidModel(
                "the model reads texts without generating any, and its file does not say how to pool embeddings".into(),
            ));
        }
        footprint.add(&heard);
        Ok(Generator {
            context,
            batch: Batch::default(),
            places: Vec::new(),
            lengths: vec![0; sequences as usize],
            rows: settings.rows,
            divided,
        })
    }

    fn decode(&mut self, chunks: &[Chunk<'_>], limits: &Limits, logits: &mut Logits) -> Result<()> {
        logits.values.clear();
        self.check(chunks, limits)?;
        let rows: usize = chunks.iter().map(|chunk| chunk.logits as usize).sum();
        logits.values.resize(rows * limits.vocabulary as usize, 0.0);
        let mut parts = 0;
        match self.compute(chunks, limits.vocabulary, logits, &mut parts) {
            Ok(()) => {
                for chunk in chunks {
                    self.lengths[chunk.sequence.0 as usize] += chunk.tokens.len() as u32;
                }
                Ok(())
            }
            Err((Ran::NoRoom, _)) if parts == 0 => {
                Err(Error::Run("too few cells are free for the batch; free sequences or load more cells".into()))
            }
            Err((_, reason)) => {
                // How much of it was computed is not said.
                for chunk in chunks {
                    self.context.cut(chunk.sequence.0, 0);
                    self.lengths[chunk.sequence.0 as usize] = 0;
                }
                Err(Error::Run(format!("the batch cannot be computed: {reason}")))
            }
        }
    }

    /// Computes chunks that were checked, in as many parts as the wanted rows and attention need; `parts` counts those that were
    /// computed.
    fn compute(
        &mut self,
        chunks: &[Chunk<'_>],
        vocabulary: u32,
        logits: &mut Logits,
        parts: &mut u32,
    ) -> Result<(), (Ran, String)> {
        self.clear();
        // The row that each chunk's first wanted token has.
        let mut row = 0;
        let first_row = |chunk: &Chunk<'_>| {
            row += chunk.logits as usize;
            row - chunk.logits as usize
        };
        let first_rows: Vec<usize> = chunks.iter().map(first_row).collect();
        for run in if self.divided { runs::divided(chunks) } else { runs::shared(chunks) } {
            for Span { chunk, tokens: span } in run {
                let Chunk { sequence, start, tokens, logits: wanted } = chunks[chunk];
                let wanted_from = tokens.len() - wanted as usize;
                for index in span {
                    let is_wanted = index >= wanted_from;
                    if is_wanted && self.places.len() == self.rows as usize {
                        self.run(vocabulary, logits, parts)?;
                    }
                    if is_wanted {
                        self.places.push(first_rows[chunk] + index - wanted_from);
                    }
                    self.batch.push(tokens[index], start + index as u32, sequence.0, is_wanted);
                }
            }
            self.run(vocabulary, logits, parts)?;
        }
        Ok(())
    }

    /// Computes the batch, if there is anything in it, puts the wanted rows into their places, and leaves it empty.
    fn run(&mut self, vocabulary: u32, logits: &mut Logits, parts: &mut u32) -> Result<(), (Ran, String)> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (ran, heard) = self.context.decode(&mut self.batch);
        if ran != Ran::Well {
            return Err((ran, heard.reason("llama.cpp does not say why")));
        }
        for (token, place) in self.batch.wanted().zip(&self.places) {
            let row = self.context.logits(token, vocabulary);
            let row = row.ok_or_else(|| (Ran::Failed, "there are no logits where they were wanted".to_owned()))?;
            logits.values[place * vocabulary as usize..][..vocabulary as usize].copy_from_slice(row);
        }
        self.clear();
        *parts += 1;
        Ok(())
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.places.clear();
    }

    /// llama.cpp ends the process if there are too many tokens, and computes something else than was asked if sequences do
    /// not go on where they ended.
    fn check(&self, chunks: &[Chunk<'_>], limits: &Limits) -> Result<()> {
        let refuse = |why: String| Err(Error::InvalidInput(why));
        let all: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        if all > limits.batch_tokens as usize {
            return refuse(format!("the batch has {all} tokens, and {} is the most", limits.batch_tokens));
        }
        let mut seen = vec![false; self.lengths.len()];
        for chunk in chunks {
            let Chunk { sequence: SequenceId(sequence), start, tokens, logits } = *chunk;
            let Some(length) = self.lengths.get(sequence as usize).copied() else {
                return refuse(format!("there is no sequence {sequence}, but {} of them", self.lengths.len()));
            };
            if std::mem::replace(&mut seen[sequence as usize], true) {
                return refuse(format!("the sequence {sequence} is twice in the batch"));
            }
            if start != length {
                return refuse(format!("the sequence {sequence} has {length} tokens, and cannot go on at {start}"));
            }
            let count = tokens.len();
            if count == 0 || logits as usize > count {
                return refuse(format!("{logits} rows of logits are wanted of {count} tokens"));
            }
            if count > (limits.context_tokens - length) as usize {
                let most = limits.context_tokens;
                return refuse(format!(
                    "the sequence {sequence} would have more than {most} tokens, which is the most"
                ));
            }
            if let Some(token) = tokens.iter().find(|token| **token >= limits.vocabulary) {
                return refuse(format!("the sequence {sequence} has the token {token}, which there is not"));
            }
        }
        Ok(())
    }

    fn fork(&mut self, from: SequenceId, to: SequenceId, tokens: u32) {
        let length = self.length(from);
        let tokens = tokens.min(length);
        if from == to {
            return;
        }
        self.truncate(to, 0);
        if tokens == 0 || (tokens < length && !self.cuts(from, tokens)) {
            return;
        }
        if self.divided {
            self.copy(from, to, tokens);
        } else {
            self.context.fork(from.0, to.0, tokens);
            self.lengths[to.0 as usize] = tokens;
        }
    }

    /// Leaves `to` empty if it fails; whoever goes on with it is told so.
    fn copy(&mut self, from: SequenceId, to: SequenceId, tokens: u32) {
        let (whole, heard) = self.context.copy(from.0, to.0);
        let length = self.length(from);
        if whole && self.context.length(to.0) == length && (tokens == length || self.context.cut(to.0, tokens)) {
            self.lengths[to.0 as usize] = tokens;
        } else {
            self.context.cut(to.0, 0);
            tracing::warn!(reason = heard.reason("llama.cpp does not say why"), "a sequence cannot be copied");
        }
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: u32) -> bool {
        if tokens >= self.length(sequence) {
            return true;
        }
        let cut = (tokens == 0 || self.cuts(sequence, tokens)) && self.context.cut(sequence.0, tokens);
        if !cut {
            self.context.cut(sequence.0, 0);
        }
        self.lengths[sequence.0 as usize] = if cut { tokens } else { 0 };
        cut
    }

    /// Whether the first tokens of a sequence are there by themselves, as if no others had followed.
    fn cuts(&self, sequence: SequenceId, tokens: u32) -> bool {
        let model = self.context.model();
        // A state of all tokens is none of fewer; and llama.cpp may have reused cells that no window saw any more.
        !model.is_recurrent() && self.context.first(sequence.0) <= tokens.saturating_sub(model.window_tokens())
    }

    fn save(&mut self, sequence: SequenceId, owner: Owner) -> Result<Vec<u8>> {
        let length = self.length(sequence);
        let window = self.context.model().window_tokens();
        // llama.cpp leaves out what no window sees any more, so that what is restored could not be cut.
        if window > 0 && length > window {
            return Err(Error::Run(format!(
                "a sequence of {length} tokens cannot be saved, since the model's layers look back {window} tokens only"
            )));
        }
        let mut bytes = saved::begin();
        let (whole, heard) = self.context.save(sequence.0, &mut bytes);
        if !whole {
            let reason = heard.reason("llama.cpp does not say why");
            return Err(Error::Run(format!("the sequence cannot be saved: {reason}")));
        }
        saved::seal(&mut bytes, owner, length);
        Ok(bytes)
    }

    fn restore(&mut self, sequence: SequenceId, bytes: &[u8], owner: Owner) -> Result<()> {
        self.truncate(sequence, 0);
        let (tokens, payload) = saved::open(bytes, owner)?;
        let (whole, heard) = self.context.restore(sequence.0, payload);
        if !whole || self.context.length(sequence.0) != tokens {
            self.context.cut(sequence.0, 0);
            let reason = heard.reason("llama.cpp does not say why");
            return Err(Error::Run(format!("the sequence cannot be restored, or too few cells are free: {reason}")));
        }
        self.lengths[sequence.0 as usize] = tokens;
        Ok(())
    }

    /// # Panics
    /// If there is no such sequence: whoever calls hands out those that there are.
    fn length(&self, sequence: SequenceId) -> u32 {
        self.lengths[sequence.0 as usize]
    }
}

/// What of the settings would make llama.cpp fail without a reason, or end the process.
fn check(settings: &Settings) -> Result<()> {
    let refuse = |why: String| Err(Error::InvalidInput(why));
    let Settings { sequences, cells, batch_tokens, rows, .. } = *settings;
    if sequences > MAX_SEQUENCES {
        return refuse(format!("{sequences} sequences are too many; {MAX_SEQUENCES} is the most"));
    }
    if batch_tokens == 0 || batch_tokens > 1 << 20 {
        return refuse(format!("batches of {batch_tokens} tokens cannot be; choose from 1 to 1048576"));
    }
    if sequences > rows {
        return refuse(format!("{rows} rows of logits are fewer than the {sequences} sequences"));
    }
    if sequences > 0 && (cells == 0 || cells > 1 << 28) {
        return refuse(format!("{cells} cells cannot be; choose from 1 to 268435456"));
    }
    Ok(())
}

/// Tokens that a sequence may have as far as model and settings say.
fn context_tokens(model: &Model, settings: &Settings) -> u32 {
    settings.context_tokens.unwrap_or(u32::MAX).min(model.context_tokens()).max(1)
}

fn limits(context_tokens: u32, vocabulary: u32, generator: Option<&Generator>, embedder: Option<&Embedder>) -> Limits {
    let cells = generator.map_or(0, |generator| generator.context.cells());
    let batch_tokens = generator.map(|generator| generator.context.batch_tokens());
    let embedded_tokens = embedder.map(|embedder| embedder.batch_tokens);
    Limits {
        sequences: generator.map_or(0, |generator| generator.lengths.len() as u32),
        cells,
        context_tokens: match (generator, embedder) {
            (Some(generator), _) => context_tokens.min(generator.context.sequence_cells()),
            (None, Some(embedder)) => embedder.text_tokens,
            (None, None) => 0,
        },
        batch_tokens: batch_tokens.into_iter().chain(embedded_tokens).min().unwrap_or(0),
        vocabulary,
        embedding: embedder.map_or(0, |embedder| embedder.width),
    }
}
