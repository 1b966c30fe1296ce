//! A request for a response becomes a conversation.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    chat_request::{MAX_TOOLS, checked_tool, choice_word, format, set_effort, text},
    parameters::Parameters,
};
use crate::{
    ApiError, Result,
    http::language::string,
    language::{Conversation, Message, Role, Tool, ToolCall, ToolChoice},
};

/// The body of `POST /v1/responses`. Fields that are not here have no effect and are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) model: String,
    input: Option<Input>,
    instructions: Option<String>,
    max_output_tokens: Option<u32>,
    top_logprobs: Option<u32>,
    include: Option<Vec<String>>,
    tools: Option<Vec<ToolForm>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<TextForm>,
    reasoning: Option<Reasoning>,
    metadata: Option<Value>,
    truncation: Option<String>,
    previous_response_id: Option<Value>,
    conversation: Option<Value>,
    prompt: Option<Value>,
    background: Option<bool>,
    #[serde(flatten)]
    pub(super) parameters: Parameters,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Items(Vec<Value>),
}

#[derive(Debug, Deserialize)]
struct ToolForm {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    description: Option<String>,
    parameters: Option<Value>,
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct TextForm {
    format: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Reasoning {
    effort: Option<String>,
}

impl Request {
    /// How tokens are chosen, and how many.
    ///
    /// # Errors
    /// If more than one answer is asked for, or none.
    pub(super) fn parameters(&self) -> Result<Parameters> {
        if self.max_output_tokens == Some(0) {
            return Err(ApiError::invalid("max_output_tokens must be at least 1"));
        }
        if self.parameters.n.unwrap_or(1) != 1 || self.parameters.best_of.unwrap_or(1) != 1 {
            return Err(ApiError::invalid("a response is one answer: leave n and best_of out"));
        }
        let mut parameters = self.parameters.clone();
        if self.max_output_tokens.is_some() {
            (parameters.max_tokens, parameters.max_completion_tokens) = (self.max_output_tokens, None);
        }
        Ok(parameters)
    }

    /// How many alternatives are told of each token, if any token's probability is.
    pub(super) fn logprobs(&self) -> Option<u32> {
        let is_included = self.include.iter().flatten().any(|what| what == "message.output_text.logprobs");
        self.top_logprobs.or(is_included.then_some(0))
    }

    /// What the response tells of its request.
    pub(super) fn told(&self) -> Map<String, Value> {
        let tools = self.tools.iter().flatten().map(|tool| {
            json!({
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": tool.strict,
            })
        });
        let format = self.text.as_ref().and_then(|text| text.format.clone()).filter(|format| !format.is_null());
        let told = json!({
            "model": self.model,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "temperature": decimal(self.parameters.temperature.unwrap_or(1.0)),
            "top_p": decimal(self.parameters.top_p.unwrap_or(1.0)),
            "top_logprobs": self.logprobs().unwrap_or(0),
            "tools": tools.collect::<Value>(),
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
            "reasoning": {"effort": self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone()), "summary": null},
            "metadata": self.metadata.clone().filter(|metadata| !metadata.is_null()).unwrap_or_else(|| json!({})),
            "truncation": "disabled",
            "background": false,
            "store": false,
            "previous_response_id": null,
        });
        match told {
            Value::Object(told) => told,
            _ => Map::new(),
        }
    }

    /// What the model is to continue.
    ///
    /// # Errors
    /// If a field is wrong, or would have an effect that is not to be had here.
    pub(super) fn conversation(&self) -> Result<Conversation> {
        self.refuse()?;
        let messages = self.messages()?;
        let forms = self.tools.as_deref().unwrap_or_default();
        if forms.len() > MAX_TOOLS {
            return Err(ApiError::invalid(format!("tools has {MAX_TOOLS} tools at most")));
        }
        let mut tools = forms.iter().map(tool).collect::<Result<Vec<_>>>()?;
        let tool_choice = self.tool_choice.as_ref().filter(|choice| !choice.is_null());
        let tool_choice = tool_choice.map_or(Ok(ToolChoice::Auto), |choice| tool_choice_of(choice, &mut tools))?;
        let mut variables = Map::new();
        set_effort(self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref()), &mut variables);
        let asked = self.text.as_ref().and_then(|text| text.format.as_ref());
        Ok(Conversation {
            messages,
            tools,
            tool_choice,
            parallel_calls: self.parallel_tool_calls.unwrap_or(true),
            format: format("text.format", asked, "/schema", &self.parameters)?,
            continues: false,
            variables,
        })
    }

    fn refuse(&self) -> Result<()> {
        let is_there = |field: &Option<Value>| field.as_ref().is_some_and(|value| !value.is_null());
        let refused = [
            (is_there(&self.previous_response_id), "previous_response_id: send the turns before in input"),
            (is_there(&self.conversation), "conversation: send its turns in input"),
            (is_there(&self.prompt), "prompt: send its text in instructions or input"),
            (self.background == Some(true), "background: call with stream, or wait for the answer"),
        ];
        if let Some((_, what)) = refused.iter().find(|(is_sent, _)| *is_sent) {
            return Err(ApiError::invalid(format!("responses are not stored here, so that there is no {what}")));
        }
        if self.truncation.as_deref().is_some_and(|truncation| truncation != "disabled") {
            return Err(ApiError::invalid("truncation must be disabled: leave out of input what is too much"));
        }
        Ok(())
    }

    fn messages(&self) -> Result<Vec<Message>> {
        let mut turns = Turns::default();
        if let Some(instructions) = self.instructions.as_deref().filter(|text| !text.is_empty()) {
            turns.say(Role::System, instructions);
        }
        match &self.input {
            None => return Err(ApiError::invalid("input is missing: send a text, or items")),
            Some(Input::Text(text)) => turns.say(Role::User, text),
            Some(Input::Items(items)) if items.is_empty() => return Err(ApiError::invalid("input must not be empty")),
            Some(Input::Items(items)) => {
                for (at, item) in items.iter().enumerate() {
                    turns.take(&format!("input[{at}]"), item)?;
                }
            }
        }
        Ok(turns.messages)
    }
}

/// Items become turns: what an assistant thought, said and called is one turn.
#[derive(Default)]
struct Turns {
    messages: Vec<Message>,
    /// Thoughts whose turn is still to come.
    thoughts: String,
    /// The tools that were called, by the ids of the calls.
    called: HashMap<String, String>,
}

impl Turns {
    fn take(&mut self, name: &str, item: &Value) -> Result<()> {
        match item["type"].as_str() {
            None | Some("message") => {
                let role = match item["role"].as_str() {
                    Some("system" | "developer") => Role::System,
                    Some("user") => Role::User,
                    Some("assistant") => Role::Assistant,
                    _ => {
                        let message = format!("{name}.role must be user, assistant, system or developer");
                        return Err(ApiError::invalid(message));
                    }
                };
                let said = text(&format!("{name}.content"), &item["content"])?;
                self.say(role, &said);
            }
            Some("function_call") => {
                let call = ToolCall {
                    id: string(name, item, "call_id")?.to_owned(),
                    name: string(name, item, "name")?.to_owned(),
                    arguments: string(name, item, "arguments")?.to_owned(),
                };
                if !self.thoughts.is_empty() || self.messages.last().is_none_or(|last| last.role != Role::Assistant) {
                    self.say(Role::Assistant, "");
                }
                self.called.insert(call.id.clone(), call.name.clone());
                if let Some(turn) = self.messages.last_mut() {
                    turn.calls.push(call);
                }
            }
            Some("function_call_output") => {
                let id = string(name, item, "call_id")?;
                let called = self.called.get(id).cloned().ok_or_else(|| {
                    ApiError::invalid(format!("{name}.call_id names no function_call before it: send that too"))
                })?;
                let answer = text(&format!("{name}.output"), &item["output"])?;
                let answer = Message::plain(Role::Tool, &answer);
                self.messages.push(Message { call_id: Some(id.to_owned()), name: Some(called), ..answer });
            }
            Some("reasoning") => {
                let part = |key: &str| item[key].as_array().filter(|parts| !parts.is_empty());
                let parts = part("content").or_else(|| part("summary"));
                for thought in parts.into_iter().flatten() {
                    self.thoughts += thought["text"].as_str().unwrap_or_default();
                }
            }
            Some("item_reference") => {
                let message = format!("{name} refers to an item, and none are stored here: send the item itself");
                return Err(ApiError::invalid(message));
            }
            Some(kind) => {
                let kind: String = kind.chars().take(50).collect();
                return Err(ApiError::invalid(format!(
                    "{name} has the type {kind}, which is not taken here: send messages, reasoning, function_call and \
                     function_call_output"
                )));
            }
        }
        Ok(())
    }

    /// A further turn. Many templates take one system message only, so that those at the beginning are one.
    fn say(&mut self, role: Role, text: &str) {
        if let ([first], Role::System) = (self.messages.as_mut_slice(), role)
            && first.role == Role::System
        {
            first.text = format!("{}\n\n{text}", first.text);
            return;
        }
        // Thoughts that nothing followed are nobody else's.
        let thoughts = std::mem::take(&mut self.thoughts);
        if role == Role::Assistant
            && let Some(turn) = self.messages.last_mut().filter(|last| last.role == role && !last.calls.is_empty())
        {
            // Templates want the answers of tools right behind the calls.
            turn.text += text;
            if !thoughts.is_empty() {
                turn.reasoning.get_or_insert_default().push_str(&thoughts);
            }
            return;
        }
        let mut turn = Message::plain(role, text);
        if role == Role::Assistant && !thoughts.is_empty() {
            turn.reasoning = Some(thoughts);
        }
        self.messages.push(turn);
    }
}

fn tool(form: &ToolForm) -> Result<Tool> {
    if form.kind != "function" {
        let kind: String = form.kind.chars().take(50).collect();
        return Err(ApiError::invalid(format!(
            "there is no tool of the type {kind} here: tools are the caller's own, {{\"type\": \"function\", \"name\": …}}"
        )));
    }
    checked_tool(form.name.as_deref().unwrap_or_default(), form.description.as_deref(), form.parameters.as_ref())
}

fn tool_choice_of(choice: &Value, tools: &mut Vec<Tool>) -> Result<ToolChoice> {
    let asked = match (choice["type"].as_str(), choice) {
        (_, Value::String(text)) => choice_word(text),
        (Some("function"), _) => choice["name"].as_str().map(|name| ToolChoice::Named(name.to_owned())),
        (Some("allowed_tools"), _) => {
            let allowed = choice["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
            for tool in allowed {
                let name = string("tool_choice.tools", tool, "name")?;
                if !tools.iter().any(|tool| tool.name == name) {
                    let name: String = name.chars().take(100).collect();
                    return Err(ApiError::invalid(format!("tool_choice allows {name}, which is not among tools")));
                }
            }
            tools.retain(|tool| allowed.iter().any(|allowed| allowed["name"] == tool.name.as_str()));
            choice["mode"].as_str().and_then(choice_word)
        }
        _ => None,
    };
    asked.ok_or_else(|| {
        ApiError::invalid(
            "tool_choice must be auto, none, required, {\"type\": \"function\", \"name\": …}, or \
             {\"type\": \"allowed_tools\", \"mode\": …, \"tools\": […]}",
        )
    })
}

/// The number as it was written: 0.7 of 32 bits is no 0.7 of 64.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| f64::from(number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::language::Format;

    fn request(mut body: Value) -> Request {
        body["model"] = "m".into();
        if body.get("input").is_none() {
            body["input"] = "Hi".into();
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn items_become_turns() {
        let conversation = request(json!({
            "instructions": "Be brief.",
            "input": [
                {"role": "developer", "content": "In verse."},
                {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
                {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "rain"},
                {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "so"}]},
                {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]}
            ],
            "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": true}],
            "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": false,
            "reasoning": {"effort": "none"},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
        }))
        .conversation()
        .unwrap();
        let turns = &conversation.messages;
        let roles: Vec<Role> = turns.iter().map(|turn| turn.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Assistant, Role::Tool]);
        assert_eq!((&*turns[0].text, &*turns[1].text), ("Be brief.\n\nIn verse.", "Weather?"));
        assert_eq!((&*turns[2].text, turns[2].reasoning.as_deref()), ("I look.", Some("hm")));
        assert_eq!((&*turns[2].calls[0].id, &*turns[2].calls[0].name), ("c1", "weather"));
        assert_eq!((turns[3].call_id.as_deref(), turns[3].name.as_deref()), (Some("c1"), Some("weather")));
        assert_eq!((turns[4].reasoning.as_deref(), turns[4].calls.len()), (Some("so"), 1));
        assert_eq!((&*turns[5].text, turns[5].name.as_deref()), ("noon", Some("time")));
        assert_eq!(conversation.tool_choice, ToolChoice::Named("weather".into()));
        assert!(!conversation.parallel_calls);
        assert_eq!(conversation.variables["enable_thinking"], false);
        assert_eq!(conversation.format, Format::Schema(json!({"type": "object"})));
    }

    #[test]
    fn thoughts_that_were_cut_off_are_not_those_of_the_next_answer() {
        let thought = json!({"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]});
        let said = |role: &str| json!({"role": role, "content": "x"});
        let input = json!([said("user"), thought, said("user"), said("assistant"), said("user")]);
        let turns = request(json!({"input": input})).conversation().unwrap().messages;
        assert_eq!(turns.len(), 4);
        assert!(turns.iter().all(|turn| turn.reasoning.is_none()));
    }

    #[test]
    fn whatever_an_assistant_says_between_calls_and_their_answers_is_one_turn() {
        let thought = json!({"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]});
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let answer = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "1"});
        let said = json!({"role": "assistant", "content": "And:"});
        let input = json!([call("a"), said, thought, call("b"), answer("a"), answer("b"), said]);
        let turns = request(json!({"input": input})).conversation().unwrap().messages;
        let roles: Vec<_> = turns.iter().map(|turn| turn.role).collect();
        assert_eq!(roles, [Role::Assistant, Role::Tool, Role::Tool, Role::Assistant]);
        assert_eq!((&*turns[0].text, turns[0].reasoning.as_deref(), turns[0].calls.len()), ("And:", Some("hm"), 2));
    }

    #[test]
    fn only_the_allowed_tools_are_there() {
        let tools = ["a", "b", "c"].map(|name| json!({"type": "function", "name": name}));
        let allowed = json!([{"type": "function", "name": "c"}]);
        let choice = json!({"type": "allowed_tools", "mode": "required", "tools": allowed});
        let conversation = request(json!({"tools": tools, "tool_choice": choice})).conversation().unwrap();
        assert_eq!(conversation.tool_choice, ToolChoice::Required);
        assert_eq!(conversation.tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn what_would_have_an_effect_and_has_none_is_refused() {
        let image = json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]);
        for (body, word) in [
            (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"background": true}), "background"),
            (json!({"truncation": "auto"}), "truncation"),
            (json!({"input": []}), "empty"),
            (json!({"input": image}), "input_image"),
            (json!({"input": [{"role": "critic", "content": "x"}]}), "input[0].role"),
            (json!({"input": [{"type": "item_reference", "id": "x"}]}), "item itself"),
            (json!({"input": [{"type": "web_search_call", "id": "x"}]}), "web_search_call"),
            (json!({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}), "no function_call"),
            (json!({"input": [{"type": "function_call", "call_id": "x"}]}), "input[0].name"),
            (json!({"tools": [{"type": "web_search"}]}), "web_search"),
            (json!({"tools": [{"type": "function", "name": "a b"}]}), "name"),
            (json!({"tool_choice": "any"}), "tool_choice"),
            (
                json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "x"}]}}),
                "x, which is not",
            ),
            (json!({"text": {"format": {"type": "json_schema", "name": "x"}}}), "text.format"),
        ] {
            let error = request(body.clone()).conversation().unwrap_err();
            assert!(error.message.contains(word), "{body}: {error}");
        }
        for (body, word) in [(json!({"max_output_tokens": 0}), "max_output_tokens"), (json!({"n": 2}), "n and best_of")]
        {
            let error = request(body.clone()).parameters().unwrap_err();
            assert!(error.message.contains(word), "{body}: {error}");
        }
    }

    #[test]
    fn what_was_asked_is_told() {
        let told = request(json!({"temperature": 0.7, "metadata": {"a": "b"}, "top_logprobs": 2, "seed": 4})).told();
        assert_eq!((&told["temperature"], &told["top_p"], &told["store"]), (&json!(0.7), &json!(1.0), &json!(false)));
        assert_eq!((&told["metadata"]["a"], &told["top_logprobs"]), (&json!("b"), &json!(2)));
        assert_eq!(request(json!({"include": ["message.output_text.logprobs"]})).logprobs(), Some(0));
        assert_eq!(request(json!({})).logprobs(), None);
        let bounded = request(json!({"max_output_tokens": 3, "max_completion_tokens": 9})).parameters().unwrap();
        assert_eq!((bounded.max_tokens, bounded.max_completion_tokens), (Some(3), None));
    }
}
