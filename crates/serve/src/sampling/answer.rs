use std::sync::Arc;

use llguidance::Matcher;
use wattle_engine::tokens::{Token, Vocabulary};

use super::{
    Words,
    choose::Chooser,
    constrain::refused,
    probability::{likeliest, log_sum},
    text::Text,
};
use crate::{
    Error, Result,
    language::{Advance, Alternative, Answer, Chosen, FinishReason, Generate},
};

/// An answer that is sampled from the model's probabilities.
pub(super) struct Sampled {
    vocabulary: Arc<dyn Vocabulary>,
    chooser: Chooser,
    constraint: Option<Matcher>,
    text: Text,
    prompt: Vec<Token>,
    tokens: Vec<Token>,
    /// Tokens that are never chosen.
    banned: Vec<Token>,
    logprobs: Option<u32>,
    /// Whether the answer's own probability is wanted.
    sums: bool,
    logprob: f64,
}

impl Sampled {
    pub(super) fn new(
        request: &Generate,
        prompt: &[Token],
        words: &Words,
        seed: u64,
        constraint: Option<Matcher>,
    ) -> Sampled {
        let window = request.sampling.penalty_window as usize;
        Sampled {
            vocabulary: Arc::clone(words.vocabulary()),
            chooser: Chooser::new(request.sampling.clone(), seed),
            constraint,
            text: Text::new(request.stop.clone()),
            prompt: prompt[prompt.len().saturating_sub(window)..].to_vec(),
            tokens: Vec::new(),
            banned: if request.ignore_end { words.ends().to_vec() } else { Vec::new() },
            logprobs: request.logprobs,
            sums: request.best_of > request.choices,
            logprob: 0.0,
        }
    }

    fn told(&self, token: Token) -> Vec<u8> {
        let bytes = self.vocabulary.bytes(token, true);
        if self.vocabulary.is_special(token) { bytes } else { self.vocabulary.bytes(token, false) }
    }

    fn chosen(&self, token: Token, logprob: f64, likeliest: Vec<(Token, f32)>, sum: f64) -> Chosen {
        let alternative = |(token, logit): (Token, f32)| Alternative {
            token,
            bytes: self.told(token),
            logprob: (f64::from(logit) - sum) as f32,
        };
        Chosen {
            token,
            bytes: self.told(token),
            logprob: logprob as f32,
            alternatives: likeliest.into_iter().map(alternative).collect(),
        }
    }
}

impl Answer for Sampled {
    fn advance(&mut self, logits: &mut [f32]) -> Result<Advance> {
        let wanted = self.logprobs.is_some() || self.sums;
        // The probabilities are those of the model, before anything is taken away from them.
        let sum = if wanted { log_sum(logits) } else { 0.0 };
        let alternatives = self.logprobs.map_or_else(Vec::new, |count| likeliest(logits, count as usize));
        let raw = if wanted { logits.to_vec() } else { Vec::new() };
        for token in &self.banned {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if let Some(matcher) = &mut self.constraint {
            let mask = match matcher.compute_mask_or_eos() {
                Ok(mask) => mask,
                Err(_) => return Err(refused(matcher)),
            };
            let count = logits.len();
            mask.iter_unset_entries(|token| {
                if token < count {
                    logits[token] = f32::NEG_INFINITY;
                }
            });
        }
        let token = self.chooser.choose(logits, &self.prompt, &self.tokens).ok_or_else(|| match &self.constraint {
            Some(_) => Error::Invalid("the answer's form leaves no token to go on with".into()),
            None => Error::Run("the model gave no usable logits: its file may be damaged".into()),
        })?;
        let logprob = raw.get(token as usize).map_or(0.0, |logit| f64::from(*logit) - sum);
        self.logprob += logprob;
        self.tokens.push(token);
        let mut stops = false;
        if let Some(matcher) = &mut self.constraint {
            if matcher.consume_token(token).is_err() {
                return Err(refused(matcher));
            }
            stops = matcher.is_stopped();
        }
        let is_end = self.vocabulary.is_end(token);
        let (mut text, stop) = match is_end {
            true => (String::new(), None),
            false => self.text.push(&self.vocabulary.bytes(token, false)),
        };
        let finished = match stop {
            Some(stop) => Some(FinishReason::Stop(stop)),
            None if is_end || stops => Some(FinishReason::End),
            None => None,
        };
        if finished == Some(FinishReason::End) {
            text.push_str(&self.text.rest());
        }
        let chosen = self.logprobs.filter(|_| !is_end).map(|_| self.chosen(token, logprob, alternatives, sum));
        Ok(Advance { token, text, chosen, finished })
    }

    fn rest(&mut self) -> String {
        self.text.rest()
    }

    fn logprob(&self) -> f64 {
        self.logprob
    }
}
