use std::sync::Arc;

use super::{
    Settings,
    footprint::Footprint,
    native::{Batch, Context, Model, Ran, Shape, Threads},
};
use crate::{Error, Result, tokens::Token};

/// Texts that are computed at once: their logits' place is reserved, used or not.
const TEXTS: u32 = 64;

/// Computes embeddings, in memory of its own: no sequence of anybody's is touched.
#[derive(Debug)]
pub(super) struct Embedder {
    context: Context,
    batch: Batch,
    vocabulary: u32,
    /// Tokens that one text may have.
    pub(super) text_tokens: u32,
    /// Tokens that all texts of one call may have.
    pub(super) batch_tokens: u32,
    /// Numbers in an embedding.
    pub(super) width: u32,
}

impl Embedder {
    /// `None` if the model pools nothing.
    pub(super) fn new(
        model: &Arc<Model>,
        threads: &Arc<Threads>,
        settings: &Settings,
        vocabulary: u32,
        footprint: &mut Footprint,
    ) -> Result<Option<Embedder>> {
        if !model.pools() {
            return Ok(None);
        }
        let shape = Shape {
            sequences: TEXTS,
            cells: settings.batch_tokens,
            divided: false,
            batch_tokens: settings.batch_tokens,
            // A text is pooled over the tokens that go through the layers together.
            step_tokens: settings.batch_tokens,
            // llama.cpp counts every token that is pooled.
            rows: settings.batch_tokens.max(TEXTS),
            embeddings: true,
        };
        let (context, heard) = Context::new(model, threads, shape)?;
        // Scores of pairs of texts are pooled as well.
        if !context.pools() {
            return Ok(None);
        }
        footprint.add(&heard);
        let batch_tokens = context.batch_tokens().min(settings.batch_tokens);
        Ok(Some(Embedder {
            batch: Batch::default(),
            vocabulary,
            text_tokens: model.context_tokens().min(batch_tokens),
            batch_tokens,
            width: model.width(),
            context,
        }))
    }

    /// Whether the model keeps nothing of a text, so that it can do nothing but embed.
    pub(super) fn is_alone(&self) -> bool {
        !self.context.has_memory()
    }

    /// `[texts, width]`, row-major.
    pub(super) fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<f32>> {
        let mut all = 0;
        for (index, text) in texts.iter().enumerate() {
            let most = self.text_tokens;
            if text.is_empty() {
                return Err(Error::InvalidInput(format!("text {index} has no tokens, and one is needed")));
            }
            if text.len() > most as usize {
                let length = text.len();
                return Err(Error::InvalidInput(format!(
                    "text {index} has {length} tokens, and {most} is the most; cut it or split it"
                )));
            }
            if let Some(token) = text.iter().find(|token| **token >= self.vocabulary) {
                return Err(Error::InvalidInput(format!("text {index} has the token {token}, which there is not")));
            }
            all += text.len();
        }
        if all > self.batch_tokens as usize {
            let most = self.batch_tokens;
            return Err(Error::InvalidInput(format!("the texts have {all} tokens together, and {most} is the most")));
        }
        let mut embeddings = Vec::with_capacity(texts.len() * self.width as usize);
        for group in texts.chunks(TEXTS as usize) {
            let outcome = self.embed_group(group, &mut embeddings);
            self.context.clear();
            outcome?;
        }
        Ok(embeddings)
    }

    fn embed_group(&mut self, texts: &[&[Token]], embeddings: &mut Vec<f32>) -> Result<()> {
        self.batch.clear();
        for (sequence, text) in (0..).zip(texts) {
            for (position, token) in (0..).zip(*text) {
                self.batch.push(*token, position, sequence, true);
            }
        }
        let (ran, heard) = self.context.decode(&mut self.batch);
        if ran != Ran::Well {
            let reason = heard.reason("llama.cpp does not say why");
            return Err(Error::Run(format!("the embeddings cannot be computed: {reason}")));
        }
        for sequence in 0..texts.len() as u32 {
            let row = self.context.embedding(sequence);
            embeddings.extend_from_slice(row.ok_or_else(|| Error::Run("llama.cpp gave no embedding".into()))?);
        }
        Ok(())
    }
}
