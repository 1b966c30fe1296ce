//! What chats and completions are asked alike: how tokens are chosen, and how much.

use std::collections::BTreeMap;

use serde::Deserialize;
use wattle_serve::language::{Constraint, Generate, Prompt, Sampling};

use crate::{ApiError, Result};

/// The most answers to one prompt.
const MAX_CHOICES: u32 = 128;
/// The most stop strings, and bytes of one.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
/// The most biased tokens.
const MAX_BIASES: usize = 4096;

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
    temperature: Option<f32>,
    top_p: Option<f32>,
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

    /// The request for answers to this prompt.
    ///
    /// # Errors
    /// If a parameter is out of its range; the message names it.
    pub(super) fn generate(
        &self,
        prompt: Prompt,
        constraint: Constraint,
        further_stops: Vec<String>,
        logprobs: Option<u32>,
    ) -> Result<Generate> {
        let choices = whole("n", self.n.unwrap_or(1), 1, MAX_CHOICES)?;
        let best_of = whole("best_of", self.best_of.unwrap_or(choices), choices, MAX_CHOICES)?;
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
        if stop.len() > MAX_STOPS || stop.iter().any(|text| text.len() > MAX_STOP_BYTES) {
            let message = format!("stop takes {MAX_STOPS} strings of {MAX_STOP_BYTES} bytes at most");
            return Err(ApiError::invalid(message));
        }
        stop.extend(further_stops);
        let ignore_end = self.ignore_eos.unwrap_or(false);
        Ok(Generate {
            prompt,
            choices,
            best_of,
            max_tokens,
            stop,
            ignore_end,
            sampling: self.sampling()?,
            constraint,
            logprobs: logprobs.map(|count| whole("logprobs", count, 0, 20)).transpose()?,
        })
    }

    fn sampling(&self) -> Result<Sampling> {
        let plain = Sampling::default();
        // -1 means all in other servers.
        let top_k = self.top_k.unwrap_or(0).max(0);
        Ok(Sampling {
            temperature: number("temperature", self.temperature, plain.temperature, 0.0, 100.0)?,
            top_k: u32::try_from(top_k).map_err(|_| ApiError::invalid("top_k is too large"))?,
            top_p: number("top_p", self.top_p, plain.top_p, 0.0, 1.0)?,
            min_p: number("min_p", self.min_p, plain.min_p, 0.0, 1.0)?,
            typical_p: number("typical_p", self.typical_p, plain.typical_p, 0.0, 1.0)?,
            repetition_penalty: number(
                "repetition_penalty",
                self.repetition_penalty,
                plain.repetition_penalty,
                f32::MIN_POSITIVE,
                100.0,
            )?,
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, plain.frequency_penalty, -2.0, 2.0)?,
            presence_penalty: number("presence_penalty", self.presence_penalty, plain.presence_penalty, -2.0, 2.0)?,
            penalty_window: plain.penalty_window,
            logit_bias: self.logit_bias()?,
            seed: self.seed.map(i64::cast_unsigned),
        })
    }

    fn logit_bias(&self) -> Result<Vec<(u32, f32)>> {
        let biases = self.logit_bias.iter().flatten();
        if biases.clone().count() > MAX_BIASES {
            return Err(ApiError::invalid(format!("logit_bias takes {MAX_BIASES} tokens at most")));
        }
        biases
            .map(|(token, bias)| match token.parse() {
                Ok(token) if (-100.0..=100.0).contains(bias) => Ok((token, *bias)),
                Ok(_) => Err(ApiError::invalid("a logit_bias must be from -100 to 100")),
                Err(_) => {
                    Err(ApiError::invalid("logit_bias maps numbers of tokens to biases, as in {\"50256\": -100}"))
                }
            })
            .collect()
    }
}

fn number(name: &str, value: Option<f32>, plain: f32, least: f32, most: f32) -> Result<f32> {
    let value = value.unwrap_or(plain);
    match (least..=most).contains(&value) {
        true => Ok(value),
        false if least == f32::MIN_POSITIVE => {
            Err(ApiError::invalid(format!("{name} must be above 0 and at most {most}")))
        }
        false => Err(ApiError::invalid(format!("{name} must be from {least} to {most}"))),
    }
}

fn whole(name: &str, value: u32, least: u32, most: u32) -> Result<u32> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(ApiError::invalid(format!("{name} must be from {least} to {most}"))),
    }
}
