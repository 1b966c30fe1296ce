//! Which token follows: penalties, then what narrows the choice, then the temperature, in llama.cpp's order.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use wattle_engine::tokens::Token;

use super::probability::{first, likeliest};
use crate::language::Sampling;

/// So many of the likeliest are sorted first: mostly they are enough.
const SORTED_FIRST: usize = 256;

/// Chooses one token after another.
pub(super) struct Chooser {
    sampling: Sampling,
    random: ChaCha8Rng,
    candidates: Vec<(Token, f32)>,
    weights: Vec<f64>,
}

impl Chooser {
    pub(super) fn new(sampling: Sampling, seed: u64) -> Chooser {
        Chooser { sampling, random: ChaCha8Rng::seed_from_u64(seed), candidates: Vec::new(), weights: Vec::new() }
    }

    /// The token that follows `prompt` and `answer`; nothing if no logit is finite. The logits are changed.
    pub(super) fn choose(&mut self, logits: &mut [f32], prompt: &[Token], answer: &[Token]) -> Option<Token> {
        self.penalise(logits, prompt, answer);
        for (token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if self.sampling.temperature == 0.0 {
            return greatest(logits);
        }
        self.narrow(logits);
        self.draw()
    }

    fn penalise(&self, logits: &mut [f32], prompt: &[Token], answer: &[Token]) {
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, penalty_window, .. } = self.sampling;
        let window = penalty_window as usize;
        let recent = &answer[answer.len().saturating_sub(window)..];
        if repetition_penalty != 1.0 {
            let before = &prompt[prompt.len().saturating_sub(window - recent.len())..];
            let mut seen: Vec<Token> = before.iter().chain(recent).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
                }
            }
        }
        if frequency_penalty != 0.0 || presence_penalty != 0.0 {
            let mut seen = recent.to_vec();
            seen.sort_unstable();
            for same in seen.chunk_by(|one, other| one == other) {
                if let Some(logit) = logits.get_mut(same[0] as usize) {
                    *logit -= frequency_penalty * same.len() as f32 + presence_penalty;
                }
            }
        }
    }

    /// Leaves those tokens to choose from that the settings allow.
    fn narrow(&mut self, logits: &[f32]) {
        let Sampling { top_k, top_p, min_p, typical_p, .. } = self.sampling;
        self.candidates = match top_k {
            0 => (0..).zip(logits.iter().copied()).collect(),
            count => likeliest(logits, count as usize),
        };
        self.candidates.retain(|one| one.1 > f32::NEG_INFINITY);
        if typical_p < 1.0 {
            self.keep_typical(f64::from(typical_p));
        }
        if top_p < 1.0 {
            self.keep_top(f64::from(top_p));
        }
        if min_p > 0.0 {
            let most = self.candidates.iter().map(|one| one.1).fold(f32::NEG_INFINITY, f32::max);
            let least = most + min_p.ln();
            self.candidates.retain(|one| one.1 >= least);
        }
    }

    /// The likeliest that together have this probability.
    fn keep_top(&mut self, top_p: f64) {
        let total = self.weigh(1.0);
        let mut sorted = self.candidates.clone();
        first(&mut sorted, SORTED_FIRST);
        let most = sorted.first().map_or(0.0, |one| f64::from(one.1));
        let count = |sorted: &[(Token, f32)]| {
            let mut sum = 0.0;
            sorted.iter().position(|one| {
                sum += (f64::from(one.1) - most).exp() / total;
                sum >= top_p
            })
        };
        let last = count(&sorted).or_else(|| {
            sorted.clone_from(&self.candidates);
            first(&mut sorted, usize::MAX);
            count(&sorted)
        });
        if let Some(last) = last {
            sorted.truncate(last + 1);
        }
        self.candidates = sorted;
    }

    /// Those whose surprise is closest to the expected one, that together have this probability.
    fn keep_typical(&mut self, typical_p: f64) {
        let total = self.weigh(1.0);
        let probability = |weight: f64| weight / total;
        let surprise = |weight: f64| -probability(weight).max(f64::MIN_POSITIVE).ln();
        let expected: f64 = self.weights.iter().map(|weight| probability(*weight) * surprise(*weight)).sum();
        let mut order: Vec<usize> = (0..self.candidates.len()).collect();
        let shift = |index: &usize| (surprise(self.weights[*index]) - expected).abs();
        order.sort_by(|one, other| shift(one).total_cmp(&shift(other)));
        let mut sum = 0.0;
        let last = order.iter().position(|index| {
            sum += probability(self.weights[*index]);
            sum >= typical_p
        });
        order.truncate(last.map_or(order.len(), |last| last + 1));
        self.candidates = order.into_iter().map(|index| self.candidates[index]).collect();
    }

    /// Draws one of the candidates by its probability.
    fn draw(&mut self) -> Option<Token> {
        let total = self.weigh(1.0 / f64::from(self.sampling.temperature));
        // 53 bits are what a number between 0 and 1 has.
        let mut left = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        for (candidate, weight) in self.candidates.iter().zip(&self.weights) {
            left -= weight;
            if left < 0.0 {
                return Some(candidate.0);
            }
        }
        self.candidates.iter().max_by(|one, other| one.1.total_cmp(&other.1)).map(|one| one.0)
    }

    /// Weighs the candidates by the exponentials of their logits, the greatest of which weighs 1; the sum.
    fn weigh(&mut self, scale: f64) -> f64 {
        let most = self.candidates.iter().map(|one| one.1).fold(f32::NEG_INFINITY, f32::max);
        let weight = |one: &(Token, f32)| if one.1 == most { 1.0 } else { (f64::from(one.1 - most) * scale).exp() };
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(weight));
        self.weights.iter().sum()
    }
}

/// The token of the greatest logit, the lowest of equal ones.
fn greatest(logits: &[f32]) -> Option<Token> {
    let mut best = (None, f32::NEG_INFINITY);
    for (token, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (Some(token as Token), *logit);
        }
    }
    best.0
}
