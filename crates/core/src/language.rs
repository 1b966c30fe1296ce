use serde::{Deserialize, Serialize};

/// What a language model's file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanguageModel {
    /// The family: `llama`, `qwen3`, `bert`.
    pub architecture: String,
    /// What its makers call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How many weights it has.
    pub parameters: u64,
    /// The type that most of its weights' bytes have, by ggml's name: `Q8_0`, `F16`.
    pub weights: String,
    /// How many tokens it was trained to see at once.
    pub context_tokens: u64,
    /// How many numbers stand for a token within it, and, where it embeds, for a text.
    pub width: u64,
    /// How many layers it has.
    pub layers: u64,
    /// How many tokens its vocabulary has.
    pub vocabulary: u64,
    /// What a token's keys and values take in all layers, with 16 bits a number, in bytes; 0 for a model that keeps none.
    pub cache_bytes_per_token: u64,
    /// Whether it embeds texts rather than continue them.
    pub embeds: bool,
    /// The template of its chats, in Jinja's language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// The name of the token that it expects first, for templates: `<s>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beginning: Option<String>,
    /// The name of the token that ends its answers, for templates: `</s>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}
