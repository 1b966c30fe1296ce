use std::{path::Path, sync::Arc};

use super::{
    Footprint, LlamaVocabulary, MAX_SEQUENCES, Settings,
    embed::Embedder,
    native::{Batch, Context, Model, Ran, Shape, Threads, version},
    saved::{self, Owner},
};
use crate::{
    Error, Result,
    tokens::{Chunk, Limits, Logits, SequenceId, Token, TokenEngine, Vocabulary as _},
};

/// Tokens that go through the layers at once, of a larger batch: what is between layers takes memory for each.
const STEP_TOKENS: u32 = 512;

/// From so many tokens on llama.cpp's attention goes over cells tile by tile, and skips those that no token of a tile looks
/// at; so tokens of several sequences are computed together only as long as they are fewer. Measured with a model of 135
/// million weights and 7 answers of 530 tokens: 96 tokens of a prompt took 455 ms with them, and 262 ms beside them.
const TILE_TOKENS: usize = 64;

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
    /// Tokens of each sequence.
    lengths: Vec<u32>,
    /// Rows of logits that llama.cpp computes at once.
    rows: u32,
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
        let limits = limits(&model, vocabulary.len(), generator.as_ref(), embedder.as_ref());
        let owner = Owner::new(&[&settings.identity, &version(), "f16 cells"]);
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
        self.generator.as_ref().map_or(u32::MAX, |generator| generator.context.model().idle_cells())
    }

    fn chunk_tokens(&self) -> u32 {
        TILE_TOKENS as u32
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
        let shape = Shape {
            sequences: settings.sequences,
            cells: settings.cells,
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
        let lengths = vec![0; settings.sequences as usize];
        Ok(Generator { context, batch: Batch::default(), lengths, rows: settings.rows })
    }

    fn decode(&mut self, chunks: &[Chunk<'_>], limits: &Limits, logits: &mut Logits) -> Result<()> {
        logits.values.clear();
        self.check(chunks, limits)?;
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

    /// Computes chunks that were checked, in as many parts as the wanted rows and [`TILE_TOKENS`] need; `parts` counts those
    /// that were computed.
    fn compute(
        &mut self,
        chunks: &[Chunk<'_>],
        vocabulary: u32,
        logits: &mut Logits,
        parts: &mut u32,
    ) -> Result<(), (Ran, String)> {
        self.batch.clear();
        let mut rows = 0;
        for chunk in chunks {
            if !self.batch.is_empty() && self.batch.len() + chunk.tokens.len() >= TILE_TOKENS {
                self.run(vocabulary, logits)?;
                *parts += 1;
                rows = 0;
            }
            let wanted_from = chunk.tokens.len() - chunk.logits as usize;
            for (index, token) in chunk.tokens.iter().enumerate() {
                let wanted = index >= wanted_from;
                if wanted && rows == self.rows {
                    self.run(vocabulary, logits)?;
                    *parts += 1;
                    rows = 0;
                }
                rows += u32::from(wanted);
                self.batch.push(*token, chunk.start + index as u32, chunk.sequence.0, wanted);
            }
        }
        if self.batch.is_empty() { Ok(()) } else { self.run(vocabulary, logits) }
    }

    /// Computes the batch, appends the wanted rows, and leaves it empty.
    fn run(&mut self, vocabulary: u32, logits: &mut Logits) -> Result<(), (Ran, String)> {
        let (ran, heard) = self.context.decode(&mut self.batch);
        if ran != Ran::Well {
            return Err((ran, heard.reason("llama.cpp does not say why")));
        }
        for token in self.batch.wanted() {
            let row = self.context.logits(token, vocabulary);
            let row = row.ok_or_else(|| (Ran::Failed, "there are no logits where they were wanted".to_owned()))?;
            logits.values.extend_from_slice(row);
        }
        self.batch.clear();
        Ok(())
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
        self.context.fork(from.0, to.0, tokens);
        self.lengths[to.0 as usize] = tokens;
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

fn limits(model: &Model, vocabulary: u32, generator: Option<&Generator>, embedder: Option<&Embedder>) -> Limits {
    let cells = generator.map_or(0, |generator| generator.context.cells());
    let batch_tokens = generator.map(|generator| generator.context.batch_tokens());
    let embedded_tokens = embedder.map(|embedder| embedder.batch_tokens);
    Limits {
        sequences: generator.map_or(0, |generator| generator.lengths.len() as u32),
        cells,
        context_tokens: match (generator, embedder) {
            (Some(_), _) => model.context_tokens().min(cells),
            (None, Some(embedder)) => embedder.text_tokens,
            (None, None) => 0,
        },
        batch_tokens: batch_tokens.into_iter().chain(embedded_tokens).min().unwrap_or(0),
        vocabulary,
        embedding: embedder.map_or(0, |embedder| embedder.width),
    }
}
