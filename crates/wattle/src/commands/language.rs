//! What the commands that ask language models share.

use std::{
    io::{self, IsTerminal, Read, Write},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use crossterm::style::Stylize;
use serde_json::{Map, Value, json};
use wattle_core::grouped;

use crate::{
    client::Client,
    flags::SamplingFlags,
    output::{note, quantity, significant},
};

/// The most bytes that are read from the standard input.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// An answer as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
    asked: Instant,
    /// How long after it was asked for the first text came.
    first: Option<Duration>,
    /// How long after it was asked for the last event came.
    took: Duration,
    pub(super) text: String,
    reasoning: String,
    finish: Option<String>,
    usage: Value,
}

/// A part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// What the model thinks before it answers.
    Reasoning(&'a str),
    /// What it answers.
    Text(&'a str),
}

impl Answer {
    /// An answer that is about to be asked for.
    pub(super) fn new() -> Answer {
        Answer {
            asked: Instant::now(),
            first: None,
            took: Duration::ZERO,
            text: String::new(),
            reasoning: String::new(),
            finish: None,
            usage: Value::Null,
        }
    }

    /// Asks with this body, and follows the answer to its end; whoever stops earlier has what came until then.
    ///
    /// # Errors
    /// If the server refuses, fails on the way, or cannot be reached or understood; or what `seen` fails with.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        path: &str,
        mut body: Value,
        mut seen: impl FnMut(Part) -> io::Result<()>,
    ) -> Result<()> {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let end = client.stream(path, &body, |data| {
            if data == "[DONE]" {
                return Ok(ControlFlow::Break(()));
            }
            self.take(data, &mut seen)?;
            Ok(ControlFlow::Continue(()))
        });
        match end.await? {
            ControlFlow::Break(()) => Ok(()),
            ControlFlow::Continue(()) => bail!("the server ended the answer before it was complete"),
        }
    }

    /// Takes in an event, of a chat or of a completion.
    fn take(&mut self, data: &str, seen: &mut impl FnMut(Part) -> io::Result<()>) -> Result<()> {
        let event: Value = serde_json::from_str(data).context("an event of the server cannot be read")?;
        if let Some(error) = event.get("error") {
            let message = error["message"].as_str().unwrap_or("the server failed on the way");
            return Err(anyhow!("{message}"));
        }
        self.took = self.asked.elapsed();
        if event["usage"].is_object() {
            self.usage = event["usage"].clone();
        }
        let choice = &event["choices"][0];
        let texts = [&choice["delta"]["content"], &choice["text"]];
        let text = texts.into_iter().find_map(Value::as_str).unwrap_or_default();
        let reasoning = choice["delta"]["reasoning_content"].as_str().unwrap_or_default();
        if !(text.is_empty() && reasoning.is_empty()) {
            self.first.get_or_insert(self.took);
        }
        if !reasoning.is_empty() {
            self.reasoning += reasoning;
            seen(Part::Reasoning(reasoning))?;
        }
        if !text.is_empty() {
            self.text += text;
            seen(Part::Text(text))?;
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
        Ok(())
    }

    /// For people: what the answer took.
    pub(super) fn describe(&self) -> String {
        let mut told = Vec::new();
        if let Some(tokens) = self.usage["completion_tokens"].as_u64() {
            told.push(if tokens == 1 { "1 token".to_owned() } else { format!("{} tokens", grouped(tokens)) });
        }
        if let Some(speed) = self.tokens_per_second() {
            told.push(format!("{} tokens/s", significant(speed)));
        }
        if let Some(first) = self.first {
            told.push(format!("the first after {}", quantity(first.as_secs_f64(), "s")));
        }
        told.extend(energy(&self.usage).map(|(joules, label)| format!("{} ({label})", quantity(joules, "J"))));
        if self.finish.as_deref() == Some("length") {
            told.push("cut off: no more tokens were allowed".into());
        }
        told.join(", ")
    }

    /// For scripts: the answer, and what it took.
    pub(super) fn to_json(&self) -> Value {
        let mut record = json!({"text": self.text, "finish_reason": self.finish});
        if !self.reasoning.is_empty() {
            record["reasoning"] = self.reasoning.as_str().into();
        }
        record["usage"] = self.usage.clone();
        record["tokens_per_second"] = self.tokens_per_second().into();
        record["first_token_seconds"] = self.first.map(|first| first.as_secs_f64()).into();
        record["seconds"] = self.took.as_secs_f64().into();
        record
    }

    /// How fast tokens came after the first one.
    fn tokens_per_second(&self) -> Option<f64> {
        let after_first = self.usage["completion_tokens"].as_u64()?.checked_sub(1).filter(|tokens| *tokens > 0)?;
        let seconds = self.took.checked_sub(self.first?)?.as_secs_f64();
        (seconds > 0.0).then(|| after_first as f64 / seconds)
    }
}

/// The energy that a call's `usage` tells, in joules, and how it is known.
pub(super) fn energy(usage: &Value) -> Option<(f64, &str)> {
    let energy = &usage["energy"];
    Some((energy["joules"]["mid"].as_f64()?, energy["label"].as_str()?))
}

/// Adds how tokens are chosen to a request.
pub(super) fn sample(body: &mut Map<String, Value>, sampling: &SamplingFlags) {
    body.extend(sampling.temperature.map(|temperature| ("temperature".into(), temperature.into())));
    body.extend(sampling.seed.map(|seed| ("seed".into(), seed.into())));
}

/// Prints an answer on the standard output as it comes.
pub(super) struct Screen {
    is_terminal: bool,
    /// The last part was of the model's thoughts.
    thinks: bool,
    ends_line: bool,
}

impl Screen {
    pub(super) fn new() -> Screen {
        Screen { is_terminal: io::stdout().is_terminal(), thinks: false, ends_line: true }
    }

    /// Prints a part. Thoughts are for people alone.
    pub(super) fn print(&mut self, part: Part) -> io::Result<()> {
        forgive(self.write(part))
    }

    fn write(&mut self, part: Part) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match part {
            Part::Reasoning(_) if !self.is_terminal => return Ok(()),
            Part::Reasoning(text) => {
                self.thinks = true;
                let text = harmless(text);
                self.ends_line = text.ends_with('\n');
                write!(out, "{}", text.dim())?;
            }
            Part::Text(text) => {
                if std::mem::take(&mut self.thinks) {
                    out.write_all(if self.ends_line { b"\n" } else { b"\n\n" })?;
                }
                self.ends_line = text.ends_with('\n');
                match self.is_terminal {
                    true => out.write_all(harmless(text).as_bytes())?,
                    false => out.write_all(text.as_bytes())?,
                }
            }
        }
        out.flush()
    }

    /// Ctrl-C was pressed, which the terminal itself shows.
    pub(super) fn interrupted(&mut self) {
        self.ends_line = false;
    }

    /// Ends the line of an answer.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.ends_line, true) {
            true => Ok(()),
            false => forgive(writeln!(io::stdout().lock())),
        }
    }
}

/// A reader that has gone is no error.
fn forgive(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Says something beside an answer, on the standard error, so that it stands back where a person reads.
pub(super) fn aside(text: &str) {
    match io::stderr().is_terminal() {
        true => note(&text.dim().to_string()),
        false => note(text),
    }
}

/// What the standard input holds; `wanted` says what to give in its place.
///
/// # Errors
/// If it is a terminal, where nobody knows to type; or is too long, or no text.
pub(super) fn read_input(wanted: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        bail!("nothing is given: {wanted}, or write to the standard input");
    }
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes).context("cannot read the standard input")?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        bail!("the standard input has more than {} MiB: split it", MAX_INPUT_BYTES >> 20);
    }
    String::from_utf8(bytes).context("the standard input is not text in UTF-8")
}

/// A model's text without what could command a terminal.
fn harmless(text: &str) -> String {
    text.chars().filter(|character| !character.is_control() || matches!(character, '\n' | '\t')).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn taken(events: &[Value]) -> (Answer, Vec<String>) {
        let (mut answer, mut parts) = (Answer::new(), Vec::new());
        for event in events {
            let mut seen = |part: Part| {
                parts.push(format!("{part:?}"));
                Ok(())
            };
            answer.take(&event.to_string(), &mut seen).unwrap();
        }
        (answer, parts)
    }

    #[test]
    fn a_chats_chunks_become_an_answer() {
        let (answer, parts) = taken(&[
            json!({"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": null}),
            json!({"choices": [{"delta": {"reasoning_content": "hm"}}]}),
            json!({"choices": [{"delta": {"content": "Good "}}]}),
            json!({"choices": [{"delta": {"content": "day"}}]}),
            json!({"choices": [{"delta": {}, "finish_reason": "length"}]}),
            json!({"choices": [], "usage": {
                "completion_tokens": 3,
                "energy": {"joules": {"low": 1.0, "mid": 2.0, "high": 3.0}, "label": "estimated"}
            }}),
        ]);
        assert_eq!(parts, ["Reasoning(\"hm\")", "Text(\"Good \")", "Text(\"day\")"]);
        assert_eq!((answer.text.as_str(), answer.finish.as_deref()), ("Good day", Some("length")));
        let told = answer.describe();
        assert!(told.starts_with("3 tokens, "), "{told}");
        assert!(told.ends_with("2.00 J (estimated), cut off: no more tokens were allowed"), "{told}");
        assert_eq!(answer.to_json()["reasoning"], "hm");
    }

    #[test]
    fn a_completions_chunks_become_an_answer_and_failures_errors() {
        let (mut answer, _) = taken(&[json!({"choices": [{"text": "a"}]}), json!({"choices": [{"text": "b"}]})]);
        assert_eq!(answer.text, "ab");
        let error = json!({"error": {"message": "the model's process ended"}}).to_string();
        let error = answer.take(&error, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "the model's process ended");
        assert!(answer.take("{", &mut |_| Ok(())).is_err());
    }

    #[test]
    fn a_model_does_not_command_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\n\tc\u{9b}\r"), "a[2Jb\n\tc");
    }
}
