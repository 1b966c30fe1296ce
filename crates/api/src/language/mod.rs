//! What a person and a model say to each other, whatever protocol carries it: a conversation becomes a prompt, and the
//! pieces of an answer become text, reasoning and calls of tools.

mod conversation;
mod dialect;
mod jinja;
mod messages;
mod reading;
mod scan;
mod template;

#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod template_tests;

pub(crate) use conversation::{Conversation, Format, Message, Role, Tool, ToolCall, ToolChoice};
pub(crate) use reading::{Delta, Ending, Reader, Reading};
pub(crate) use template::Template;
