//! A request for a chat becomes a conversation.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::parameters::Parameters;
use crate::{
    ApiError, Result,
    language::{Conversation, Format, Message, Role, Tool, ToolCall, ToolChoice},
};

/// The most tools of one call, OpenAI's.
pub(super) const MAX_TOOLS: usize = 128;

/// The body of `POST /v1/chat/completions`. Fields that are not here have no effect and are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub(super) model: String,
    messages: Vec<Turn>,
    tools: Option<Vec<ToolForm>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Value>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Value>>,
    continue_final_message: Option<bool>,
    modalities: Option<Vec<String>>,
    audio: Option<Value>,
    functions: Option<Value>,
    function_call: Option<Value>,
    web_search_options: Option<Value>,
    #[serde(flatten)]
    pub(super) parameters: Parameters,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    content: Option<Value>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<Call>>,
    tool_call_id: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Call {
    id: String,
    function: CalledFunction,
}

#[derive(Debug, Deserialize)]
struct CalledFunction {
    name: String,
    arguments: String,
}

#[derive(Debug, Deserialize)]
struct ToolForm {
    #[serde(rename = "type")]
    kind: String,
    function: Option<FunctionForm>,
}

#[derive(Debug, Deserialize)]
struct FunctionForm {
    name: String,
    description: Option<String>,
    parameters: Option<Value>,
}

impl Request {
    /// How many alternatives are told of each token, if any token's probability is.
    ///
    /// # Errors
    /// If alternatives are asked for and probabilities are not.
    pub(super) fn logprobs(&self) -> Result<Option<u32>> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ApiError::invalid("top_logprobs needs logprobs: true")),
        }
    }

    /// What the model is to continue.
    ///
    /// # Errors
    /// If a field is wrong, or would have an effect that is not to be had here.
    pub(super) fn conversation(&self) -> Result<Conversation> {
        self.refuse()?;
        if self.messages.is_empty() {
            return Err(ApiError::invalid("messages must not be empty"));
        }
        let messages =
            self.messages.iter().enumerate().map(|(at, turn)| message(at, turn)).collect::<Result<Vec<_>>>()?;
        let tools = self.tools.iter().flatten();
        if tools.clone().count() > MAX_TOOLS {
            return Err(ApiError::invalid(format!("tools has {MAX_TOOLS} tools at most")));
        }
        let tools = tools.map(tool).collect::<Result<Vec<_>>>()?;
        let mut variables = self.chat_template_kwargs.clone().unwrap_or_default();
        set_effort(self.reasoning_effort.as_deref(), &mut variables);
        Ok(Conversation {
            messages,
            tools,
            tool_choice: self.tool_choice.as_ref().map_or(Ok(ToolChoice::Auto), tool_choice)?,
            parallel_calls: self.parallel_tool_calls.unwrap_or(true),
            format: format("response_format", self.response_format.as_ref(), "/json_schema/schema", &self.parameters)?,
            continues: self.continue_final_message.unwrap_or(false),
            variables,
        })
    }

    fn refuse(&self) -> Result<()> {
        if self.audio.is_some() || self.modalities.iter().flatten().any(|modality| modality != "text") {
            return Err(ApiError::invalid("answers are text alone: leave audio out, and modalities at [\"text\"]"));
        }
        if self.functions.is_some() || self.function_call.is_some() {
            return Err(ApiError::invalid("functions and function_call are gone: send tools and tool_choice"));
        }
        if self.web_search_options.is_some() {
            return Err(ApiError::invalid("the server does not search the web: leave web_search_options out"));
        }
        Ok(())
    }
}

fn message(at: usize, turn: &Turn) -> Result<Message> {
    let role = match turn.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => {
            let message = format!("messages[{at}].role must be system, developer, user, assistant or tool");
            return Err(ApiError::invalid(message));
        }
    };
    let calls = turn.tool_calls.iter().flatten().map(|call| ToolCall {
        id: call.id.clone(),
        name: call.function.name.clone(),
        arguments: call.function.arguments.clone(),
    });
    let calls: Vec<ToolCall> = calls.collect();
    if !calls.is_empty() && role != Role::Assistant {
        return Err(ApiError::invalid(format!("messages[{at}].tool_calls: the assistant alone calls tools")));
    }
    Ok(Message {
        role,
        text: match &turn.content {
            None | Some(Value::Null) => String::new(),
            Some(content) => text(&format!("messages[{at}].content"), content)?,
        },
        reasoning: turn.reasoning_content.clone().or_else(|| turn.reasoning.clone()),
        calls,
        call_id: turn.tool_call_id.clone(),
        name: turn.name.clone(),
    })
}

/// A string, or parts of which each is text.
///
/// # Errors
/// If it is neither.
pub(super) fn text(name: &str, content: &Value) -> Result<String> {
    let wrong = || ApiError::invalid(format!("{name} must be a string, or an array of parts with text"));
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err(wrong()),
    };
    let mut text = String::new();
    for part in parts {
        text += match part["type"].as_str() {
            Some("text" | "input_text" | "output_text") => part["text"].as_str().ok_or_else(wrong)?,
            Some("refusal") => part["refusal"].as_str().ok_or_else(wrong)?,
            Some(kind) => {
                let kind: String = kind.chars().take(50).collect();
                let message = format!("{name} has a part of type {kind}: language models read text alone here");
                return Err(ApiError::invalid(message));
            }
            None => return Err(wrong()),
        };
    }
    Ok(text)
}

fn tool(form: &ToolForm) -> Result<Tool> {
    let function = form.function.as_ref().filter(|_| form.kind == "function");
    let function =
        function.ok_or_else(|| ApiError::invalid("a tool must be {\"type\": \"function\", \"function\": …}"))?;
    checked_tool(&function.name, function.description.as_deref(), function.parameters.as_ref())
}

/// A tool, whose name and parameters can be written into a prompt and a grammar.
///
/// # Errors
/// If they cannot.
pub(super) fn checked_tool(name: &str, description: Option<&str>, parameters: Option<&Value>) -> Result<Tool> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(known) {
        return Err(ApiError::invalid("a tool's name must have 1 to 64 letters, digits, - _ and ."));
    }
    let parameters = match parameters {
        None | Some(Value::Null) => serde_json::json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => {
            return Err(ApiError::invalid(format!("the parameters of the tool {name} must be a JSON Schema")));
        }
    };
    Ok(Tool { name: name.to_owned(), description: description.map(str::to_owned), parameters })
}

/// Tells the template how much the model is to think.
pub(super) fn set_effort(effort: Option<&str>, variables: &mut Map<String, Value>) {
    let Some(effort) = effort else { return };
    variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    if effort == "none" {
        variables.entry("enable_thinking").or_insert(false.into());
    }
}

fn tool_choice(choice: &Value) -> Result<ToolChoice> {
    let asked = match (choice["type"].as_str(), choice) {
        (_, Value::String(word)) => choice_word(word),
        (Some("function"), _) => choice["function"]["name"].as_str().map(|name| ToolChoice::Named(name.to_owned())),
        _ => None,
    };
    asked.ok_or_else(|| {
        ApiError::invalid(
            "tool_choice must be auto, none, required, or {\"type\": \"function\", \"function\": {\"name\": …}}",
        )
    })
}

/// What a choice of tools is that a word says.
pub(super) fn choice_word(word: &str) -> Option<ToolChoice> {
    match word {
        "auto" => Some(ToolChoice::Auto),
        "none" => Some(ToolChoice::None),
        "required" => Some(ToolChoice::Required),
        _ => None,
    }
}

/// The form of the answer: the field of this name, in which a schema is at `schema`, or vLLM's `guided_regex` and
/// `guided_grammar` (in Lark's form).
///
/// # Errors
/// If there is no such form, or several are asked for.
pub(super) fn format(field: &str, asked: Option<&Value>, schema: &str, parameters: &Parameters) -> Result<Format> {
    let asked = match asked {
        None | Some(Value::Null) => Format::Text,
        Some(format) => match format["type"].as_str() {
            Some("text") => Format::Text,
            Some("json_object") => Format::Json,
            Some("json_schema") => {
                let found = format.pointer(schema).filter(|schema| schema.is_object() || schema.is_boolean());
                let found = found.ok_or_else(|| {
                    ApiError::invalid(format!("{field}{} must be a JSON Schema", schema.replace('/', ".")))
                })?;
                Format::Schema(found.clone())
            }
            _ => {
                return Err(ApiError::invalid(format!("{field}.type must be text, json_object or json_schema")));
            }
        },
    };
    let mut all = [
        Some(asked).filter(|format| *format != Format::Text),
        parameters.guided_regex.clone().map(Format::Regex),
        parameters.guided_grammar.clone().map(Format::Lark),
    ]
    .into_iter()
    .flatten();
    match (all.next(), all.next()) {
        (None, _) => Ok(Format::Text),
        (Some(format), None) => Ok(format),
        (Some(_), Some(_)) => Err(ApiError::invalid(format!("send one of {field}, guided_regex and guided_grammar"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn request(mut body: Value) -> Request {
        body["model"] = "m".into();
        if body.get("messages").is_none() {
            body["messages"] = json!([{"role": "user", "content": "Hi"}]);
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_conversation_has_its_turns_calls_and_tools() {
        let conversation = request(json!({
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}]},
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
                ]},
                {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
            ],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "parallel_tool_calls": false,
            "reasoning_effort": "none",
            "unknown_field": 1
        }))
        .conversation()
        .unwrap();
        assert_eq!(conversation.messages[0], Message::plain(Role::System, "Be brief"));
        assert_eq!(conversation.messages[2].calls[0].name, "weather");
        assert_eq!(conversation.messages[3].call_id.as_deref(), Some("call_1"));
        assert_eq!(conversation.tool_choice, ToolChoice::Named("weather".into()));
        assert!(!conversation.parallel_calls);
        assert_eq!(conversation.variables["enable_thinking"], false);
    }

    #[test]
    fn what_would_have_an_effect_and_has_none_is_refused() {
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
        for (body, word) in [
            (json!({"modalities": ["text", "audio"]}), "audio"),
            (json!({"functions": []}), "tools"),
            (json!({"messages": image}), "image_url"),
            (json!({"messages": []}), "empty"),
            (json!({"tool_choice": "any"}), "tool_choice"),
            (json!({"response_format": {"type": "xml"}}), "response_format"),
            (json!({"response_format": {"type": "json_object"}, "guided_regex": "a"}), "one of"),
            (json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}), "name"),
        ] {
            let error = request(body.clone()).conversation().unwrap_err();
            assert!(error.message.contains(word), "{body}: {error}");
        }
        assert!(request(json!({"top_logprobs": 2})).logprobs().is_err());
    }

    #[test]
    fn parameters_become_a_request() {
        use wattle_serve::language::{Constraint, Prompt};
        let generate = |body: Value| {
            request(body).parameters.generate(Prompt::Tokens(vec![1]), Constraint::None, vec!["x".into()], None)
        };
        let all = generate(json!({
            "temperature": 0, "top_k": -1, "seed": -1, "stop": "y", "n": 2, "max_tokens": 5, "max_completion_tokens": 6,
            "logit_bias": {"7": -100}
        }))
        .unwrap();
        assert_eq!((all.choices, all.best_of, all.max_tokens), (2, 2, Some(6)));
        assert_eq!(all.stop, ["y", "x"]);
        assert_eq!((all.sampling.temperature, all.sampling.top_k), (0.0, 0));
        assert_eq!(all.sampling.logit_bias, [(7, -100.0)]);
        for wrong in [json!({"best_of": 2, "stream": true}), json!({"max_tokens": 0}), json!({"logit_bias": {"a": 1}})]
        {
            assert!(generate(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
