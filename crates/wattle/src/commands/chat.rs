mod conversation;
mod line;

use std::io::{self, IsTerminal};

use anyhow::{Result, bail};
use serde::Deserialize;
use wattle_core::grouped;

use self::{
    conversation::Conversation,
    line::{Editor, Line, Order},
};
use super::{
    Context,
    language::{Answer, Screen, aside, read_input},
};
use crate::{
    flags::{ChatFlags, OutputFormat},
    output::{note, print_line, report_error},
};

const PATH: &str = "/v1/chat/completions";

const HELP: &str = "\
/system TEXT  tell the model this before the chat; without a text, show what it is told
/clear        forget the chat
/retry        ask the last question again
/save FILE    write the chat to a new file, as JSON
/exit         end, as Ctrl-D does
Ctrl-C stops an answer.";

pub(crate) async fn run(context: &Context, flags: ChatFlags) -> Result<()> {
    let prompt = match flags.prompt.clone() {
        Some(prompt) => Some(prompt),
        None if !io::stdin().is_terminal() => Some(read_input("give a message with --prompt")?.trim_end().to_owned()),
        None => None,
    };
    match prompt {
        Some(prompt) => ask_once(context, flags, prompt).await,
        None if context.output == OutputFormat::Json => {
            bail!("a chat is for people: with -o json, give a message with --prompt, or on the standard input")
        }
        None => talk(context, flags).await,
    }
}

async fn ask_once(context: &Context, flags: ChatFlags, prompt: String) -> Result<()> {
    if prompt.trim().is_empty() {
        bail!("the message is empty: give one with --prompt, or on the standard input");
    }
    let body = Conversation::new(flags).ask(prompt);
    let mut answer = Answer::new();
    match context.output {
        OutputFormat::Json => {
            answer.follow(&context.client, PATH, body, |_| Ok(())).await?;
            print_line(&answer.to_json().to_string())?;
        }
        OutputFormat::Table => {
            let mut screen = Screen::new();
            let outcome = answer.follow(&context.client, PATH, body, |part| screen.print(part)).await;
            screen.end()?;
            outcome?;
            aside(&answer.describe());
        }
    }
    Ok(())
}

/// What the server says of a model.
#[derive(Debug, Deserialize)]
struct Served {
    id: String,
    max_model_len: Option<u64>,
}

async fn talk(context: &Context, flags: ChatFlags) -> Result<()> {
    let served: Served = context.client.get(&format!("/v1/models/{}", flags.name)).await?;
    let size = served.max_model_len.map_or_else(String::new, |size| format!(", {} tokens of context", grouped(size)));
    aside(&format!("{}{size}. /help lists what there is beside talk; Ctrl-D ends.", served.id));
    let mut conversation = Conversation::new(flags);
    let mut editor = Editor::open()?;
    loop {
        let line;
        (editor, line) = editor.read().await?;
        let body = match line {
            Line::Nothing => continue,
            Line::End => return Ok(()),
            Line::Wrong(wrong) => {
                note(&wrong);
                continue;
            }
            Line::Message(text) => conversation.ask(text),
            Line::Order(Order::Exit) => return Ok(()),
            Line::Order(Order::Retry) => match conversation.ask_again() {
                Some(body) => body,
                None => {
                    note("nothing was asked yet");
                    continue;
                }
            },
            Line::Order(order) => {
                obey(&mut conversation, order);
                continue;
            }
        };
        answer(context, &mut conversation, body).await?;
    }
}

fn obey(conversation: &mut Conversation, order: Order) {
    match order {
        Order::System(Some(text)) => {
            conversation.instruct(text);
            aside("the model is told this from the next question on");
        }
        Order::System(None) => note(conversation.instruction().unwrap_or("the model is told nothing before the chat")),
        Order::Clear => {
            conversation.clear();
            aside("the chat is forgotten");
        }
        Order::Save(path) => match conversation.save(&path) {
            Ok(()) => aside(&format!("written to {}", path.display())),
            Err(error) => report_error(OutputFormat::Table, &error),
        },
        Order::Help => note(HELP),
        Order::Retry | Order::Exit => {}
    }
}

/// Prints the answer and takes it into the conversation. What the server refuses ends no chat.
async fn answer(context: &Context, conversation: &mut Conversation, body: serde_json::Value) -> Result<()> {
    let (mut answer, mut screen) = (Answer::new(), Screen::new());
    let outcome = tokio::select! {
        outcome = answer.follow(&context.client, PATH, body, |part| screen.print(part)) => Some(outcome),
        pressed = tokio::signal::ctrl_c() => {
            pressed?;
            None
        }
    };
    if outcome.is_none() {
        screen.interrupted();
    }
    screen.end()?;
    match outcome {
        None => aside("stopped"),
        Some(Ok(())) => aside(&answer.describe()),
        Some(Err(error)) => report_error(OutputFormat::Table, &error),
    }
    conversation.take(answer.text);
    Ok(())
}
