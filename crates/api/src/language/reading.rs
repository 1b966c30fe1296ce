//! How the text of an answer is read, as it grows: what is thought, what is said, and which tools are called.
//!
//! A [`Reader`] takes characters one by one and knows nothing of the pieces in which they came, so that the pieces make
//! no difference. What could still be the beginning of a mark is held back until it is decided.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;
use wattle_serve::language::FinishReason;

use super::{dialect::Dialect, scan::Scan};

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALLED: &str = "</tool_call>";
const PYTHON: &str = "<|python_tag|>";
const CALLS: &str = "[TOOL_CALLS]";

/// How the text of an answer is read: where reasoning begins and ends, how tools are called.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    tools: Option<Tools>,
    thoughts: Thoughts,
}

#[derive(Debug, Clone)]
struct Tools {
    dialect: Dialect,
    names: Arc<[String]>,
    /// Whether everything behind the first call is left out.
    is_single: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thoughts {
    /// The model has none, or its marks are text.
    Never,
    /// It may begin with a mark of them.
    Marked,
    /// The prompt ended with that mark.
    Begun,
}

/// What an answer grew by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Delta {
    /// What is said.
    Text(String),
    /// What is thought.
    Reasoning(String),
    /// A tool is called; its arguments follow.
    CallBegun {
        /// Which call, from 0.
        index: u32,
        /// The call's own, made here.
        id: String,
        /// The tool's.
        name: String,
    },
    /// A call's arguments grew: JSON once it is whole.
    CallArguments {
        /// Which call.
        index: u32,
        /// What they grew by.
        text: String,
    },
    /// The answer ended; comes last, once.
    Ended(Ending),
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The model ended it.
    Stop,
    /// A stop string came; this one.
    StopString(String),
    /// It has as many tokens as it may.
    Length,
    /// Tools were called.
    ToolCalls,
}

/// The reader of one answer.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    tools: Option<Tools>,
    state: State,
    /// What is not decided yet.
    held: String,
    /// Whether thoughts came before, so that white space between them and the answer belongs to neither.
    has_thought: bool,
    /// How many calls have begun.
    calls: u32,
    reasoning_tokens: u32,
    deltas: Vec<Delta>,
}

#[derive(Debug, Clone)]
enum State {
    /// Nothing but white space so far; thoughts may begin if this is so, or calls.
    Lead { may_think: bool },
    /// Within thoughts; whether anything but white space was there.
    Thoughts { begun: bool },
    /// Within text.
    Text,
    /// A mark of calls came, and their objects must follow.
    Marked,
    /// In a call's object before its arguments, as far as that is known. `whole`: the arguments come before the name, so
    /// that the whole must be there first.
    Head { scan: Scan, whole: bool },
    /// In a call's arguments, one level down in its object.
    Arguments(Scan),
    /// Behind a call's arguments and within its object.
    Rest(Scan),
    /// Behind a call's object.
    After,
    /// Nothing further is told.
    Over,
}

impl Reading {
    /// Everything is said, and nothing called.
    pub(super) fn plain() -> Reading {
        Reading { tools: None, thoughts: Thoughts::Never }
    }

    /// These tools may be called.
    pub(super) fn with_tools<'a>(dialect: Dialect, names: impl Iterator<Item = &'a str>, is_single: bool) -> Reading {
        let names = names.map(str::to_owned).collect();
        Reading { tools: Some(Tools { dialect, names, is_single }), thoughts: Thoughts::Never }
    }

    /// The model thinks before it answers, and has begun to in the prompt or not.
    pub(super) fn with_thoughts(self, begun: bool) -> Reading {
        Reading { thoughts: if begun { Thoughts::Begun } else { Thoughts::Marked }, ..self }
    }

    /// A reader for one answer.
    pub(crate) fn begin(&self) -> Reader {
        let state = match self.thoughts {
            Thoughts::Never => State::Lead { may_think: false },
            Thoughts::Marked => State::Lead { may_think: true },
            Thoughts::Begun => State::Thoughts { begun: false },
        };
        let tools = self.tools.clone();
        Reader {
            tools,
            state,
            held: String::new(),
            has_thought: false,
            calls: 0,
            reasoning_tokens: 0,
            deltas: Vec::new(),
        }
    }
}

impl Reader {
    /// Whether what comes next is thought, as far as that is known.
    pub(crate) fn thinks(&self) -> bool {
        matches!(self.state, State::Thoughts { .. })
    }

    /// Takes in what an answer grew by, of so many tokens.
    pub(crate) fn read(&mut self, text: &str, tokens: u32) -> Vec<Delta> {
        let thought = self.thinks();
        let deltas = self.take(text);
        if thought || self.thinks() {
            self.reasoning_tokens += tokens;
        }
        deltas
    }

    /// How many tokens were thoughts, with the mark of their end.
    pub(crate) fn reasoning_tokens(&self) -> u32 {
        self.reasoning_tokens
    }

    /// Takes in what an answer grew by.
    pub(crate) fn take(&mut self, text: &str) -> Vec<Delta> {
        for letter in text.chars() {
            self.step(letter);
        }
        std::mem::take(&mut self.deltas)
    }

    /// The answer ended: what was held back, and why it ended.
    pub(crate) fn end(&mut self, reason: FinishReason) -> Vec<Delta> {
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Thoughts { begun: false } => {}
            State::Thoughts { begun: true } => self.think(&held),
            State::Lead { .. } if self.has_thought && held.trim().is_empty() => {}
            // The mark of a call's end may be cut off, or be the stop string.
            State::After if held.trim().is_empty() || CALLED.starts_with(held.trim()) => {}
            State::Lead { .. } | State::Text | State::Marked | State::Head { .. } | State::After => self.say(&held),
            State::Arguments(_) | State::Rest(_) | State::Over => {}
        }
        let ending = match reason {
            FinishReason::Length => Ending::Length,
            _ if self.calls > 0 => Ending::ToolCalls,
            FinishReason::End => Ending::Stop,
            FinishReason::Stop(text) => Ending::StopString(text),
        };
        self.deltas.push(Delta::Ended(ending));
        std::mem::take(&mut self.deltas)
    }

    fn step(&mut self, letter: char) {
        match &mut self.state {
            State::Over => {}
            State::Lead { .. } => {
                self.held.push(letter);
                self.lead();
            }
            State::Thoughts { .. } => {
                self.held.push(letter);
                self.thoughts();
            }
            State::Text => {
                self.held.push(letter);
                self.text();
            }
            State::Marked => self.marked(letter),
            State::Head { scan, whole } => {
                let was_in_string = scan.in_string();
                let depth = scan.step(letter);
                let arguments_begin = letter == '{' && depth == 2 && !was_in_string && !*whole;
                self.held.push(letter);
                if depth == 0 {
                    self.whole_call();
                } else if arguments_begin {
                    self.head();
                }
            }
            State::Arguments(scan) => {
                let depth = scan.step(letter);
                self.argue(letter);
                if depth == 0 {
                    self.state = State::Rest(Scan::opened());
                }
            }
            State::Rest(scan) => {
                if scan.step(letter) == 0 {
                    self.called();
                }
            }
            State::After => self.after(letter),
        }
    }

    /// The answer's beginning.
    fn lead(&mut self) {
        let State::Lead { may_think } = self.state else { return };
        let said = self.held.trim_start();
        if said.is_empty() {
            return;
        }
        if may_think && said == THINK {
            self.held.clear();
            self.state = State::Thoughts { begun: false };
            return;
        }
        if may_think && THINK.starts_with(said) {
            return;
        }
        if let Some(dialect) = self.tools.as_ref().map(|tools| tools.dialect) {
            let (mark, bare) = match dialect {
                Dialect::Hermes => (CALL, None),
                Dialect::Llama => (PYTHON, Some('{')),
                // The mark is a control token, and may have no text; or it was in the prompt.
                Dialect::Mistral => (CALLS, Some('[')),
            };
            if said == mark {
                self.state = State::Marked;
                return;
            }
            if mark.len() > said.len() && mark.starts_with(said) && said != "[" {
                return;
            }
            if dialect == Dialect::Mistral && said.starts_with('[') {
                // `[TOOL_CALLS]` and a bare list begin alike.
                if said == "[" || said[1..].trim_start().is_empty() {
                    return;
                }
                if said.ends_with('{') && said[1..].trim_start() == "{" {
                    self.state = State::Head { scan: Scan::opened(), whole: false };
                    return;
                }
            } else if bare == said.chars().next() && said.len() == 1 {
                self.state = State::Head { scan: Scan::opened(), whole: false };
                return;
            }
        }
        if self.has_thought {
            self.held = self.held.trim_start().to_owned();
        }
        self.state = State::Text;
        self.text();
    }

    /// Tells of thoughts what cannot be part of their end.
    fn thoughts(&mut self) {
        let State::Thoughts { begun } = &mut self.state else { return };
        if !*begun {
            if self.held.trim_start().is_empty() {
                self.held.clear();
                return;
            }
            *begun = true;
        }
        // White space before the end belongs to the mark, so that it is held too.
        if let Some(thought) = self.held.strip_suffix(THOUGHT) {
            let thought = thought.trim_end().to_owned();
            self.think(&thought);
            self.held.clear();
            self.has_thought = true;
            self.state = State::Lead { may_think: false };
            return;
        }
        let open = cut(&self.held, THOUGHT);
        let open = self.held[..open].trim_end().len();
        let rest = self.held.split_off(open);
        let told = std::mem::replace(&mut self.held, rest);
        self.think(&told);
    }

    /// Tells of text what cannot be the mark of a call.
    fn text(&mut self) {
        let mark = match self.tools.as_ref().map(|tools| tools.dialect) {
            Some(Dialect::Hermes) => CALL,
            Some(Dialect::Llama) => PYTHON,
            Some(Dialect::Mistral) => CALLS,
            None => "",
        };
        if !mark.is_empty()
            && let Some(before) = self.held.strip_suffix(mark)
        {
            let before = before.to_owned();
            self.say(&before);
            self.held = mark.to_owned();
            self.state = State::Marked;
            return;
        }
        let open = if mark.is_empty() { self.held.len() } else { cut(&self.held, mark) };
        let rest = self.held.split_off(open);
        let told = std::mem::replace(&mut self.held, rest);
        self.say(&told);
    }

    /// Behind a mark.
    fn marked(&mut self, letter: char) {
        let is_list = self.tools.as_ref().is_some_and(|tools| tools.dialect == Dialect::Mistral);
        match letter {
            '{' => {
                self.held.push(letter);
                self.state = State::Head { scan: Scan::opened(), whole: false };
            }
            '[' if is_list && !self.held.trim_end().ends_with(&['[', ','][..]) => self.held.push(letter),
            _ if letter.is_whitespace() => self.held.push(letter),
            _ => self.malformed(letter),
        }
    }

    /// A call's object as far as the arguments' bracket: they follow if a name was before.
    fn head(&mut self) {
        let object = self.held.find('{').unwrap_or_default();
        let head = format!("{}null}}", &self.held[object..self.held.len() - 1]);
        let named = serde_json::from_str::<Value>(&head).ok().and_then(|head| {
            let members = head.as_object()?;
            let arguments = members.get("arguments").or_else(|| members.get("parameters"))?;
            self.known(members.get("name")?).filter(|_| arguments.is_null())
        });
        match named {
            Some(name) => {
                self.held.clear();
                self.begin_call(name);
                self.argue('{');
                self.state = State::Arguments(Scan::opened());
            }
            None => {
                if let State::Head { whole, .. } = &mut self.state {
                    *whole = true;
                }
            }
        }
    }

    /// A call's whole object.
    fn whole_call(&mut self) {
        let object = self.held.find('{').unwrap_or_default();
        let call = serde_json::from_str::<Value>(&self.held[object..]).ok();
        let call = call.as_ref().and_then(Value::as_object).and_then(|members| {
            let name = self.known(members.get("name")?)?;
            match members.get("arguments").or_else(|| members.get("parameters")) {
                None | Some(Value::Null) => Some((name, "{}".to_owned())),
                Some(arguments @ Value::Object(_)) => Some((name, arguments.to_string())),
                // Some models write the arguments as a string of JSON.
                Some(Value::String(text)) => {
                    serde_json::from_str::<serde_json::Map<String, Value>>(text).ok().map(|_| (name, text.clone()))
                }
                Some(_) => None,
            }
        });
        match call {
            Some((name, arguments)) => {
                self.held.clear();
                self.begin_call(name);
                let index = self.calls - 1;
                self.deltas.push(Delta::CallArguments { index, text: arguments });
                self.called();
            }
            None => {
                let held = std::mem::take(&mut self.held);
                self.say(&held);
                self.state = State::Text;
            }
        }
    }

    fn called(&mut self) {
        let is_single = self.tools.as_ref().is_some_and(|tools| tools.is_single);
        self.state = if is_single { State::Over } else { State::After };
    }

    /// Behind a call: its end mark, white space, and further calls; everything else is text again.
    fn after(&mut self, letter: char) {
        let Some(dialect) = self.tools.as_ref().map(|tools| tools.dialect) else { return };
        self.held.push(letter);
        let held = self.held.trim();
        match dialect {
            _ if held.is_empty() => {}
            Dialect::Hermes if held == CALLED => self.held.clear(),
            Dialect::Hermes if held == CALL => self.state = State::Marked,
            Dialect::Hermes if CALLED.starts_with(held) || CALL.starts_with(held) => {}
            Dialect::Llama if held == ";" => {}
            Dialect::Llama if held == PYTHON => self.state = State::Marked,
            Dialect::Llama if PYTHON.starts_with(held) => {}
            Dialect::Llama if held.trim_start_matches(';').trim_start() == "{" => {
                self.state = State::Head { scan: Scan::opened(), whole: false };
            }
            Dialect::Mistral if held == "]" => self.held.clear(),
            Dialect::Mistral if held == "," => {}
            Dialect::Mistral if held.strip_prefix(',').is_some_and(|rest| rest.trim_start() == "{") => {
                self.state = State::Head { scan: Scan::opened(), whole: false };
            }
            _ => {
                self.held = self.held.trim_start().to_owned();
                self.state = State::Text;
                self.text();
            }
        }
    }

    /// What was taken for a call is none: it is text, and the letter may begin something new.
    fn malformed(&mut self, letter: char) {
        let held = std::mem::take(&mut self.held);
        self.say(&held);
        self.state = State::Text;
        self.held.push(letter);
        self.text();
    }

    fn known(&self, name: &Value) -> Option<String> {
        let name = name.as_str()?;
        self.tools.as_ref()?.names.iter().find(|known| *known == name).cloned()
    }

    fn begin_call(&mut self, name: String) {
        let id = format!("call_{}", Uuid::now_v7().simple());
        self.deltas.push(Delta::CallBegun { index: self.calls, id, name });
        self.calls += 1;
    }

    fn argue(&mut self, letter: char) {
        let index = self.calls - 1;
        match self.deltas.last_mut() {
            Some(Delta::CallArguments { index: last, text }) if *last == index => text.push(letter),
            _ => self.deltas.push(Delta::CallArguments { index, text: letter.into() }),
        }
    }

    fn say(&mut self, said: &str) {
        match self.deltas.last_mut() {
            _ if said.is_empty() => {}
            Some(Delta::Text(text)) => text.push_str(said),
            _ => self.deltas.push(Delta::Text(said.to_owned())),
        }
    }

    fn think(&mut self, thought: &str) {
        match self.deltas.last_mut() {
            _ if thought.is_empty() => {}
            Some(Delta::Reasoning(text)) => text.push_str(thought),
            _ => self.deltas.push(Delta::Reasoning(thought.to_owned())),
        }
    }
}

/// Where the longest end of `text` begins that `mark` begins with; the text's end if there is none.
fn cut(text: &str, mark: &str) -> usize {
    let starts = text.char_indices().rev().take(mark.len()).map(|(at, _)| at);
    starts.filter(|at| mark.starts_with(&text[*at..])).last().unwrap_or(text.len())
}
