//! The pieces of an answer as a chat's completion: whole, or in chunks.

use serde_json::{Map, Value, json};
use wattle_serve::language::{Alternative, Chosen, Piece, TokenUsage};

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
    fn take(&mut self, text: &str, chosen: &[Chosen], count: u32) -> Vec<Delta> {
        if let Some(tokens) = &mut self.tokens {
            tokens.extend(chosen.iter().map(token));
        }
        self.reader.read(text, count)
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
                return (0..self.choices.len()).map(|index| self.chunk(index, &delta, &Value::Null)).collect();
            }
            Piece::Text { choice, text, tokens, count } => {
                let Some(grown) = self.choices.get_mut(choice as usize) else { return Vec::new() };
                (choice, grown.take(&text, &tokens, count))
            }
            Piece::Ended { choice, reason } => {
                let Some(ended) = self.choices.get_mut(choice as usize) else { return Vec::new() };
                (choice, ended.reader.end(reason))
            }
            Piece::Done(_) if !self.tells_usage => return Vec::new(),
            Piece::Done(took) => {
                let mut chunk = self.frame(&json!([]));
                chunk["usage"] = told_usage(&took, self.choices.iter());
                return vec![chunk];
            }
        };
        let index = choice as usize;
        deltas
            .into_iter()
            .map(|delta| match delta {
                Delta::Text(text) => self.chunk(index, &json!({"content": text}), &Value::Null),
                Delta::Reasoning(text) => self.chunk(index, &json!({"reasoning_content": text}), &Value::Null),
                Delta::CallBegun { index: call, id, name } => {
                    let function = json!({"name": name, "arguments": ""});
                    let call = json!({"index": call, "id": id, "type": "function", "function": function});
                    self.chunk(index, &json!({"tool_calls": [call]}), &Value::Null)
                }
                Delta::CallArguments { index: call, text } => {
                    let call = json!({"index": call, "function": {"arguments": text}});
                    self.chunk(index, &json!({"tool_calls": [call]}), &Value::Null)
                }
                Delta::Ended(ending) => self.chunk(index, &json!({}), &finish(&ending).into()),
            })
            .collect()
    }

    fn chunk(&mut self, index: usize, delta: &Value, finish: &Value) -> Value {
        let tokens = self.choices[index].tokens.as_mut().map(std::mem::take).filter(|tokens| !tokens.is_empty());
        self.frame(&json!([{
            "index": index,
            "delta": delta,
            "logprobs": logprobs(tokens),
            "finish_reason": finish,
        }]))
    }

    fn frame(&self, choices: &Value) -> Value {
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
            Piece::Text { choice, text, tokens, count } => {
                if let Some((choice, gathered)) = self.choices.get_mut(choice as usize) {
                    gathered.add(choice.take(&text, &tokens, count));
                }
            }
            Piece::Ended { choice, reason } => {
                if let Some((choice, gathered)) = self.choices.get_mut(choice as usize) {
                    gathered.add(choice.reader.end(reason));
                }
            }
            Piece::Done(took) => self.usage = told_usage(&took, self.choices.iter().map(|(choice, _)| choice)),
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
        let content =
            if self.text.is_empty() && !self.calls.is_empty() { Value::Null } else { self.text.clone().into() };
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

/// What it took, with how much of that was thought.
fn told_usage<'a>(took: &TokenUsage, choices: impl Iterator<Item = &'a Choice>) -> Value {
    let mut told = usage(took);
    let reasoning_tokens: u32 = choices.map(|choice| choice.reader.reasoning_tokens()).sum();
    told["completion_tokens_details"] = json!({"reasoning_tokens": reasoning_tokens});
    told
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

pub(super) fn token(chosen: &Chosen) -> Value {
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

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_core::{Energy, Label, LanguageModel};
    use wattle_serve::language::FinishReason;

    use super::*;
    use crate::language::{Conversation, Message, Role, Template, Tool};

    pub(in crate::http::openai) fn reading() -> Reading {
        let template = "{{ messages }}{{ tools }}<tool_call>{% if false %}</think>{% endif %}";
        let model = LanguageModel {
            architecture: "llama".into(),
            title: None,
            parameters: 1,
            weights: "f16".into(),
            context_tokens: 1024,
            width: 8,
            layers: 1,
            vocabulary: 32,
            cache_bytes_per_token: 8,
            embeds: false,
            chat_template: Some(template.into()),
            beginning: None,
            end: None,
        };
        let conversation = Conversation {
            messages: vec![Message::plain(Role::User, "Hi")],
            tools: vec![Tool { name: "time".into(), description: None, parameters: json!({"type": "object"}) }],
            parallel_calls: true,
            ..Conversation::default()
        };
        Template::of(&model).unwrap().render(&conversation).unwrap().reading
    }

    fn pieces() -> Vec<Piece> {
        let text = |text: &str| Piece::Text { choice: 0, text: text.into(), tokens: Vec::new(), count: 2 };
        let energy =
            Energy { joules_low: 1.0, joules: 2.0, joules_high: 3.0, label: Label::Estimated, source: "m".into() };
        let took = TokenUsage {
            prompt_tokens: 5,
            cached_tokens: 2,
            completion_tokens: 7,
            cpu_seconds: 0.5,
            energy: Some(energy),
        };
        vec![
            Piece::Begun { prompt_tokens: 5, cached_tokens: 2 },
            text("<think>hm"),
            text("</think>yes <tool_call>{\"name\": \"time\", \"argum"),
            text("ents\": {\"a\":"),
            text(" 1}}</tool_call>"),
            Piece::Ended { choice: 0, reason: FinishReason::End },
            Piece::Done(took),
        ]
    }

    #[test]
    fn a_whole_answer_has_its_parts() {
        let mut whole = Whole::new("m", &reading(), 1, false);
        pieces().into_iter().for_each(|piece| whole.take(piece));
        let told = whole.finish();
        assert_eq!(told["object"], "chat.completion");
        let choice = &told["choices"][0];
        let message = &choice["message"];
        assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("yes "), &json!("hm")));
        assert_eq!(message["tool_calls"][0]["function"], json!({"name": "time", "arguments": "{\"a\": 1}"}));
        assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("tool_calls"), &Value::Null));
        let usage = json!({
            "prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 4},
            "energy": {"joules": {"low": 1.0, "mid": 2.0, "high": 3.0}, "label": "estimated", "source": "m"}
        });
        assert_eq!(told["usage"], usage);
    }

    #[test]
    fn chunks_add_up_to_the_answer() {
        let mut chunks = Chunks::new("m", &reading(), 1, false, true);
        let all: Vec<Value> = pieces().into_iter().flat_map(|piece| chunks.take(piece)).collect();
        assert_eq!(all[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        assert!(all.iter().all(|chunk| chunk["id"] == all[0]["id"] && chunk["object"] == "chat.completion.chunk"));
        let joined = |pointer: &str| {
            let parts = all.iter().filter_map(|chunk| chunk.pointer(pointer).and_then(Value::as_str));
            parts.collect::<String>()
        };
        assert_eq!(joined("/choices/0/delta/content"), "yes ");
        assert_eq!(joined("/choices/0/delta/reasoning_content"), "hm");
        assert_eq!(joined("/choices/0/delta/tool_calls/0/function/name"), "time");
        assert_eq!(joined("/choices/0/delta/tool_calls/0/function/arguments"), "{\"a\": 1}");
        assert_eq!(joined("/choices/0/finish_reason"), "tool_calls");
        let last = all.last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(12)));
        assert!(all[..all.len() - 1].iter().all(|chunk| chunk["usage"].is_null()));
    }

    #[test]
    fn the_probabilities_of_tokens_whose_text_is_held_back_come_with_the_next_chunk() {
        let mut chunks = Chunks::new("m", &reading(), 1, true, false);
        let piece = |text: &str| Piece::Text {
            choice: 0,
            text: text.into(),
            tokens: vec![Chosen { token: 1, bytes: text.into(), logprob: f32::NEG_INFINITY, alternatives: Vec::new() }],
            count: 1,
        };
        assert!(chunks.take(piece("<tool")).is_empty());
        let told = chunks.take(piece("box"));
        let content = &told[0]["choices"][0]["logprobs"]["content"];
        assert_eq!(content.as_array().unwrap().len(), 2);
        assert_eq!((&content[0]["token"], &content[0]["logprob"]), (&json!("<tool"), &json!(-9999.0)));
    }
}
