//! The pieces of an answer as a response: its events, and the whole.

use serde_json::{Map, Value, json};
use wattle_serve::language::{Piece, TokenUsage};

use super::{chat_answer::token, new_id, now};
use crate::{
    ApiError, Code,
    http::language::energy_json,
    language::{Delta, Ending, Reader, Reading},
};

/// Makes events of pieces, and gathers the response.
pub(super) struct Writer {
    id: String,
    created: i64,
    /// What the response tells of its request.
    told: Map<String, Value>,
    reader: Reader,
    items: Vec<Item>,
    /// Tokens of text whose text is still held back, where they are told.
    tokens: Vec<Value>,
    ending: Option<Ending>,
    usage: Option<TokenUsage>,
    /// Of the next event.
    number: u64,
}

/// A part of the output, which has an id.
struct Item {
    id: String,
    kind: Kind,
}

enum Kind {
    Reasoning(String),
    Message { text: String, logprobs: Vec<Value> },
    Call { call_id: String, name: String, arguments: String },
}

impl Writer {
    pub(super) fn new(told: Map<String, Value>, reading: &Reading) -> Writer {
        Writer {
            id: new_id("resp_"),
            created: now(),
            told,
            reader: reading.begin(),
            items: Vec::new(),
            tokens: Vec::new(),
            ending: None,
            usage: None,
            number: 0,
        }
    }

    /// The events that a piece makes.
    pub(super) fn take(&mut self, piece: Piece) -> Vec<Value> {
        let mut events = Vec::new();
        match piece {
            Piece::Begun { .. } => self.begin(&mut events),
            Piece::Text { text, tokens, count, .. } => {
                let thought = self.reader.thinks();
                let deltas = self.reader.read(&text, count);
                if !thought && !self.reader.thinks() {
                    self.tokens.extend(tokens.iter().map(token));
                }
                deltas.into_iter().for_each(|delta| self.grow(delta, &mut events));
            }
            Piece::Ended { reason, .. } => {
                let deltas = self.reader.end(reason);
                deltas.into_iter().for_each(|delta| self.grow(delta, &mut events));
                let is_said = self.items.iter().any(|item| !matches!(item.kind, Kind::Reasoning(_)));
                let is_cut = matches!(self.ending, Some(Ending::Length)) && !self.items.is_empty();
                if !is_said && !is_cut {
                    self.open(Kind::Message { text: String::new(), logprobs: Vec::new() }, &mut events);
                }
                self.close(&mut events);
            }
            Piece::Done(usage) => {
                self.usage = Some(usage);
                let status = self.status();
                let event = json!({"type": format!("response.{status}"), "response": self.response()});
                self.push(event, &mut events);
            }
        }
        events
    }

    /// The events that an error makes: a response that failed, with what there was of it.
    pub(super) fn fail(&mut self, error: &ApiError) -> Vec<Value> {
        let mut events = Vec::new();
        if self.number == 0 {
            self.begin(&mut events);
        }
        let code = if error.code == Code::TooMany { "rate_limit_exceeded" } else { "server_error" };
        let mut response = self.response();
        response["status"] = "failed".into();
        response["error"] = json!({"code": code, "message": error.message});
        let last = response["output"].as_array_mut().and_then(|output| output.last_mut());
        last.into_iter().for_each(|item| item["status"] = "incomplete".into());
        self.push(json!({"type": "response.failed", "response": response}), &mut events);
        events
    }

    /// The response as far as it is known.
    pub(super) fn response(&self) -> Value {
        let cut = matches!(self.ending, Some(Ending::Length));
        let last = self.items.len().saturating_sub(1);
        let item = |(index, item): (usize, &Item)| match &self.ending {
            Some(_) if cut && index == last => item.json("incomplete"),
            None if index == last => item.json("in_progress"),
            _ => item.json("completed"),
        };
        let mut response = Value::Object(self.told.clone());
        response["id"] = self.id.as_str().into();
        response["object"] = "response".into();
        response["created_at"] = self.created.into();
        response["status"] = self.status().into();
        response["error"] = Value::Null;
        response["incomplete_details"] = if cut { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        response["output"] = self.items.iter().enumerate().map(item).collect();
        response["usage"] = self.usage.as_ref().map_or(Value::Null, |usage| self.usage_json(usage));
        response
    }

    fn status(&self) -> &'static str {
        match (&self.ending, &self.usage) {
            (Some(Ending::Length), _) => "incomplete",
            (Some(_), Some(_)) => "completed",
            _ => "in_progress",
        }
    }

    fn usage_json(&self, usage: &TokenUsage) -> Value {
        let mut told = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reader.reasoning_tokens()},
            "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
        });
        if usage.energy.is_some() {
            told["energy"] = energy_json(usage.energy.as_ref());
        }
        told
    }

    fn begin(&mut self, events: &mut Vec<Value>) {
        for kind in ["response.created", "response.in_progress"] {
            let event = json!({"type": kind, "response": self.response()});
            self.push(event, events);
        }
    }

    fn grow(&mut self, delta: Delta, events: &mut Vec<Value>) {
        match delta {
            Delta::Text(more) => {
                if !matches!(self.items.last(), Some(Item { kind: Kind::Message { .. }, .. })) {
                    self.open(Kind::Message { text: String::new(), logprobs: Vec::new() }, events);
                }
                let new = std::mem::take(&mut self.tokens);
                if let Some(Item { kind: Kind::Message { text, logprobs }, .. }) = self.items.last_mut() {
                    *text += &more;
                    logprobs.extend_from_slice(&new);
                }
                let event = json!({"content_index": 0, "delta": more, "logprobs": new});
                self.tell_item("response.output_text.delta", event, events);
            }
            Delta::Reasoning(more) => {
                if !matches!(self.items.last(), Some(Item { kind: Kind::Reasoning(_), .. })) {
                    self.open(Kind::Reasoning(String::new()), events);
                }
                if let Some(Item { kind: Kind::Reasoning(text), .. }) = self.items.last_mut() {
                    *text += &more;
                }
                self.tell_item("response.reasoning_text.delta", json!({"content_index": 0, "delta": more}), events);
            }
            Delta::CallBegun { id, name, .. } => {
                self.open(Kind::Call { call_id: id, name, arguments: String::new() }, events);
            }
            Delta::CallArguments { text, .. } => {
                // What calls are made of is no text.
                self.tokens.clear();
                if let Some(Item { kind: Kind::Call { arguments, .. }, .. }) = self.items.last_mut() {
                    *arguments += &text;
                }
                self.tell_item("response.function_call_arguments.delta", json!({"delta": text}), events);
            }
            Delta::Ended(ending) => self.ending = Some(ending),
        }
    }

    fn open(&mut self, kind: Kind, events: &mut Vec<Value>) {
        self.close(events);
        let (id, is_message) = match &kind {
            Kind::Reasoning(_) => (new_id("rs_"), false),
            Kind::Message { .. } => (new_id("msg_"), true),
            Kind::Call { .. } => (new_id("fc_"), false),
        };
        let item = Item { id, kind };
        let event = json!({
            "type": "response.output_item.added",
            "output_index": self.items.len(),
            "item": item.begun(),
        });
        self.items.push(item);
        self.push(event, events);
        if is_message {
            let event = json!({"content_index": 0, "part": text_part("", &[])});
            self.tell_item("response.content_part.added", event, events);
        }
    }

    /// The last item is whole.
    fn close(&mut self, events: &mut Vec<Value>) {
        let Some(item) = self.items.last() else { return };
        let status = if matches!(self.ending, Some(Ending::Length)) { "incomplete" } else { "completed" };
        let done = json!({"item": item.json(status)});
        let ends = match &item.kind {
            Kind::Reasoning(text) => {
                vec![("response.reasoning_text.done", json!({"content_index": 0, "text": text}))]
            }
            Kind::Message { text, logprobs } => {
                let part = json!({"content_index": 0, "part": text_part(text, logprobs)});
                let text = json!({"content_index": 0, "text": text, "logprobs": logprobs});
                vec![("response.output_text.done", text), ("response.content_part.done", part)]
            }
            Kind::Call { name, arguments, .. } => {
                let event = json!({"name": name, "arguments": arguments});
                vec![("response.function_call_arguments.done", event)]
            }
        };
        for (kind, event) in ends {
            self.tell_item(kind, event, events);
        }
        let event = json!({
            "type": "response.output_item.done",
            "output_index": self.items.len() - 1,
            "item": done["item"],
        });
        self.push(event, events);
    }

    /// An event of the last item.
    fn tell_item(&mut self, kind: &str, mut event: Value, events: &mut Vec<Value>) {
        let Some(item) = self.items.last() else { return };
        event["type"] = kind.into();
        event["item_id"] = item.id.as_str().into();
        event["output_index"] = (self.items.len() - 1).into();
        self.push(event, events);
    }

    fn push(&mut self, mut event: Value, events: &mut Vec<Value>) {
        event["sequence_number"] = self.number.into();
        self.number += 1;
        events.push(event);
    }
}

impl Item {
    /// Before anything is in it.
    fn begun(&self) -> Value {
        let mut item = self.json("in_progress");
        if !matches!(self.kind, Kind::Call { .. }) {
            item["content"] = json!([]);
        }
        item
    }

    fn json(&self, status: &str) -> Value {
        match &self.kind {
            Kind::Reasoning(text) => json!({
                "id": self.id,
                "type": "reasoning",
                "status": status,
                "summary": [],
                "content": [{"type": "reasoning_text", "text": text}],
            }),
            Kind::Message { text, logprobs } => json!({
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "status": status,
                "content": [text_part(text, logprobs)],
            }),
            Kind::Call { call_id, name, arguments } => json!({
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
            }),
        }
    }
}

fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_serve::language::{Chosen, FinishReason};

    use super::{super::chat_answer::tests::reading, *};

    fn text(text: &str, count: u32) -> Piece {
        Piece::Text { choice: 0, text: text.into(), tokens: Vec::new(), count }
    }

    fn took() -> Piece {
        Piece::Done(TokenUsage {
            prompt_tokens: 5,
            cached_tokens: 2,
            completion_tokens: 9,
            cpu_seconds: 0.5,
            energy: None,
        })
    }

    fn kinds(events: &[Value]) -> Vec<&str> {
        events.iter().map(|event| event["type"].as_str().unwrap().trim_start_matches("response.")).collect()
    }

    #[test]
    fn an_answer_has_its_thoughts_text_and_calls_in_events_and_as_a_whole() {
        let mut writer = Writer::new(Map::new(), &reading());
        let pieces = [
            Piece::Begun { prompt_tokens: 5, cached_tokens: 2 },
            text("<think>h", 2),
            text("m</think>", 2),
            text("yes <tool_call>{\"name\": \"time\", \"argum", 3),
            text("ents\": {\"a\": 1}}</tool_call>", 2),
            Piece::Ended { choice: 0, reason: FinishReason::End },
            took(),
        ];
        let events: Vec<Value> = pieces.into_iter().flat_map(|piece| writer.take(piece)).collect();
        let expected = [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_text.delta",
            "reasoning_text.delta",
            "reasoning_text.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ];
        assert_eq!(kinds(&events), expected);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        assert_eq!(events[2]["item"]["content"], json!([]));
        assert_eq!(events[2]["item"]["id"], events[6]["item"]["id"]);
        assert_eq!(events[13]["output_index"], 2);

        let told = writer.response();
        assert_eq!(told, events[17]["response"]);
        assert_eq!((&told["status"], &told["object"]), (&json!("completed"), &json!("response")));
        assert_eq!(told["output"][0]["content"][0]["text"], "hm");
        assert_eq!(told["output"][1]["content"][0]["text"], "yes ");
        assert_eq!(
            (&told["output"][2]["name"], &told["output"][2]["arguments"]),
            (&json!("time"), &json!("{\"a\": 1}"))
        );
        let usage = json!({
            "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 14
        });
        assert_eq!(told["usage"], usage);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_incomplete_and_an_empty_one_is_there() {
        let mut writer = Writer::new(Map::new(), &reading());
        writer.take(Piece::Begun { prompt_tokens: 5, cached_tokens: 0 });
        writer.take(text("yes", 1));
        let ended = writer.take(Piece::Ended { choice: 0, reason: FinishReason::Length });
        assert_eq!(ended.last().unwrap()["item"]["status"], "incomplete");
        let events = writer.take(took());
        assert_eq!(kinds(&events), ["incomplete"]);
        assert_eq!(events[0]["response"]["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(events[0]["response"]["output"][0]["status"], "incomplete");

        let mut writer = Writer::new(Map::new(), &reading());
        writer.take(Piece::Begun { prompt_tokens: 5, cached_tokens: 0 });
        writer.take(Piece::Ended { choice: 0, reason: FinishReason::End });
        assert_eq!(writer.response()["output"][0]["content"][0]["text"], "");
    }

    #[test]
    fn a_failure_is_a_response_whenever_it_comes() {
        let error = ApiError::new(Code::Unavailable, "the process ended");
        let mut writer = Writer::new(Map::new(), &reading());
        let events = writer.fail(&error);
        assert_eq!(kinds(&events), ["created", "in_progress", "failed"]);
        let mut writer = Writer::new(Map::new(), &reading());
        writer.take(Piece::Begun { prompt_tokens: 5, cached_tokens: 0 });
        writer.take(text("yes", 1));
        let events = writer.fail(&error);
        assert_eq!(kinds(&events), ["failed"]);
        let response = &events[0]["response"];
        assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!("server_error")));
        assert_eq!(response["output"][0]["content"][0]["text"], "yes");
        assert_eq!(response["output"][0]["status"], "incomplete");
    }

    #[test]
    fn probabilities_are_those_of_the_text() {
        let piece = |said: &str| Piece::Text {
            choice: 0,
            text: said.into(),
            tokens: vec![Chosen { token: 1, bytes: said.into(), logprob: -0.5, alternatives: Vec::new() }],
            count: 1,
        };
        let mut writer = Writer::new(Map::new(), &reading());
        ["<think>", "hm", "</think>", "ye", "s"].into_iter().for_each(|said| drop(writer.take(piece(said))));
        writer.take(Piece::Ended { choice: 0, reason: FinishReason::End });
        let part = &writer.response()["output"][1]["content"][0];
        let told = part["logprobs"].as_array().unwrap();
        assert_eq!(told.iter().map(|one| one["token"].as_str().unwrap()).collect::<Vec<_>>(), ["ye", "s"]);
    }
}
