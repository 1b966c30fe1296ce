//! A call of a language model: what a caller asks, what comes back piece by piece, and what stands between the two.

use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use wattle_core::Energy;
use wattle_engine::tokens::Token;

use crate::Result;

/// What the model continues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// A text. With `special`, the names of special tokens in it mean these tokens: a rendered template, not what users
    /// wrote.
    Text {
        /// The text.
        text: String,
        /// Whether names of special tokens are special.
        special: bool,
    },
    /// Tokens as they are.
    Tokens(Vec<Token>),
}

/// A request for answers to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// What is continued.
    pub prompt: Prompt,
    /// How many answers are told, at least 1.
    pub choices: u32,
    /// How many are computed, of which the likeliest are told; at least `choices`. More than those are not told before
    /// all have ended.
    pub best_of: u32,
    /// The most tokens of an answer; what the context leaves when absent.
    pub max_tokens: Option<u32>,
    /// An answer ends before the first of these.
    pub stop: Vec<String>,
    /// Whether an answer goes on past the model's end to `max_tokens`, for measurements.
    pub ignore_end: bool,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the answer must be.
    pub constraint: Constraint,
    /// Whether the probability of every token is told, and of how many alternatives.
    pub logprobs: Option<u32>,
}

/// How the next token is chosen among all. The fields are OpenAI's and llama.cpp's, and so are their meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Only so many of the likeliest; 0 for all.
    pub top_k: u32,
    /// The likeliest that together have this probability; 1 for all.
    pub top_p: f32,
    /// Only those that have this fraction of the likeliest's probability; 0 for all.
    pub min_p: f32,
    /// Those whose surprise is closest to the expected, that together have this probability; 1 for all (Meister et al.
    /// 2022, "Locally typical sampling").
    pub typical_p: f32,
    /// Divides positive logits of tokens that were there, and multiplies negative ones; 1 for none.
    pub repetition_penalty: f32,
    /// Taken off the logit for each time that a token was there.
    pub frequency_penalty: f32,
    /// Taken off the logit of a token that was there.
    pub presence_penalty: f32,
    /// How many of the last tokens count as having been there, those of the prompt among them for the repetition penalty
    /// alone.
    pub penalty_window: u32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(Token, f32)>,
    /// The same seed gives the same answer; a random one when absent.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    /// OpenAI's: temperature 1, everything else without effect.
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// What an answer must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// Anything.
    #[default]
    None,
    /// A JSON object.
    Json,
    /// JSON by a schema, itself JSON.
    JsonSchema(String),
    /// What a regular expression matches from beginning to end.
    Regex(String),
    /// What a grammar in Lark's form derives.
    Lark(String),
}

/// Answers as they come, piece by piece. Whoever drops it does not want the rest, which is then not computed.
pub type Pieces = BoxStream<'static, Result<Piece>>;

/// A part of what comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    /// The prompt was read; comes first, once.
    Begun {
        /// Its tokens.
        prompt_tokens: u32,
        /// Those of them that did not have to be computed.
        cached_tokens: u32,
    },
    /// An answer grew. The text is never cut within a character, and holds nothing of a stop string.
    Text {
        /// Which answer, from 0.
        choice: u32,
        /// What it grew by; may be empty where tokens are told.
        text: String,
        /// The tokens, where probabilities were asked for.
        tokens: Vec<Chosen>,
        /// How many tokens were chosen since the last piece of this answer.
        count: u32,
    },
    /// An answer ended.
    Ended {
        /// Which.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// All answers ended; comes last, once.
    Done(TokenUsage),
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// The model ended it.
    End,
    /// A stop string came; this one.
    Stop(String),
    /// It has as many tokens as it may, or fills the context.
    Length,
}

/// A token that was chosen, and what else could have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The token.
    pub token: Token,
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability, before the temperature and all that narrows the choice.
    pub logprob: f32,
    /// The likeliest tokens, the likeliest first.
    pub alternatives: Vec<Alternative>,
}

/// A token that could have been chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The token.
    pub token: Token,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// What a request took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that did not have to be computed.
    pub cached_tokens: u32,
    /// Tokens of all answers, also of those that were not told.
    pub completion_tokens: u32,
    /// Processor time, its share of the steps that it was part of.
    pub cpu_seconds: f64,
    /// Energy; whoever has a meter fills it in.
    pub energy: Option<Energy>,
}

/// What texts were embedded as, and what that took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Embedded {
    /// A vector of length 1 for each text.
    pub vectors: Vec<Vec<f32>>,
    /// The tokens of each text.
    pub tokens: Vec<u32>,
    /// Processor time.
    pub cpu_seconds: f64,
    /// Energy; whoever has a meter fills it in.
    pub energy: Option<Energy>,
}

/// An answer as it grows, without the model: the scheduler has the logits computed, and this chooses by them.
///
/// A token that was chosen is never taken back, so that checking a draft (speculative decoding) is to advance along it as
/// long as what is chosen is what was drafted: exact for any way to choose.
pub trait Answer: Send {
    /// Chooses the token that follows, and takes it in. `logits` may be overwritten.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if no token can follow, as by a schema that nothing satisfies.
    fn advance(&mut self, logits: &mut [f32]) -> Result<Advance>;

    /// What was held back so far, for an answer that ends for its length.
    fn rest(&mut self) -> String;

    /// The sum of its tokens' log-probabilities so far, by which the best of several is found.
    fn logprob(&self) -> f64;
}

/// What an answer grew by.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// The token; not part of the answer's text if it ended the answer.
    pub token: Token,
    /// Text that can be told now, as it cannot become part of a stop string or of a cut character any more.
    pub text: String,
    /// The token's probability, where it was asked for.
    pub chosen: Option<Chosen>,
    /// Whether the answer ended with this token.
    pub finished: Option<FinishReason>,
}
