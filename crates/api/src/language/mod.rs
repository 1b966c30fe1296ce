//! What a person and a model say to each other, whatever protocol carries it: a conversation becomes a prompt, and the
//! pieces of an answer become text, reasoning and calls of tools.

mod conversation;

pub(crate) use conversation::{Conversation, Format, Message, Role, Tool, ToolCall, ToolChoice};
