//! The template of chats, wherever a folder has it.

use serde_json::Value;

use super::config::Folder;
use crate::Result;

/// A template is text that a person wrote.
const MOST_BYTES: usize = 1 << 20;

pub(super) fn of(folder: &Folder) -> Result<Option<String>> {
    if let Some(template) = folder.text("chat_template.jinja")? {
        return Ok(Some(template).filter(|template| template.len() <= MOST_BYTES));
    }
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let Some(value) = folder.json(file)? else { continue };
        let template = match value.get("chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            // Several of them, by what they are for.
            Some(Value::Array(named)) => {
                let is_default = |one: &&Value| one.get("name").and_then(Value::as_str) == Some("default");
                let chosen = named.iter().find(is_default).or(named.first());
                chosen.and_then(|one| one.get("template")?.as_str()).map(str::to_owned)
            }
            _ => None,
        };
        if template.is_some() {
            return Ok(template.filter(|template| template.len() <= MOST_BYTES));
        }
    }
    Ok(None)
}
