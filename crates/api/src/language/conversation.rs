use serde_json::{Map, Value};

/// All that a model is to continue.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: ToolChoice,
    /// Whether several tools may be called at once.
    pub(crate) parallel_calls: bool,
    /// The form of the answer.
    pub(crate) format: Format,
    /// Whether the last message, the assistant's, is to be continued rather than answered.
    pub(crate) continues: bool,
    /// What else the template is told (`enable_thinking`), as it came.
    pub(crate) variables: Map<String, Value>,
}

/// One turn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) role: Role,
    pub(crate) text: String,
    /// What the assistant thought before it answered.
    pub(crate) reasoning: Option<String>,
    /// The tools that the assistant called.
    pub(crate) calls: Vec<ToolCall>,
    /// The call that a tool answers.
    pub(crate) call_id: Option<String>,
    /// Who speaks, or the tool's name.
    pub(crate) name: Option<String>,
}

impl Message {
    /// A turn that is nothing but text.
    pub(crate) fn plain(role: Role, text: &str) -> Message {
        Message { role, text: text.to_owned(), reasoning: None, calls: Vec::new(), call_id: None, name: None }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Whoever runs the model; `developer` is the same.
    System,
    /// Whoever asks.
    User,
    /// The model.
    Assistant,
    /// What a tool answered.
    Tool,
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// The JSON Schema of its arguments, an object.
    pub(crate) parameters: Value,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON, as the model wrote it.
    pub(crate) arguments: String,
}

/// Whether tools are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// None is.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The form of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Format {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// JSON by a schema.
    Schema(Value),
    /// What a regular expression matches.
    Regex(String),
    /// What a grammar in Lark's form derives.
    Lark(String),
}
