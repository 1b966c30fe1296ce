//! The pages of the documents that are made from the program itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Command, CommandFactory};

use crate::{
    config::reference,
    flags::{Flags, Page},
    output::print_line,
};

pub(crate) fn run(page: Page) -> Result<ExitCode> {
    let text = match page {
        Page::Cli => command_line(),
        Page::Configuration => reference::page(),
    };
    print_line(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn command_line() -> String {
    let mut text = String::from(
        "# The command line\n\nMade by `make docs` from the program itself. Every command takes `--url` (or `WATTLE_URL`) and `-o json`.\n",
    );
    let mut command = Flags::command();
    command.build();
    describe(&mut command, "wattle", &mut text);
    text
}

fn describe(command: &mut Command, path: &str, text: &mut String) {
    let help = command.clone().term_width(100).render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {path}\n\n```text\n{}\n```\n", help.join("\n")));
    for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name());
        describe(inner, &path, text);
    }
}
