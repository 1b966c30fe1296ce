//! OpenAI's protocol: responses, chats, completions, embeddings and the list of models. A model's name is its deployment's.
//!
//! Source: OpenAI's API reference, <https://platform.openai.com/docs/api-reference>; what other servers add to it
//! (`top_k`, `min_p`, `chat_template_kwargs`, `guided_regex`, …) has their names.

mod chat;
mod chat_answer;
mod chat_request;
mod completion_answer;
mod completions;
mod embeddings;
mod error;
mod models;
mod parameters;
mod response_answer;
mod response_request;
mod responses;
mod usage;

pub(super) use chat::create as chat;
pub(super) use completions::create as completions;
pub(super) use embeddings::create as embeddings;
pub(super) use error::Refusal;
pub(super) use models::{list as models, show as model};
pub(super) use responses::create as responses;

use bytes::Bytes;
use serde_json::Value;

/// An event with this JSON.
fn event(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// The last event.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// Now, in seconds since 1970.
fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// An id with this beginning.
fn new_id(prefix: &str) -> String {
    format!("{prefix}{}", uuid::Uuid::now_v7().simple())
}
