//! Turns as templates see them: maps with OpenAI's names.

use serde_json::{Map, Value, json};

use super::{Message, Role};

/// What a template can show of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// Whether it takes a system message; otherwise it goes before what the user says first.
    pub(super) system: bool,
    /// Whether it shows calls and their results; otherwise they are written into the text, in Hermes' way.
    pub(super) calls: bool,
    /// Whether a message that only calls has no content, rather than an empty one.
    pub(super) null: bool,
    /// Whether arguments are maps, rather than JSON in a string.
    pub(super) maps: bool,
    /// Whether a call's id must be nine letters and digits, as with Mistral's templates.
    pub(super) short_ids: bool,
}

/// The messages as a template's variable.
pub(super) fn messages(messages: &[Message], shown: Shown) -> Value {
    let mut system = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    for message in messages {
        match message.role {
            Role::System if !shown.system => system.push(message.text.clone()),
            Role::Tool if !shown.calls => {
                let text = format!("<tool_response>\n{}\n</tool_response>", message.text);
                // Answers to calls made at once are one turn: many templates want the roles to alternate.
                match values.last_mut() {
                    Some(Value::Object(last)) if last.contains_key("answers") => append(last, &text),
                    _ => values.push(json!({"role": "user", "content": text, "answers": true})),
                }
            }
            _ => values.push(value(message, shown)),
        }
    }
    for value in &mut values {
        if let Value::Object(members) = value {
            members.shift_remove("answers");
        }
    }
    if !system.is_empty() {
        let text = system.join("\n\n");
        let user = values.iter_mut().filter_map(Value::as_object_mut).find(|value| value["role"] == "user");
        match user {
            Some(user) => {
                let said = user["content"].as_str().unwrap_or_default();
                let joined = format!("{text}\n\n{said}");
                user.insert("content".into(), joined.into());
            }
            None => values.insert(0, json!({"role": "user", "content": text})),
        }
    }
    Value::Array(values)
}

fn append(message: &mut Map<String, Value>, text: &str) {
    let before = message.get("content").and_then(Value::as_str).unwrap_or_default();
    let joined = format!("{before}\n{text}");
    message.insert("content".into(), joined.into());
}

fn value(message: &Message, shown: Shown) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut value = json!({"role": role, "content": message.text});
    if let Some(reasoning) = &message.reasoning {
        value["reasoning_content"] = reasoning.as_str().into();
    }
    if let Some(name) = &message.name {
        value["name"] = name.as_str().into();
    }
    if let Some(id) = &message.call_id {
        value["tool_call_id"] = id_for(id, shown).into();
    }
    if message.calls.is_empty() {
        return value;
    }
    let arguments = |text: &str| match serde_json::from_str::<Value>(text) {
        Ok(map @ Value::Object(_)) => map,
        _ => Value::String(text.to_owned()),
    };
    if shown.calls {
        let calls = message.calls.iter().map(|call| {
            let arguments = if shown.maps { arguments(&call.arguments) } else { call.arguments.as_str().into() };
            json!({"id": id_for(&call.id, shown), "type": "function", "function": {"name": call.name, "arguments": arguments}})
        });
        value["tool_calls"] = calls.collect();
        if shown.null && message.text.is_empty() {
            value["content"] = Value::Null;
        }
    } else {
        let calls = message.calls.iter().map(|call| {
            let call = json!({"name": call.name, "arguments": arguments(&call.arguments)});
            format!("<tool_call>\n{call}\n</tool_call>")
        });
        let said = Some(message.text.clone()).filter(|text| !text.is_empty()).into_iter();
        value["content"] = said.chain(calls).collect::<Vec<_>>().join("\n").into();
    }
    value
}

/// A call's id as the template takes it; what is cut is the same wherever the id is.
fn id_for(id: &str, shown: Shown) -> String {
    if !shown.short_ids {
        return id.to_owned();
    }
    let mut letters: Vec<char> = id.chars().filter(char::is_ascii_alphanumeric).rev().take(9).collect();
    letters.resize(9, '0');
    letters.into_iter().rev().collect()
}
