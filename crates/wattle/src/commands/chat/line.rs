use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use rustyline::{Config, DefaultEditor, error::ReadlineError};

use crate::output::note;

/// How many lines are remembered from one chat to the next.
const REMEMBERED_LINES: usize = 1000;

/// What a person wrote.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    /// No more will come.
    End,
    Message(String),
    Order(Order),
    /// No order, though it looks like one; with what to do.
    Wrong(String),
}

/// What the program does, rather than the model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    System(Option<String>),
    Clear,
    Retry,
    Save(PathBuf),
    Help,
    Exit,
}

impl Line {
    fn of(text: &str) -> Line {
        let text = text.trim();
        let Some(order) = text.strip_prefix('/') else {
            return if text.is_empty() { Line::Nothing } else { Line::Message(text.to_owned()) };
        };
        let (word, rest) = order.split_once(char::is_whitespace).unwrap_or((order, ""));
        let rest = rest.trim();
        Line::Order(match (word, rest) {
            ("system", "") => Order::System(None),
            ("system", text) => Order::System(Some(text.to_owned())),
            ("save", "") => return Line::Wrong("say where to: /save FILE".into()),
            ("save", path) => Order::Save(path.into()),
            ("clear", "") => Order::Clear,
            ("retry", "") => Order::Retry,
            ("help" | "?", "") => Order::Help,
            ("exit" | "quit" | "bye", "") => Order::Exit,
            _ => return Line::Wrong(format!("there is no /{order}: /help lists what there is")),
        })
    }
}

/// Reads lines from the terminal; earlier ones come back with the arrow keys, also those of earlier chats.
pub(super) struct Editor {
    lines: DefaultEditor,
    /// Where lines are remembered, if anywhere.
    history: Option<PathBuf>,
}

impl Editor {
    /// # Errors
    /// If there is no terminal.
    pub(super) fn open() -> Result<Editor> {
        let config = Config::builder().max_history_size(REMEMBERED_LINES)?.auto_add_history(true).build();
        let mut lines = DefaultEditor::with_config(config).context("cannot read from the terminal")?;
        let history = history_file();
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = lines.load_history(path)
        {
            note(&format!("earlier lines are not remembered: {}: {error}", path.display()));
        }
        Ok(Editor { lines, history })
    }

    /// Waits for a line, while connections are looked after. The editor comes back with it.
    ///
    /// # Errors
    /// If the terminal has gone.
    pub(super) async fn read(mut self) -> Result<(Editor, Line)> {
        let read = tokio::task::spawn_blocking(move || {
            let line = self.lines.readline(">>> ");
            (self, line)
        });
        let (mut editor, line) = read.await?;
        let line = match line {
            Ok(line) => {
                editor.remember();
                Line::of(&line)
            }
            Err(ReadlineError::Interrupted) => Line::Nothing,
            Err(ReadlineError::Eof) => Line::End,
            Err(error) => return Err(error).context("cannot read from the terminal"),
        };
        Ok((editor, line))
    }

    /// Writes the line to the history at once: a chat may end in many ways.
    fn remember(&mut self) {
        let Some(path) = &self.history else { return };
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = folder.map_err(ReadlineError::from).and_then(|()| self.lines.append_history(path));
        if let Err(error) = written {
            note(&format!("lines are not remembered: {}: {error}", path.display()));
            self.history = None;
        }
    }
}

/// Where the XDG Base Directory Specification puts a history; nowhere without a home.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("wattle/chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_or_an_order() {
        for (text, line) in [
            ("  ", Line::Nothing),
            (" What is 1/2? ", Line::Message("What is 1/2?".into())),
            ("/system", Line::Order(Order::System(None))),
            ("/system  Be brief. ", Line::Order(Order::System(Some("Be brief.".into())))),
            ("/save my chat.json", Line::Order(Order::Save("my chat.json".into()))),
            ("/exit", Line::Order(Order::Exit)),
        ] {
            assert_eq!(Line::of(text), line, "{text}");
        }
        for wrong in ["/save", "/clear all", "/", "/clera"] {
            assert!(matches!(Line::of(wrong), Line::Wrong(_)), "{wrong}");
        }
    }
}
