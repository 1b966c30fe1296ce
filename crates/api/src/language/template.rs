//! The template of a model's chats: a conversation becomes the prompt that the model was trained to answer.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::{Environment, Error, value::Serde};
use serde_json::{Map, Value, json};
use wattle_core::LanguageModel;
use wattle_serve::language::{Constraint, Prompt};

use super::{
    Conversation, Format, Message, Reading, Role, ToolChoice,
    dialect::{Dialect, description, tool_json},
    jinja,
    messages::{Shown, messages},
};
use crate::{ApiError, Result};

/// What stands for the template of a model that brings none: ChatML, which more models were trained on than on any other
/// form. <https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md>
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// How many templates are kept compiled.
const KEPT: usize = 32;

static COMPILED: Mutex<VecDeque<Template>> = Mutex::new(VecDeque::new());

/// The compiled chat template of one model. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Template(Arc<Compiled>);

struct Compiled {
    source: String,
    beginning: String,
    end: String,
    environment: Environment<'static>,
    shown: Shown,
    /// How the template teaches the model to call tools, if it does.
    dialect: Option<Dialect>,
    /// Whether the model may think before it answers.
    thinks: bool,
}

/// A prompt, what its answer must be, and how the answer is read.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) prompt: Prompt,
    pub(crate) constraint: Constraint,
    /// What ends the answer, beside what the caller names.
    pub(crate) stop: Vec<String>,
    pub(crate) reading: Reading,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("dialect", &self.0.dialect)
            .field("shown", &self.0.shown)
            .finish_non_exhaustive()
    }
}

impl Template {
    /// The template that a model's file brings, or ChatML where it brings none. The last ones stay compiled.
    ///
    /// # Errors
    /// If the template is not Jinja.
    pub(crate) fn of(model: &LanguageModel) -> Result<Template> {
        let source = model.chat_template.as_deref().unwrap_or(CHATML);
        let (beginning, end) = (model.beginning.as_deref().unwrap_or(""), model.end.as_deref().unwrap_or(""));
        let is_it = |template: &Template| {
            template.0.source == source && template.0.beginning == beginning && template.0.end == end
        };
        let mut kept = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(is_it)
            && let Some(found) = kept.remove(at)
        {
            kept.push_front(found.clone());
            return Ok(found);
        }
        drop(kept);
        let template = Template(Arc::new(Compiled::new(source, beginning, end)?));
        let mut kept = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(template.clone());
        kept.truncate(KEPT);
        Ok(template)
    }

    /// The constraint of an answer that has this form and calls no tools.
    pub(crate) fn constraint(format: &Format) -> Constraint {
        match format {
            Format::Text => Constraint::None,
            Format::Json => Constraint::Json,
            Format::Schema(schema) => Constraint::JsonSchema(schema.to_string()),
            Format::Regex(pattern) => Constraint::Regex(pattern.clone()),
            Format::Lark(grammar) => Constraint::Lark(grammar.clone()),
        }
    }

    /// Makes the prompt of a conversation.
    ///
    /// # Errors
    /// What the template says of a conversation that it does not take, and of an answer's form that cannot be.
    pub(crate) fn render(&self, conversation: &Conversation) -> Result<Rendered> {
        let compiled = &*self.0;
        let has_tools = !conversation.tools.is_empty() && conversation.tool_choice != ToolChoice::None;
        if !has_tools && matches!(conversation.tool_choice, ToolChoice::Required | ToolChoice::Named(_)) {
            return Err(ApiError::invalid("tool_choice asks for a call, and there are no tools: send tools"));
        }
        let must_call = has_tools && conversation.tool_choice != ToolChoice::Auto;
        let is_free = !must_call && conversation.format == Format::Text;
        let dialect = compiled.dialect.unwrap_or(Dialect::Hermes);

        let mut text = compiled.text(conversation, has_tools, is_free)?;
        let opened = text.trim_end().ends_with("<think>");
        if opened && !is_free {
            // The whole answer has its form, so that there is no room for thoughts.
            text.truncate(text.trim_end().len());
            text += "\n\n</think>\n\n";
        }
        let begins_with_thoughts = opened && is_free;
        let constraint = match has_tools && !is_free {
            true => Constraint::Lark(dialect.grammar(conversation)?),
            false => Template::constraint(&conversation.format),
        };
        if must_call {
            text += dialect.opening();
        }
        let is_single = has_tools && !conversation.parallel_calls;
        let stop = dialect.stop().filter(|_| is_single).map(str::to_owned).into_iter().collect();
        let mut reading = match has_tools {
            true => Reading::with_tools(dialect, conversation.tools.iter().map(|tool| &*tool.name), is_single),
            false => Reading::plain(),
        };
        if compiled.thinks && is_free {
            reading = reading.with_thoughts(begins_with_thoughts);
        }
        Ok(Rendered { prompt: Prompt::Text { text, special: true }, constraint, stop, reading })
    }
}

impl Compiled {
    fn new(source: &str, beginning: &str, end: &str) -> Result<Compiled> {
        let environment = jinja::compile(source).map_err(|error| {
            ApiError::invalid(format!("the model's chat template cannot be read: {}", jinja::reason(&error)))
        })?;
        let dialect = Dialect::of(source);
        let nulls = ["content'] is none", "content\"] is none", "content is none", "content'] is not none"];
        let shown = Shown {
            system: true,
            calls: dialect.is_some(),
            null: nulls.iter().any(|test| source.contains(test)),
            maps: true,
            short_ids: dialect == Some(Dialect::Mistral),
        };
        let mut compiled = Compiled {
            source: source.to_owned(),
            beginning: beginning.to_owned(),
            end: end.to_owned(),
            environment,
            shown,
            dialect,
            thinks: source.contains("</think>"),
        };
        // Templates of models that were trained without system messages leave them out or refuse them.
        let needle = "which haystack has it";
        let turn = |role, text: &str| Message::plain(role, text);
        let probe = [turn(Role::System, needle), turn(Role::User, "none")];
        let told = compiled.rendered(json!({"messages": messages(&probe, shown), "add_generation_prompt": true}));
        compiled.shown.system = told.is_ok_and(|text| text.contains(needle));
        Ok(compiled)
    }

    fn text(&self, conversation: &Conversation, has_tools: bool, is_free: bool) -> Result<String> {
        let mut turns = conversation.messages.clone();
        if has_tools && self.dialect.is_none() {
            let description = description(&conversation.tools);
            match turns.first_mut() {
                Some(first) if first.role == Role::System => first.text = format!("{}\n\n{description}", first.text),
                _ => turns.insert(0, Message::plain(Role::System, &description)),
            }
        }
        let continued = turns.last().filter(|last| conversation.continues && last.role == Role::Assistant);
        let continued = continued.map(|last| last.text.trim().to_owned());
        let mut variables = conversation.variables.clone();
        if !is_free {
            variables.insert("enable_thinking".into(), false.into());
        }
        if has_tools && self.dialect.is_some() {
            variables.insert("tools".into(), conversation.tools.iter().map(tool_json).collect());
        }
        variables.insert("add_generation_prompt".into(), continued.is_none().into());

        let mut told = self.of_messages(&turns, self.shown, &mut variables);
        if told.is_err() && turns.iter().any(|turn| !turn.calls.is_empty()) {
            // Templates that join the arguments to text want them as text.
            let again = self.of_messages(&turns, Shown { maps: false, ..self.shown }, &mut variables);
            told = again.or(told);
        }
        let mut text = told.map_err(|error| {
            ApiError::invalid(format!("the model's chat template refuses this: {}", jinja::reason(&error)))
        })?;
        if let Some(continued) = continued {
            let end = text.rfind(&continued).map(|at| at + continued.len()).ok_or_else(|| {
                ApiError::invalid(
                    "the model's chat template does not show the last message, so that it cannot be continued",
                )
            })?;
            text.truncate(end);
        }
        Ok(text)
    }

    fn of_messages(
        &self,
        turns: &[Message],
        shown: Shown,
        variables: &mut Map<String, Value>,
    ) -> Result<String, Error> {
        variables.insert("messages".into(), messages(turns, shown));
        self.rendered(Value::Object(variables.clone()))
    }

    fn rendered(&self, mut variables: Value) -> Result<String, Error> {
        variables["bos_token"] = self.beginning.as_str().into();
        variables["eos_token"] = self.end.as_str().into();
        self.environment.get_template(jinja::NAME)?.render(Serde(variables))
    }
}
