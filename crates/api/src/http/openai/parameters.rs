//! What chats and completions are asked alike: how tokens are chosen, and how much.

use std::collections::BTreeMap;

use serde::Deserialize;
use wattle_serve::language::{Constraint, Generate, Prompt, Sampling};

use crate::{ApiError, Result};

/// The parameters; what is absent has no effect.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Parameters {
    pub(super) n: Option<u32>,
    pub(super) best_of: Option<u32>,
    pub(super) max_tokens: Option<u32>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) stop: Option<Stop>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    seed: Option<i64>,
    logit_bias: Option<BTreeMap<String, f32>>,
    ignore_eos: Option<bool>,
    pub(super) guided_regex: Option<String>,
    pub(super) guided_grammar: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct StreamOptions {
    include_usage: Option<bool>,
}

impl Parameters {
    /// Whether the answer comes in pieces.
    pub(super) fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether the pieces end with what the call took.
    pub(super) fn tells_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The request for answers to this prompt. What its numbers may be is the scheduler's to say.
    ///
    /// # Errors
    /// For what has no meaning in this protocol; the message names it.
    pub(super) fn generate(
        &self,
        prompt: Prompt,
        constraint: Constraint,
        further_stops: Vec<String>,
        logprobs: Option<u32>,
    ) -> Result<Generate> {
        let choices = self.n.unwrap_or(1);
        let best_of = self.best_of.unwrap_or(choices);
        if best_of > choices && self.is_streamed() {
            return Err(ApiError::invalid("best_of cannot be streamed: which answers are best is known at the end"));
        }
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        if max_tokens == Some(0) {
            return Err(ApiError::invalid("max_tokens must be at least 1"));
        }
        let mut stop = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text.clone()],
            Some(Stop::Several(texts)) => texts.clone(),
        };
        stop.retain(|text| !text.is_empty());
        stop.extend(further_stops);
        let ignore_end = self.ignore_eos.unwrap_or(false);
        let sampling = self.sampling()?;
        Ok(Generate { prompt, choices, best_of, max_tokens, stop, ignore_end, sampling, constraint, logprobs })
    }

    fn sampling(&self) -> Result<Sampling> {
        let plain = Sampling::default();
        // -1 means all in other servers.
        let top_k = self.top_k.unwrap_or(0).max(0);
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(plain.temperature),
            top_k: u32::try_from(top_k).map_err(|_| ApiError::invalid("top_k is too large"))?,
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            typical_p: self.typical_p.unwrap_or(plain.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(plain.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(plain.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(plain.presence_penalty),
            penalty_window: plain.penalty_window,
            logit_bias: self.logit_bias()?,
            seed: self.seed.map(i64::cast_unsigned),
        })
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>> {
        let wrong = || ApiError::invalid("logit_bias maps numbers of tokens to biases, as in {\"50256\": -100}");
        let biases = self.logit_bias.iter().flatten();
        biases.map(|(token, bias)| Ok((token.parse().map_err(|_| wrong())?, *bias))).collect()
    }
}
