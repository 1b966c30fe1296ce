//! The pieces of answers as a completion of texts: whole, or in chunks.

use serde_json::{Map, Value, json};
use wattle_serve::language::{Chosen, FinishReason, Piece, TokenUsage};

use super::{chat_answer::finite, new_id, now, usage::usage};

/// The answers to all prompts of one call. The choices of the second prompt follow those of the first.
pub(super) struct Completion {
    id: String,
    created: i64,
    model: String,
    /// How many choices each prompt has.
    choices: u32,
    /// What is told before the answers to each prompt.
    echoes: Vec<String>,
    tells_usage: bool,
    usage: TokenUsage,
    open: usize,
    gathered: Vec<Choice>,
}

#[derive(Clone)]
struct Choice {
    text: String,
    tokens: Vec<Chosen>,
    finish: &'static str,
    /// How many characters the told tokens' text has.
    offset: usize,
}

impl Completion {
    pub(super) fn new(model: &str, choices: u32, echoes: Vec<String>, tells_usage: bool) -> Completion {
        let choice = |echo: &String| Choice { text: echo.clone(), tokens: Vec::new(), finish: "stop", offset: 0 };
        let gathered = echoes.iter().flat_map(|echo| vec![choice(echo); choices as usize]).collect();
        Completion {
            id: new_id("cmpl-"),
            created: now(),
            model: model.to_owned(),
            choices,
            open: echoes.len(),
            echoes,
            tells_usage,
            usage: TokenUsage::default(),
            gathered,
        }
    }

    /// Whether all prompts are done.
    pub(super) fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Takes in a piece of the answers to a prompt.
    pub(super) fn gather(&mut self, prompt: usize, piece: Piece) {
        match piece {
            Piece::Begun { .. } => {}
            Piece::Text { choice, text, tokens, .. } => {
                let index = self.index(prompt, choice);
                if let Some(choice) = self.gathered.get_mut(index) {
                    choice.text += &text;
                    choice.tokens.extend(tokens);
                }
            }
            Piece::Ended { choice, reason } => {
                let index = self.index(prompt, choice);
                if let Some(choice) = self.gathered.get_mut(index) {
                    choice.finish = finish(&reason);
                }
            }
            Piece::Done(took) => self.add(&took),
        }
    }

    /// The whole, when everything was gathered.
    pub(super) fn whole(self) -> Value {
        let choices: Vec<Value> = self
            .gathered
            .iter()
            .enumerate()
            .map(|(index, choice)| {
                let logprobs = logprobs(&choice.tokens, &mut 0);
                json!({"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish})
            })
            .collect();
        let mut whole = self.frame(&choices.into());
        whole["usage"] = usage(&self.usage);
        whole
    }

    /// The chunks that a piece of the answers to a prompt makes.
    pub(super) fn chunks(&mut self, prompt: usize, piece: Piece) -> Vec<Value> {
        match piece {
            Piece::Begun { .. } => match self.echoes.get(prompt).filter(|echo| !echo.is_empty()).cloned() {
                None => Vec::new(),
                Some(echo) => {
                    let all = 0..self.choices;
                    all.map(|choice| self.chunk(self.index(prompt, choice), &echo, &Value::Null, &Value::Null))
                        .collect()
                }
            },
            Piece::Text { choice, text, tokens, .. } => {
                let index = self.index(prompt, choice);
                let Some(choice) = self.gathered.get_mut(index) else { return Vec::new() };
                let logprobs = logprobs(&tokens, &mut choice.offset);
                match text.is_empty() && tokens.is_empty() {
                    true => Vec::new(),
                    false => vec![self.chunk(index, &text, &logprobs, &Value::Null)],
                }
            }
            Piece::Ended { choice, reason } => {
                let index = self.index(prompt, choice);
                vec![self.chunk(index, "", &Value::Null, &finish(&reason).into())]
            }
            Piece::Done(took) => {
                self.add(&took);
                match self.tells_usage && self.is_done() {
                    false => Vec::new(),
                    true => {
                        let mut last = self.frame(&json!([]));
                        last["usage"] = usage(&self.usage);
                        vec![last]
                    }
                }
            }
        }
    }

    fn index(&self, prompt: usize, choice: u32) -> usize {
        prompt * self.choices as usize + choice as usize
    }

    fn add(&mut self, took: &TokenUsage) {
        self.open = self.open.saturating_sub(1);
        self.usage.prompt_tokens = self.usage.prompt_tokens.saturating_add(took.prompt_tokens);
        self.usage.cached_tokens = self.usage.cached_tokens.saturating_add(took.cached_tokens);
        self.usage.completion_tokens = self.usage.completion_tokens.saturating_add(took.completion_tokens);
        self.usage.cpu_seconds += took.cpu_seconds;
        match (&mut self.usage.energy, &took.energy) {
            (Some(sum), Some(energy)) => *sum += energy,
            (none, energy) => *none = none.take().or_else(|| energy.clone()),
        }
    }

    fn chunk(&self, index: usize, text: &str, logprobs: &Value, finish: &Value) -> Value {
        let choice = json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish});
        let mut chunk = self.frame(&json!([choice]));
        if self.tells_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn frame(&self, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

fn finish(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::End | FinishReason::Stop(_) => "stop",
        FinishReason::Length => "length",
    }
}

/// The old form of probabilities, in columns; `offset` is where the first token's text begins in the answer's.
fn logprobs(tokens: &[Chosen], offset: &mut usize) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let (mut texts, mut values, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        let text = String::from_utf8_lossy(&token.bytes);
        offsets.push(*offset);
        *offset += text.chars().count();
        let top: Map<String, Value> = token
            .alternatives
            .iter()
            .map(|other| (String::from_utf8_lossy(&other.bytes).into_owned(), finite(other.logprob).into()))
            .collect();
        texts.push(text);
        values.push(finite(token.logprob));
        tops.push(top);
    }
    json!({"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
}
