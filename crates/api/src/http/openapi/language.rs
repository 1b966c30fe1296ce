//! Calls of language models.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    calls::context,
    operation::{Operation, named},
};
use crate::Code;

/// Why calls fail.
pub(super) const FAILURES: [(Code, &str); 6] = [
    (Code::InvalidArgument, "The request is not what the model takes; the message says what to send."),
    (Code::NotFound, "There is no such deployment."),
    (Code::TooLarge, "The body is larger than the server's limit."),
    (Code::Expired, "The caller's own time was over before the answer."),
    (Code::TooMany, "The caller has as many calls waiting as it may."),
    (Code::Unavailable, "Too many calls are waiting, the server shuts down, or the model cannot be loaded."),
];

pub(super) fn operations() -> Vec<Operation> {
    let openai = |method, path, summary| Operation::new(method, path, "openai", summary).tells_errors_as("OpenAiError");
    vec![
        openai("get", "/v1/models", "List the language models that are deployed").answers(
            StatusCode::OK,
            "The models.",
            &json!({
                "type": "object",
                "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": named("OpenAiModel")}},
            }),
        ),
        openai("get", "/v1/models/{name}", "Show a language model")
            .answers(StatusCode::OK, "The model.", &named("OpenAiModel"))
            .fails(&[(Code::NotFound, "There is no such deployment.")]),
        context(openai("post", "/v1/chat/completions", "Answer in a conversation"))
            .says(
                "Tools are called the way that the model's chat template teaches it; with `tool_choice` `required` or a name, the answer is a valid call. \
                 What a model thinks between `<think>` and `</think>` is told as `reasoning_content`; `chat_template_kwargs` reach the template (`enable_thinking`). \
                 Of other servers' additions there are `top_k`, `min_p`, `typical_p`, `repetition_penalty`, `ignore_eos`, `best_of`, `continue_final_message`, \
                 `guided_regex`, and `guided_grammar` with a grammar in Lark's form. `usage.energy` tells joules.",
            )
            .takes(&chat(), &json!({"model": "chat", "messages": [{"role": "user", "content": "Hello!"}]}))
            .answers(StatusCode::OK, "The answer; with `stream`, its chunks.", &answer())
            .or_as(StatusCode::OK, "text/event-stream", &events())
            .fails(&FAILURES),
        context(openai("post", "/v1/responses", "Answer with text, thoughts and calls of tools"))
            .says(
                "Nothing is stored: `input` has the whole conversation, the items of earlier `output` among it, and `previous_response_id`, `conversation`, \
                 `prompt` and `background` are refused. Tools are the caller's own functions; `text.format` takes `json_schema`. Of other servers' \
                 additions there are those of chats. `usage.energy` tells joules.",
            )
            .takes(&response(), &json!({"model": "chat", "input": "Hello!"}))
            .answers(StatusCode::OK, "The response; with `stream`, its events.", &responded())
            .or_as(StatusCode::OK, "text/event-stream", &events())
            .fails(&FAILURES),
        context(openai("post", "/v1/completions", "Continue texts"))
            .says(
                "Without a template: names of special tokens in a text mean these tokens. `echo` cannot stand beside `logprobs` or a prompt of tokens, and there is no `suffix`.",
            )
            .takes(&completion(), &json!({"model": "chat", "prompt": "Once upon a time", "max_tokens": 16}))
            .answers(StatusCode::OK, "The continuations; with `stream`, their chunks.", &answer())
            .or_as(StatusCode::OK, "text/event-stream", &events())
            .fails(&FAILURES),
        context(openai("post", "/v1/embeddings", "Embed texts"))
            .takes(&embeddings(), &json!({"model": "embedder", "input": ["Hello!"]}))
            .answers(
                StatusCode::OK,
                "A vector of length 1 for each text.",
                &json!({"type": "object", "properties": {"data": {"type": "array"}, "usage": {"type": "object"}}}),
            )
            .fails(&FAILURES),
    ]
}

fn events() -> Value {
    json!({"type": "string", "description": "`data: {…}` for each chunk, `data: {\"error\": …}` if it fails midway, and `data: [DONE]`"})
}

fn answer() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object"}},
            "usage": {"type": "object"},
        },
    })
}

fn chat() -> Value {
    json!({
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": named("Name"),
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "tools": {"type": "array", "items": {"type": "object"}},
            "tool_choice": {"type": ["string", "object"]},
            "parallel_tool_calls": {"type": "boolean", "default": true},
            "response_format": {"type": "object"},
            "max_completion_tokens": {"type": "integer", "minimum": 1},
            "temperature": {"type": "number", "minimum": 0},
            "logprobs": {"type": "boolean"},
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "stream": {"type": "boolean", "default": false},
        },
    })
}

fn response() -> Value {
    json!({
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": named("Name"),
            "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
            "instructions": {"type": "string"},
            "tools": {"type": "array", "items": {"type": "object"}},
            "tool_choice": {"type": ["string", "object"]},
            "parallel_tool_calls": {"type": "boolean", "default": true},
            "text": {"type": "object"},
            "reasoning": {"type": "object"},
            "max_output_tokens": {"type": "integer", "minimum": 1},
            "temperature": {"type": "number", "minimum": 0},
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "stream": {"type": "boolean", "default": false},
        },
    })
}

fn responded() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "created_at": {"type": "integer"},
            "model": {"type": "string"},
            "status": {"enum": ["completed", "incomplete"]},
            "output": {"type": "array", "items": {"type": "object"}},
            "usage": {"type": "object"},
        },
    })
}

fn texts(description: &str) -> Value {
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    json!({
        "description": description,
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            tokens,
            {"type": "array", "items": tokens},
        ],
    })
}

fn completion() -> Value {
    json!({
        "type": "object",
        "required": ["model", "prompt"],
        "properties": {
            "model": named("Name"),
            "prompt": texts("one prompt or several, as texts or as tokens"),
            "max_tokens": {"type": "integer", "minimum": 1, "default": 16},
            "temperature": {"type": "number", "minimum": 0},
            "n": {"type": "integer", "minimum": 1},
            "best_of": {"type": "integer", "minimum": 1},
            "echo": {"type": "boolean"},
            "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "stream": {"type": "boolean", "default": false},
        },
    })
}

fn embeddings() -> Value {
    json!({
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": named("Name"),
            "input": texts("one text or several, as texts or as tokens"),
            "encoding_format": {"enum": ["float", "base64"], "default": "float"},
            "dimensions": {"type": "integer", "description": "as many as the model has"},
        },
    })
}
