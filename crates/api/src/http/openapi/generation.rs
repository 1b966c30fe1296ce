//! What language models do beside OpenAI's and Anthropic's protocols.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    calls::context,
    language::FAILURES,
    operation::{Operation, named},
};

pub(super) fn operations() -> Vec<Operation> {
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    let post = |path, summary| context(Operation::new("post", path, "language models", summary));
    let mut all = vec![
        post("/v1/rerank", "Sort documents by how near they are to a query")
            .says("The score is the cosine of the embeddings. The fields are Jina's and Cohere's.")
            .takes(&rerank(), &json!({"model": "embedder", "query": "cat", "documents": ["dog", "kitten"]}))
            .answers(StatusCode::OK, "The documents' indices and scores, the nearest first.", &ranked())
            .fails(&FAILURES),
        post("/api/v1/tokenize", "Tell a text's tokens")
            .takes(&text(), &json!({"model": "chat", "content": "Hello!"}))
            .answers(StatusCode::OK, "The tokens.", &json!({"type": "object", "properties": {"tokens": tokens}}))
            .fails(&FAILURES),
        post("/api/v1/detokenize", "Tell the text of tokens")
            .takes(
                &json!({
                    "type": "object",
                    "required": ["model", "tokens"],
                    "properties": {"model": named("Name"), "tokens": tokens},
                }),
                &json!({"model": "chat", "tokens": [1, 2]}),
            )
            .answers(
                StatusCode::OK,
                "The text; bytes that are no character are shown as U+FFFD.",
                &json!({"type": "object", "properties": {"text": {"type": "string"}}}),
            )
            .fails(&FAILURES),
    ];
    for path in ["/v2/models/{deployment}", "/v2/models/{deployment}/versions/{version}"] {
        let generate = |rest: &str, summary| {
            context(Operation::new("post", &format!("{path}/{rest}"), "open inference protocol", summary))
                .says("Without a template: names of special tokens in the text mean these tokens.")
                .takes(&generate(), &json!({"text_input": "Once upon a time", "parameters": {"max_tokens": 16}}))
        };
        all.push(
            generate("generate", "Continue a text")
                .answers(StatusCode::OK, "The continuation.", &generated())
                .fails(&FAILURES),
        );
        let events = json!({"type": "string", "description": "`data: {…}` for each piece, with what the text grew by"});
        all.push(
            generate("generate_stream", "Continue a text, piece by piece")
                .answers_as(StatusCode::OK, "The pieces.", "text/event-stream", &events)
                .fails(&FAILURES),
        );
    }
    all
}

fn rerank() -> Value {
    json!({
        "type": "object",
        "required": ["model", "query", "documents"],
        "properties": {
            "model": named("Name"),
            "query": {"type": "string"},
            "documents": {"type": "array", "minItems": 1, "maxItems": 2048, "items": {"type": ["string", "object"]}},
            "top_n": {"type": "integer", "minimum": 1},
            "return_documents": {"type": "boolean", "default": false},
        },
    })
}

fn ranked() -> Value {
    let result = json!({
        "type": "object",
        "properties": {
            "index": {"type": "integer"},
            "relevance_score": {"type": "number"},
            "document": {"type": "object"},
        },
    });
    json!({"type": "object", "properties": {"results": {"type": "array", "items": result}, "usage": {"type": "object"}}})
}

fn text() -> Value {
    let around = "whether the tokens that the model expects around a text are told";
    json!({
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": named("Name"),
            "content": {"type": "string"},
            "text": {"type": "string", "description": "the same as content"},
            "add_special": {"type": "boolean", "default": false, "description": around},
            "parse_special": {"type": "boolean", "default": true},
        },
    })
}

fn generate() -> Value {
    json!({
        "type": "object",
        "required": ["text_input"],
        "properties": {
            "text_input": {"type": "string"},
            "parameters": {
                "type": "object",
                "properties": {
                    "max_tokens": {"type": "integer", "minimum": 1},
                    "temperature": {"type": "number", "minimum": 0},
                    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
                    "top_k": {"type": "integer", "minimum": 0},
                    "seed": {"type": "integer"},
                    "stop": {"type": ["string", "array"]},
                    "details": {"type": "boolean", "default": false},
                },
            },
        },
    })
}

fn generated() -> Value {
    json!({
        "type": "object",
        "properties": {
            "model_name": named("Name"),
            "model_version": {"type": "string"},
            "text_output": {"type": "string"},
            "details": {"type": "object", "description": "why it ended, tokens and energy"},
        },
    })
}
