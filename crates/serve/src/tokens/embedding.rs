//! Texts that are embedded, together with those of other requests.

use std::{collections::VecDeque, time::Instant};

use tokio::sync::oneshot;
use wattle_engine::tokens::Token;

use super::{scheduler::Place, steps::Steps};
use crate::{Error, Result, language::Embedded};

/// Texts that wait to be embedded.
#[derive(Default)]
pub(super) struct Embeddings(VecDeque<Embedding>);

/// The texts of one request.
pub(super) struct Embedding {
    pub(super) texts: Vec<Vec<Token>>,
    pub(super) done: Embedded,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Embedded>>,
    pub(super) _places: Option<(Place, Option<Place>)>,
}

impl Embeddings {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, embedding: Embedding) {
        self.0.push_back(embedding);
    }

    pub(super) fn drop_those_who_left(&mut self, now: Instant) {
        // Whoever is late is told so by the closing of what it waits on.
        let late = |embedding: &Embedding| embedding.deadline.is_some_and(|deadline| deadline <= now);
        self.0.retain(|embedding| !embedding.reply.is_closed() && !late(embedding));
    }

    /// The texts that are next, no more than so many tokens but at least one: each request's in turn.
    fn next(&self, most_tokens: usize) -> Vec<(usize, usize)> {
        let mut next: Vec<(usize, usize)> = Vec::new();
        let mut tokens = 0;
        for (index, embedding) in self.0.iter().enumerate() {
            for (text, its) in embedding.texts.iter().enumerate().skip(embedding.done.vectors.len()) {
                tokens += its.len();
                if tokens > most_tokens && !next.is_empty() {
                    return next;
                }
                next.push((index, text));
            }
        }
        next
    }
}

impl Steps {
    /// Embeds as many texts as there is time for, while answers grow.
    pub(super) fn embed(&mut self) {
        if self.embeddings.is_empty() {
            return;
        }
        let most = match self.running.is_empty() {
            true => usize::MAX,
            false => self.pace.prompt_tokens(0, self.settings.max_inter_token.as_secs_f64()).max(0.0) as usize,
        };
        let next = self.embeddings.next(most.min(self.limits.batch_tokens as usize));
        let texts: Vec<&[Token]> =
            next.iter().map(|(index, text)| self.embeddings.0[*index].texts[*text].as_slice()).collect();
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let before = self.clock.cpu_seconds();
        let result = self.engine.embed(&texts);
        let cpu_seconds = (self.clock.cpu_seconds() - before).max(0.0);
        self.statistics.embedded_texts += texts.len() as u64;
        self.statistics.prompt_tokens += tokens as u64;
        let width = self.limits.embedding as usize;
        match result {
            Ok(values) if width > 0 && values.len() == width * next.len() => {
                for ((index, text), values) in next.into_iter().zip(values.chunks_exact(width)) {
                    let embedding = &mut self.embeddings.0[index];
                    let length = embedding.texts[text].len();
                    embedding.done.vectors.push(normalised(values));
                    embedding.done.tokens.push(length as u32);
                    embedding.done.cpu_seconds += cpu_seconds * length as f64 / tokens.max(1) as f64;
                }
            }
            result => {
                let error = match result {
                    Err(wattle_engine::Error::InvalidInput(reason)) => Error::Invalid(reason),
                    Err(error) => Error::Run(error.to_string()),
                    Ok(_) => Error::Internal("the engine gave other embeddings than it was asked for".into()),
                };
                // Which text it was is not known, so all who had one in it are told.
                let mut asked: Vec<usize> = next.into_iter().map(|(index, _)| index).collect();
                asked.dedup();
                for index in asked.into_iter().rev() {
                    if let Some(embedding) = self.embeddings.0.remove(index) {
                        let _ = embedding.reply.send(Err(error.clone()));
                    }
                }
                return;
            }
        }
        while self.embeddings.0.front().is_some_and(|first| first.done.vectors.len() == first.texts.len()) {
            let Some(Embedding { done, reply, .. }) = self.embeddings.0.pop_front() else { return };
            // Whoever left needs none.
            let _ = reply.send(Ok(done));
        }
    }
}

/// The same direction with length 1.
fn normalised(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    values.iter().map(|value| if length > 0.0 { (f64::from(*value) / length) as f32 } else { 0.0 }).collect()
}
