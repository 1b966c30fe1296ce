//! The pieces of an answer as a chat's completion: whole, or in chunks.

use serde_json::{Map, Value, json};
use wattle_serve::language::{Alternative, Chosen, Piece};

use super::{new_id, now, usage::usage};
use crate::language::{Delta, Ending, Reader, Reading};

/// Makes chunks of pieces.
pub(super) struct Chunks {
    id: String,
    created: i64,
    model: String,
    tells_usage: bool,
    choices: Vec<Choice>,
}

struct Choice {
    reader: Reader,
    /// Tokens that no chunk has told yet, where they are told.
    tokens: Option<Vec<Value>>,
}

impl Choice {
    fn all(reading: &Reading, choices: u32, logprobs: bool) -> Vec<Choice> {
        (0..choices).map(|_| Choice { reader: reading.begin(), tokens: logprobs.then(Vec::new) }).collect()
    }

    /// What a piece of this choice's grows it by.
    fn take(&mut self, text: &str, chosen: &[Chosen]) -> Vec<Delta> {
        if let Some(tokens) = &mut self.tokens {
            tokens.extend(chosen.iter().map(token));
        }
        self.reader.take(text)
    }
}

impl Chunks {
    pub(super) fn new(model: &str, reading: &Reading, choices: u32, logprobs: bool, tells_usage: bool) -> Chunks {
        let choices = Choice::all(reading, choices, logprobs);
        Chunks { id: new_id("chatcmpl-"), created: now(), model: model.to_owned(), tells_usage, choices }
    }

    /// The chunks that a piece makes.
    pub(super) fn take(&mut self, piece: Piece) -> Vec<Value> {
        let (choice, deltas) = match piece {
            Piece::Begun { .. } => {
                let delta = json!({"role": "assistant", "content": ""});
                return (0..self.choices.len()).map(|index| self.chunk(index, &delta, Value::Null)).collect();
            }
            Piece::Text { choice, text, tokens } => {
                let Some(grown) = self.choices.get_mut(choice as usize) else { return Vec::new() };
                (choice, grown.take(&text, &tokens))
            }
            Piece::Ended { choice, reason } => {
                let Some(ended) = self.choices.get_mut(choice as usize) else { return Vec::new() };
                (choice, ended.reader.end(reason))
            }
            Piece::Done(_) if !self.tells_usage => return Vec::new(),
            Piece::Done(took) => {
                let mut chunk = self.frame(json!([]));
                chunk["usage"] = usage(&took);
                return vec![chunk];
            }
        };
        let index = choice as usize;
        deltas
            .into_iter()
            .map(|delta| match delta {
                Delta::Text(text) => self.chunk(index, &json!({"content": text}), Value::Null),
                Delta::Reasoning(text) => self.chunk(index, &json!({"reasoning_content": text}), Value::Null),
                Delta::CallBegun { index: call, id, name } => {
                    let function = json!({"name": name, "arguments": ""});
                    let call = json!({"index": call, "id": id, "type": "function", "function": function});
                    self.chunk(index, &json!({"tool_calls": [call]}), Value::Null)
                }
                Delta::CallArguments { index: call, text } => {
                    let call = json!({"index": call, "function": {"arguments": text}});
                    self.chunk(index, &json!({"tool_calls": [call]}), Value::Null)
                }
                Delta::Ended(ending) => self.chunk(index, &json!({}), finish(&ending).into()),
            })
            .collect()
    }

    fn chunk(&mut self, index: usize, delta: &Value, finish: Value) -> Value {
        let tokens = self.choices[index].tokens.as_mut().map(std::mem::take).filter(|tokens| !tokens.is_empty());
        self.frame(json!([{
            "index": index,
            "delta": delta,
            "logprobs": logprobs(tokens),
            "finish_reason": finish,
        }]))
    }

    fn frame(&self, choices: Value) -> Value {
        let mut frame = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.tells_usage {
            frame["usage"] = Value::Null;
        }
        frame
    }
}

/// Gathers pieces to a whole completion.
pub(super) struct Whole {
    model: String,
    choices: Vec<(Choice, Gathered)>,
    usage: Value,
}

#[derive(Default)]
struct Gathered {
    text: String,
    reasoning: String,
    calls: Vec<(String, String, String)>,
    finish: &'static str,
}

impl Whole {
    pub(super) fn new(model: &str, reading: &Reading, choices: u32, logprobs: bool) -> Whole {
        let choices = Choice::all(reading, choices, logprobs).into_iter().map(|choice| (choice, Gathered::default()));
        Whole { model: model.to_owned(), choices: choices.collect(), usage: Value::Null }
    }

    pub(super) fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Begun { .. } => {}
            Piece::Text { choice, text, tokens } => {
                if let Some((choice, gathered)) = self.choices.get_mut(choice as usize) {
                    gathered.add(choice.take(&text, &tokens));
                }
            }
            Piece::Ended { choice, reason } => {
                if let Some((choice, gathered)) = self.choices.get_mut(choice as usize) {
                    gathered.add(choice.reader.end(reason));
                }
            }
            Piece::Done(took) => self.usage = usage(&took),
        }
    }

    pub(super) fn finish(self) -> Value {
        let choices = self.choices.into_iter().enumerate().map(|(index, (choice, gathered))| {
            json!({
                "index": index,
                "message": gathered.message(),
                "logprobs": logprobs(choice.tokens),
                "finish_reason": gathered.finish,
            })
        });
        json!({
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": now(),
            "model": self.model,
            "choices": choices.collect::<Value>(),
            "usage": self.usage,
        })
    }
}

impl Gathered {
    fn add(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Text(text) => self.text += &text,
                Delta::Reasoning(text) => self.reasoning += &text,
                Delta::CallBegun { id, name, .. } => self.calls.push((id, name, String::new())),
                Delta::CallArguments { text, .. } => {
                    if let Some((_, _, arguments)) = self.calls.last_mut() {
                        *arguments += &text;
                    }
                }
                Delta::Ended(ending) => self.finish = finish(&ending),
            }
        }
    }

    fn message(&self) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), "assistant".into());
        let content = if self.text.is_empty() && !self.calls.is_empty() { Value::Null } else { self.text.clone().into() };
        message.insert("content".into(), content);
        message.insert("refusal".into(), Value::Null);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".into(), self.reasoning.clone().into());
        }
        if !self.calls.is_empty() {
            let calls = self.calls.iter().map(|(id, name, arguments)| {
                json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
            });
            message.insert("tool_calls".into(), calls.collect());
        }
        Value::Object(message)
    }
}

fn finish(ending: &Ending) -> &'static str {
    match ending {
        Ending::Stop | Ending::StopString(_) => "stop",
        Ending::Length => "length",
        Ending::ToolCalls => "tool_calls",
    }
}

fn logprobs(tokens: Option<Vec<Value>>) -> Value {
    tokens.map_or(Value::Null, |tokens| json!({"content": tokens, "refusal": null}))
}

fn token(chosen: &Chosen) -> Value {
    let mut told = one(&chosen.bytes, chosen.logprob);
    let others = |other: &Alternative| one(&other.bytes, other.logprob);
    told["top_logprobs"] = chosen.alternatives.iter().map(others).collect();
    told
}

fn one(bytes: &[u8], logprob: f32) -> Value {
    json!({"token": String::from_utf8_lossy(bytes), "logprob": finite(logprob), "bytes": bytes})
}

/// JSON has no infinity: what cannot be is told as OpenAI tells it.
pub(super) fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
