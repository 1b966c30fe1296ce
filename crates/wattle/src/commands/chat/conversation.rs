use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Error, Result, anyhow};
use serde_json::{Map, Value, json};

use crate::{commands::language::sample, flags::ChatFlags};

/// What was said, and how it is answered.
#[derive(Debug)]
pub(super) struct Conversation {
    flags: ChatFlags,
    /// Questions and their answers in turn; the last one may have no answer.
    turns: Vec<(String, Option<String>)>,
    /// The last question, also where it got no answer.
    asked: Option<String>,
    /// Whether it is the last turn, with its answer.
    is_answered: bool,
    /// The turn in whose place it is asked again.
    replaced: Option<(String, Option<String>)>,
}

impl Conversation {
    pub(super) fn new(flags: ChatFlags) -> Conversation {
        Conversation { flags, turns: Vec::new(), asked: None, is_answered: false, replaced: None }
    }

    /// The request for an answer to this.
    pub(super) fn ask(&mut self, text: String) -> Value {
        self.asked = Some(text.clone());
        self.replaced = None;
        self.turns.push((text, None));
        let mut body = Map::new();
        body.insert("model".into(), self.flags.name.to_string().into());
        body.insert("messages".into(), self.messages());
        body.extend(self.flags.max_tokens.map(|tokens| ("max_tokens".into(), tokens.into())));
        sample(&mut body, &self.flags.sampling);
        body.into()
    }

    /// The request for another answer to the last question, in place of the one that it got. It has no seed, with which
    /// the answer would be the same.
    pub(super) fn ask_again(&mut self) -> Option<Value> {
        let asked = self.asked.take()?;
        // A question that got no answer was taken back already.
        let replaced = if self.is_answered { self.turns.pop() } else { None };
        let mut body = self.ask(asked);
        self.replaced = replaced;
        if let Some(body) = body.as_object_mut() {
            body.shift_remove("seed");
        }
        Some(body)
    }

    /// Takes in an answer; a question that got none is taken back, since models expect an answer between two questions,
    /// and an answer that was to be replaced stands.
    pub(super) fn take(&mut self, text: String) {
        match self.turns.last_mut() {
            Some((_, answer)) if !text.is_empty() => *answer = Some(text),
            _ => {
                self.turns.pop();
                self.is_answered = self.replaced.is_some();
                self.turns.extend(self.replaced.take());
                return;
            }
        }
        self.is_answered = true;
    }

    /// What the model is told before the chat.
    pub(super) fn instruction(&self) -> Option<&str> {
        self.flags.system.as_deref()
    }

    pub(super) fn instruct(&mut self, text: String) {
        self.flags.system = Some(text);
    }

    /// Forgets what was said.
    pub(super) fn clear(&mut self) {
        self.turns.clear();
        (self.asked, self.is_answered) = (None, false);
    }

    /// Writes what was said to a new file.
    ///
    /// # Errors
    /// If there is such a file already, or it cannot be written.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let record = json!({"model": self.flags.name, "messages": self.messages()});
        let shown = path.display();
        let made = OpenOptions::new().write(true).create_new(true).open(path);
        let mut file = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => anyhow!("there is a file {shown} already: name another one"),
            _ => Error::from(error).context(format!("cannot make {shown}")),
        })?;
        writeln!(file, "{record:#}").with_context(|| format!("cannot write {shown}"))
    }

    fn messages(&self) -> Value {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let system = self.instruction().map(|text| message("system", text));
        let turns = self.turns.iter().flat_map(|(question, answer)| {
            let answer = answer.as_ref().map(|text| message("assistant", text));
            [Some(message("user", question)), answer].into_iter().flatten()
        });
        system.into_iter().chain(turns).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::flags::{Command, Flags};

    fn conversation(line: &[&str]) -> Conversation {
        let flags = Flags::try_parse_from(["wattle", "chat", "m"].iter().chain(line)).unwrap();
        let Command::Chat(flags) = flags.command else { panic!() };
        Conversation::new(flags)
    }

    fn said(body: &Value) -> Vec<&str> {
        body["messages"].as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_question_comes_with_what_was_said_before() {
        let mut chat = conversation(&["--system", "s", "--seed", "3", "--max-tokens", "9"]);
        let body = chat.ask("q1".into());
        assert_eq!((&body["seed"], &body["max_tokens"], &body["model"]), (&json!(3), &json!(9), &json!("m")));
        chat.take("a1".into());
        assert_eq!(said(&chat.ask("q2".into())), ["s", "q1", "a1", "q2"]);
        chat.take("a2".into());
        let body = chat.ask_again().unwrap();
        assert_eq!(said(&body), ["s", "q1", "a1", "q2"]);
        assert!(body.get("seed").is_none());
        chat.clear();
        assert!(chat.ask_again().is_none());
        chat.instruct("t".into());
        assert_eq!(said(&chat.ask("q".into())), ["t", "q"]);
    }

    #[test]
    fn a_question_without_an_answer_is_taken_back_and_can_be_asked_again() {
        let mut chat = conversation(&[]);
        chat.ask("q1".into());
        chat.take("a1".into());
        chat.ask("q2".into());
        chat.take(String::new());
        assert_eq!(said(&chat.ask_again().unwrap()), ["q1", "a1", "q2"]);
        chat.take(String::new());
        assert_eq!(said(&chat.ask("q3".into())), ["q1", "a1", "q3"]);
    }

    #[test]
    fn an_answer_stands_until_there_is_another() {
        let mut chat = conversation(&[]);
        for _ in 0..2 {
            chat.ask("q".into());
            chat.take("a".into());
        }
        chat.ask_again();
        chat.take(String::new());
        assert_eq!(said(&chat.ask("q".into())), ["q", "a", "q", "a", "q"]);
        // The last question failed, and the one before it said the same.
        chat.take(String::new());
        assert_eq!(said(&chat.ask_again().unwrap()), ["q", "a", "q", "a", "q"]);
    }

    #[test]
    fn a_chat_is_saved_over_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.json");
        let mut chat = conversation(&[]);
        chat.ask("q".into());
        chat.take("a".into());
        chat.save(&path).unwrap();
        let saved: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(saved["messages"][1], json!({"role": "assistant", "content": "a"}));
        let refused = chat.save(&path).unwrap_err().to_string();
        assert!(refused.ends_with("chat.json already: name another one"), "{refused}");
    }
}
