//! Anthropic's protocol: messages, and how many tokens they have. A model's name is its deployment's.
//!
//! Source: Anthropic's API reference, <https://docs.anthropic.com/en/api/messages>.

mod error;
mod messages;
mod request;
mod writer;

pub(super) use messages::{count, create};
