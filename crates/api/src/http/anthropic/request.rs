//! A request for a message becomes a conversation.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    ApiError, Result,
    http::{asked::Asked, language::string},
    language::{Conversation, Format, Message, Role, Tool, ToolCall, ToolChoice},
};

/// The most tools of one call.
const MAX_TOOLS: usize = 128;

/// The body of `POST /v1/messages`; to count tokens, `max_tokens` may be absent. Fields that are not here have no effect
/// and are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) model: String,
    messages: Vec<Turn>,
    system: Option<Value>,
    max_tokens: Option<u32>,
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    tools: Option<Vec<ToolForm>>,
    tool_choice: Option<Choice>,
    thinking: Option<Thinking>,
    output_config: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    content: Value,
}

#[derive(Debug, Deserialize)]
struct ToolForm {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    description: Option<String>,
    input_schema: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Thinking {
    #[serde(rename = "type")]
    kind: String,
}

impl Request {
    /// Whether the answer comes in events.
    pub(super) fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// What the caller has the answer end before.
    pub(super) fn stops(&self) -> Vec<String> {
        self.stop_sequences.clone().unwrap_or_default()
    }

    /// How tokens are chosen.
    pub(super) fn asked(&self) -> Asked {
        Asked {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: None,
            stop: self.stops(),
        }
    }

    /// What the model is to continue.
    ///
    /// # Errors
    /// If a field is wrong, or would have an effect that is not to be had here.
    pub(super) fn conversation(&self) -> Result<Conversation> {
        if self.messages.is_empty() {
            return Err(ApiError::invalid("messages must not be empty"));
        }
        let mut messages = Vec::new();
        if let Some(system) = self.system.as_ref().filter(|system| !system.is_null()) {
            messages.push(Message::plain(Role::System, &text("system", system)?));
        }
        for (at, turn) in self.messages.iter().enumerate() {
            match turn.role.as_str() {
                "user" => user(at, &turn.content, &mut messages)?,
                "assistant" => messages.push(assistant(at, &turn.content)?),
                _ => return Err(ApiError::invalid(format!("messages[{at}].role must be user or assistant"))),
            }
        }
        let tools = self.tools.as_deref().unwrap_or_default();
        if tools.len() > MAX_TOOLS {
            return Err(ApiError::invalid(format!("tools has {MAX_TOOLS} tools at most")));
        }
        let mut variables = Map::new();
        match self.thinking.as_ref().map(|thinking| thinking.kind.as_str()) {
            None => {}
            Some("enabled" | "adaptive") => {
                variables.insert("enable_thinking".into(), true.into());
            }
            Some("disabled") => {
                variables.insert("enable_thinking".into(), false.into());
            }
            Some(_) => return Err(ApiError::invalid("thinking.type must be enabled, adaptive or disabled")),
        }
        let choice = self.tool_choice.as_ref();
        Ok(Conversation {
            continues: messages.last().is_some_and(|last| last.role == Role::Assistant),
            messages,
            tools: tools.iter().map(tool).collect::<Result<_>>()?,
            tool_choice: choice.map_or(Ok(ToolChoice::Auto), tool_choice)?,
            parallel_calls: !choice.and_then(|choice| choice.disable_parallel_tool_use).unwrap_or(false),
            format: self.format()?,
            variables,
        })
    }

    fn format(&self) -> Result<Format> {
        let Some(format) = self.output_config.as_ref().and_then(|config| config.get("format")) else {
            return Ok(Format::Text);
        };
        match (format["type"].as_str(), &format["schema"]) {
            _ if format.is_null() => Ok(Format::Text),
            (Some("json_schema"), schema @ Value::Object(_)) => Ok(Format::Schema(schema.clone())),
            _ => Err(ApiError::invalid("output_config.format must be {\"type\": \"json_schema\", \"schema\": …}")),
        }
    }
}

/// A user's turn: text, and what tools answered, which are turns of their own here.
fn user(at: usize, content: &Value, messages: &mut Vec<Message>) -> Result<()> {
    let Value::Array(blocks) = content else {
        messages.push(Message::plain(Role::User, &text(&format!("messages[{at}].content"), content)?));
        return Ok(());
    };
    let mut said: Option<String> = None;
    for (place, block) in blocks.iter().enumerate() {
        let name = format!("messages[{at}].content[{place}]");
        match block["type"].as_str() {
            Some("tool_result") => {
                if let Some(said) = said.take() {
                    messages.push(Message::plain(Role::User, &said));
                }
                let answer = match &block["content"] {
                    Value::Null => String::new(),
                    content => text(&format!("{name}.content"), content)?,
                };
                let call_id = Some(string(&name, block, "tool_use_id")?.to_owned());
                messages.push(Message { call_id, ..Message::plain(Role::Tool, &answer) });
            }
            _ => *said.get_or_insert_default() += block_text(&name, block)?,
        }
    }
    match said {
        Some(said) => messages.push(Message::plain(Role::User, &said)),
        None if blocks.is_empty() => {
            return Err(ApiError::invalid(format!("messages[{at}].content must not be empty")));
        }
        None => {}
    }
    Ok(())
}

fn assistant(at: usize, content: &Value) -> Result<Message> {
    let Value::Array(blocks) = content else {
        return Ok(Message::plain(Role::Assistant, &text(&format!("messages[{at}].content"), content)?));
    };
    let mut message = Message::plain(Role::Assistant, "");
    for (place, block) in blocks.iter().enumerate() {
        let name = format!("messages[{at}].content[{place}]");
        match block["type"].as_str() {
            Some("tool_use") => {
                let Value::Object(input) = &block["input"] else {
                    return Err(ApiError::invalid(format!("{name}.input must be an object")));
                };
                message.calls.push(ToolCall {
                    id: string(&name, block, "id")?.to_owned(),
                    name: string(&name, block, "name")?.to_owned(),
                    arguments: serde_json::to_string(input).map_err(ApiError::internal)?,
                });
            }
            Some("thinking") => *message.reasoning.get_or_insert_default() += string(&name, block, "thinking")?,
            // Thoughts that only their server can read.
            Some("redacted_thinking") => {}
            _ => message.text += block_text(&name, block)?,
        }
    }
    Ok(message)
}

/// A string, or blocks of which each is text.
fn text(name: &str, content: &Value) -> Result<String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let texts = blocks.iter().enumerate().map(|(place, block)| block_text(&format!("{name}[{place}]"), block));
            texts.collect()
        }
        _ => Err(ApiError::invalid(format!("{name} must be a string, or an array of blocks"))),
    }
}

fn block_text<'a>(name: &str, block: &'a Value) -> Result<&'a str> {
    match block["type"].as_str() {
        Some("text") => string(name, block, "text"),
        Some(kind) => {
            let kind: String = kind.chars().take(50).collect();
            let message =
                format!("{name} has the type {kind}, which is not taken here: language models read text alone");
            Err(ApiError::invalid(message))
        }
        None => Err(ApiError::invalid(format!("{name} must be a block with a type"))),
    }
}

fn tool(form: &ToolForm) -> Result<Tool> {
    let shown: String = form.name.chars().take(100).collect();
    if form.kind.as_deref().is_some_and(|kind| kind != "custom") {
        return Err(ApiError::invalid(format!(
            "the tool {shown} is none of the caller's own: its type must be custom"
        )));
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if form.name.is_empty() || form.name.len() > 128 || !form.name.bytes().all(known) {
        return Err(ApiError::invalid("a tool's name must have 1 to 128 letters, digits, - and _"));
    }
    match &form.input_schema {
        Some(schema @ Value::Object(_)) => {
            Ok(Tool { name: form.name.clone(), description: form.description.clone(), parameters: schema.clone() })
        }
        _ => Err(ApiError::invalid(format!("the input_schema of the tool {shown} must be a JSON Schema"))),
    }
}

fn tool_choice(choice: &Choice) -> Result<ToolChoice> {
    match (choice.kind.as_str(), &choice.name) {
        ("auto", _) => Ok(ToolChoice::Auto),
        ("any", _) => Ok(ToolChoice::Required),
        ("none", _) => Ok(ToolChoice::None),
        ("tool", Some(name)) => Ok(ToolChoice::Named(name.clone())),
        ("tool", None) => Err(ApiError::invalid("tool_choice.name is missing: name the tool")),
        _ => Err(ApiError::invalid("tool_choice.type must be auto, any, tool or none")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn request(mut body: Value) -> Request {
        body["model"] = "m".into();
        body["max_tokens"] = 16.into();
        if body.get("messages").is_none() {
            body["messages"] = json!([{"role": "user", "content": "Hi"}]);
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_conversation_has_its_turns_calls_and_tools() {
        let conversation = request(json!({
            "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}],
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bonn"}}
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "text", "text": "Well?"}
                ]}
            ],
            "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "thinking": {"type": "enabled", "budget_tokens": 1024}
        }))
        .conversation()
        .unwrap();
        let roles: Vec<Role> = conversation.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::User]);
        let [system, _, assistant, result, last] = &conversation.messages[..] else { panic!("five turns") };
        assert_eq!((&*system.text, &*last.text), ("Be brief", "Well?"));
        assert_eq!((assistant.reasoning.as_deref(), &*assistant.text), (Some("hm"), "I look."));
        assert_eq!(assistant.calls[0].arguments, r#"{"city":"Bonn"}"#);
        assert_eq!((&*result.text, result.call_id.as_deref()), ("rain", Some("t1")));
        assert_eq!(conversation.tool_choice, ToolChoice::Required);
        assert!(!conversation.parallel_calls && !conversation.continues);
        assert_eq!(conversation.variables["enable_thinking"], true);
    }

    #[test]
    fn a_last_turn_of_the_assistants_is_continued() {
        let turns = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]);
        assert!(request(json!({"messages": turns})).conversation().unwrap().continues);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
        let tools = vec![json!({"name": "a", "input_schema": {}}); 129];
        for (body, word) in [
            (json!({"messages": []}), "empty"),
            (of(json!([])), "messages[0].content"),
            (of(json!(1)), "messages[0].content"),
            (of(json!([1])), "messages[0].content[0]"),
            (of(json!([{"type": "image", "source": {}}])), "image"),
            (of(json!([{"type": "text"}])), "messages[0].content[0].text"),
            (of(json!([{"type": "tool_result"}])), "tool_use_id"),
            (json!({"messages": [{"role": "tool", "content": ""}]}), "messages[0].role"),
            (json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": 1}]}]}), "input"),
            (json!({"system": 1}), "system"),
            (json!({"tools": tools}), "128"),
            (json!({"tools": [{"name": "a b", "input_schema": {}}]}), "name"),
            (json!({"tools": [{"name": "a"}]}), "input_schema"),
            (json!({"tools": [{"name": "web", "type": "web_search_20250305"}]}), "custom"),
            (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
            (json!({"tool_choice": {"type": "required"}}), "tool_choice.type"),
            (json!({"thinking": {"type": "much"}}), "thinking.type"),
            (json!({"output_config": {"format": {"type": "xml"}}}), "output_config.format"),
        ] {
            let error = request(body.clone()).conversation().unwrap_err();
            assert!(error.message.contains(word), "{body}: {error}");
        }
    }
}
