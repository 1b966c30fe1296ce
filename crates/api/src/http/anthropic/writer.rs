//! The pieces of an answer as a message: its events, and the whole.

use serde_json::{Map, Value, json};
use wattle_serve::language::{Piece, TokenUsage};

use crate::{
    http::language::energy_json,
    language::{Delta, Ending, Reader, Reading},
};

/// Makes events of pieces, and gathers the message.
pub(super) struct Writer {
    id: String,
    model: String,
    reader: Reader,
    /// What the caller has the answer end before; other stop strings are the template's.
    stops: Vec<String>,
    content: Vec<Block>,
    ending: Option<Ending>,
    usage: TokenUsage,
}

enum Block {
    Text(String),
    Thinking(String),
    Tool { id: String, name: String, input: String },
}

impl Writer {
    pub(super) fn new(model: &str, reading: &Reading, stops: Vec<String>) -> Writer {
        Writer {
            id: format!("msg_{}", uuid::Uuid::now_v7().simple()),
            model: model.to_owned(),
            reader: reading.begin(),
            stops,
            content: Vec::new(),
            ending: None,
            usage: TokenUsage::default(),
        }
    }

    /// The events that a piece makes.
    pub(super) fn take(&mut self, piece: Piece) -> Vec<Value> {
        let mut events = Vec::new();
        match piece {
            Piece::Begun { prompt_tokens, cached_tokens } => {
                self.usage = TokenUsage { prompt_tokens, cached_tokens, ..TokenUsage::default() };
                events.push(json!({"type": "message_start", "message": self.message()}));
                events.push(json!({"type": "ping"}));
            }
            Piece::Text { text, .. } => {
                let deltas = self.reader.take(&text);
                deltas.into_iter().for_each(|delta| self.grow(delta, &mut events));
            }
            Piece::Ended { reason, .. } => {
                let deltas = self.reader.end(reason);
                deltas.into_iter().for_each(|delta| self.grow(delta, &mut events));
                self.close(&mut events);
            }
            Piece::Done(usage) => {
                self.usage = usage;
                let (reason, sequence) = self.stop();
                let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
                events.push(json!({"type": "message_delta", "delta": delta, "usage": self.told_usage()}));
                events.push(json!({"type": "message_stop"}));
            }
        }
        events
    }

    /// The message as far as it is known.
    pub(super) fn message(&self) -> Value {
        let (reason, sequence) = self.stop();
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": self.content.iter().map(Block::json).collect::<Value>(),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self.told_usage(),
        })
    }

    fn grow(&mut self, delta: Delta, events: &mut Vec<Value>) {
        let delta = match delta {
            Delta::Text(more) => {
                if !matches!(self.content.last(), Some(Block::Text(_))) {
                    self.open(Block::Text(String::new()), events);
                }
                if let Some(Block::Text(text)) = self.content.last_mut() {
                    *text += &more;
                }
                json!({"type": "text_delta", "text": more})
            }
            Delta::Reasoning(more) => {
                if !matches!(self.content.last(), Some(Block::Thinking(_))) {
                    self.open(Block::Thinking(String::new()), events);
                }
                if let Some(Block::Thinking(text)) = self.content.last_mut() {
                    *text += &more;
                }
                json!({"type": "thinking_delta", "thinking": more})
            }
            Delta::CallBegun { id, name, .. } => {
                self.open(Block::Tool { id, name, input: String::new() }, events);
                return;
            }
            Delta::CallArguments { text, .. } => {
                if let Some(Block::Tool { input, .. }) = self.content.last_mut() {
                    *input += &text;
                }
                json!({"type": "input_json_delta", "partial_json": text})
            }
            Delta::Ended(ending) => {
                self.ending = Some(ending);
                return;
            }
        };
        if let Some(index) = self.content.len().checked_sub(1) {
            events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
    }

    fn open(&mut self, block: Block, events: &mut Vec<Value>) {
        self.close(events);
        events.push(json!({
            "type": "content_block_start",
            "index": self.content.len(),
            "content_block": block.json(),
        }));
        self.content.push(block);
    }

    fn close(&self, events: &mut Vec<Value>) {
        if let Some(index) = self.content.len().checked_sub(1) {
            events.push(json!({"type": "content_block_stop", "index": index}));
        }
    }

    fn stop(&self) -> (Option<&'static str>, Option<&str>) {
        match &self.ending {
            None => (None, None),
            Some(Ending::StopString(stop)) if self.stops.contains(stop) => (Some("stop_sequence"), Some(stop)),
            Some(Ending::Stop | Ending::StopString(_)) => (Some("end_turn"), None),
            Some(Ending::Length) => (Some("max_tokens"), None),
            Some(Ending::ToolCalls) => (Some("tool_use"), None),
        }
    }

    fn told_usage(&self) -> Value {
        let usage = &self.usage;
        let mut told = json!({
            "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        });
        if usage.energy.is_some() {
            told["energy"] = energy_json(usage.energy.as_ref());
        }
        told
    }
}

impl Block {
    fn json(&self) -> Value {
        match self {
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Thinking(text) => json!({"type": "thinking", "thinking": text, "signature": ""}),
            Block::Tool { id, name, input } => {
                // Arguments that were cut off are no JSON: the stop reason says that they are not whole.
                let input: Map<String, Value> = serde_json::from_str(input).unwrap_or_default();
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }
}
