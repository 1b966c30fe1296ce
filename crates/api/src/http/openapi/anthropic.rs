//! Anthropic's messages.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    calls::context,
    language::FAILURES,
    operation::{Operation, named},
};

pub(super) fn operations() -> Vec<Operation> {
    let anthropic =
        |path, summary| Operation::new("post", path, "anthropic", summary).tells_errors_as("AnthropicError");
    let counted = json!({"type": "object", "properties": {"input_tokens": {"type": "integer"}}});
    let hello = json!([{"role": "user", "content": "Hello!"}]);
    vec![
        context(anthropic("/v1/messages", "Answer with a message"))
            .says(
                "A last turn of the assistant's is continued. `thinking` reaches the chat template as `enable_thinking`; thoughts have no signature. \
                 `usage.energy` tells joules.",
            )
            .takes(
                &request(&["model", "messages", "max_tokens"]),
                &json!({"model": "chat", "max_tokens": 64, "messages": hello}),
            )
            .answers(StatusCode::OK, "The message; with `stream`, its events.", &message())
            .or_as(StatusCode::OK, "text/event-stream", &json!({"type": "string"}))
            .fails(&FAILURES),
        context(anthropic("/v1/messages/count_tokens", "Count the tokens of a request for a message"))
            .takes(&request(&["model", "messages"]), &json!({"model": "chat", "messages": hello}))
            .answers(StatusCode::OK, "How many tokens the model would read.", &counted)
            .fails(&FAILURES),
    ]
}

fn request(required: &[&str]) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": {
            "model": named("Name"),
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "system": {"type": ["string", "array"]},
            "max_tokens": {"type": "integer", "minimum": 1},
            "stop_sequences": {"type": "array", "items": {"type": "string"}},
            "temperature": {"type": "number", "minimum": 0},
            "top_p": {"type": "number", "minimum": 0, "maximum": 1},
            "top_k": {"type": "integer", "minimum": 0},
            "tools": {"type": "array", "maxItems": 128, "items": {"type": "object"}},
            "tool_choice": {"type": "object"},
            "thinking": {"type": "object"},
            "output_config": {"type": "object"},
            "stream": {"type": "boolean", "default": false},
        },
    })
}

fn message() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": {"type": "string"},
            "content": {"type": "array", "items": {"type": "object"}},
            "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
            "stop_sequence": {"type": ["string", "null"]},
            "usage": {"type": "object"},
        },
    })
}
