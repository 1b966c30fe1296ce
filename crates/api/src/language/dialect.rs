//! How models write calls of tools, which their templates show.

use serde_json::{Value, json};
use wattle_serve::sampling::compact;

use super::{Conversation, Format, Tool, ToolChoice};
use crate::{ApiError, Result};

/// A way to write a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`, one for each call (Hermes 2 Pro, Qwen).
    Hermes,
    /// `{"name": …, "parameters": {…}}`, behind `<|python_tag|>` or not (Llama 3.1 and later).
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` (Mistral).
    Mistral,
}

impl Dialect {
    /// The dialect that a template teaches its model; `None` if it knows no tools, or writes calls in no way that can be
    /// read here.
    pub(super) fn of(template: &str) -> Option<Dialect> {
        let has = |text: &str| template.contains(text);
        if !has("tools") || has("<function=") || has("<arg_key>") || has("[ARGS]") {
            None
        } else if has("[TOOL_CALLS]") {
            Some(Dialect::Mistral)
        } else if has("<tool_call>") {
            Some(Dialect::Hermes)
        } else if has("\"parameters\"") && (has("<|python_tag|>") || has("<|start_header_id|>")) {
            Some(Dialect::Llama)
        } else {
            None
        }
    }

    /// What the arguments are called.
    fn arguments_key(self) -> &'static str {
        match self {
            Dialect::Llama => "parameters",
            Dialect::Hermes | Dialect::Mistral => "arguments",
        }
    }

    /// What ends the first call, where only one is wanted.
    pub(super) fn stop(self) -> Option<&'static str> {
        (self == Dialect::Hermes).then_some("</tool_call>")
    }

    /// What the prompt is continued by where calls must follow: a control token, which no grammar over text can ask for.
    pub(super) fn opening(self) -> &'static str {
        match self {
            Dialect::Mistral => "[TOOL_CALLS]",
            Dialect::Hermes | Dialect::Llama => "",
        }
    }

    /// The grammar, in Lark's form, of an answer that calls tools; or that else has the form asked for, where tools may be
    /// called and need not.
    ///
    /// # Errors
    /// If the tool that must be called is not there, or the form cannot stand beside tools.
    pub(super) fn grammar(self, conversation: &Conversation) -> Result<String> {
        let mut tools: Vec<&Tool> = conversation.tools.iter().collect();
        if let ToolChoice::Named(name) = &conversation.tool_choice {
            tools.retain(|tool| tool.name == *name);
            if tools.is_empty() {
                return Err(ApiError::invalid(format!("tool_choice names {name}, which is none of the tools")));
            }
        }
        let is_single = !conversation.parallel_calls || self == Dialect::Llama;
        let one = match self {
            Dialect::Hermes => "\"<tool_call>\\n\" call \"\\n</tool_call>\"",
            Dialect::Llama | Dialect::Mistral => "call",
        };
        let all = match (self, is_single) {
            (Dialect::Hermes | Dialect::Llama, true) => one.to_owned(),
            (Dialect::Hermes | Dialect::Llama, false) => format!("{one} (\"\\n\" {one})*"),
            (Dialect::Mistral, true) => "\"[\" call \"]\"".to_owned(),
            (Dialect::Mistral, false) => "\"[\" call (\", \" call)* \"]\"".to_owned(),
        };
        let mut rules = match (&conversation.tool_choice, &conversation.format) {
            (ToolChoice::Required | ToolChoice::Named(_), _) => format!("start: {all}\n"),
            (_, Format::Json) => {
                format!("start: {all} | answer\nanswer: %json {}\n", compact(json!({"type": "object"})))
            }
            (_, Format::Schema(schema)) => {
                format!("start: {all} | answer\nanswer: %json {}\n", compact(schema.clone()))
            }
            _ => {
                return Err(ApiError::invalid(
                    "a grammar or regular expression cannot stand beside tools: send one of them",
                ));
            }
        };
        let names: Vec<String> = (0..tools.len()).map(|number| format!("call_{number}")).collect();
        rules += &format!("call: {}\n", names.join(" | "));
        for (name, tool) in names.iter().zip(tools) {
            let head = format!("{{\"name\": {}, \"{}\": ", json!(tool.name), self.arguments_key());
            rules += &format!("{name}: {} {name}_arguments \"}}\"\n", json!(head));
            rules += &format!("{name}_arguments: %json {}\n", compact(tool.parameters.clone()));
        }
        Ok(rules)
    }
}

/// What a model whose template knows no tools is told of them, in Hermes' words, which most models have met.
pub(super) fn description(tools: &[Tool]) -> String {
    let mut text =
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
                    function signatures within <tools></tools> XML tags:\n<tools>"
            .to_owned();
    for tool in tools {
        text += &format!("\n{}", tool_json(tool));
    }
    text + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
            <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": \
            <args-json-object>}\n</tool_call>"
}

/// A tool as OpenAI writes it, and templates expect it.
pub(super) fn tool_json(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name});
    if let Some(description) = &tool.description {
        function["description"] = description.as_str().into();
    }
    function["parameters"] = tool.parameters.clone();
    json!({"type": "function", "function": function})
}
