//! Wattle: train a model, store it, deploy it, call it, and know what each call cost.

#![forbid(unsafe_code)]

mod client;
mod commands;
mod config;
mod flags;
mod output;

use std::{ffi::OsString, process::ExitCode};

use anyhow::anyhow;
use clap::{Parser, error::ErrorKind};
use mimalloc::MiMalloc;

use crate::{
    flags::{Flags, OutputFormat},
    output::report_error,
};

/// The system's allocator has its threads wait for each other where what one allocated another frees, as a server's do.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How a command line that cannot be read ends, as everywhere.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) if error.use_stderr() && asks_for_json(std::env::args_os()) => {
            report_error(OutputFormat::Json, &anyhow!(one_line(&error)));
            return ExitCode::from(USAGE_ERROR);
        }
        Err(error) => error.exit(),
    };
    let output = flags.output;
    match commands::run(flags) {
        Ok(code) => code,
        Err(error) => {
            report_error(output, &error);
            ExitCode::FAILURE
        }
    }
}

/// Whether a command line that cannot be read asks for JSON all the same.
fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = arguments.take_while(|word| word != "--").collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    words.iter().any(|word| joined.iter().any(|form| word == form))
        || words.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
}

/// What is wrong with a command line, without the usage that people are shown after it.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: `wattle --help` lists them".into();
    }
    let text = error.render().to_string();
    let said = text.trim_start_matches("error: ").split("\n\n");
    let said = said.map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    said.take_while(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more information"))
        // The list of subcommands holds hidden ones.
        .map(|paragraph| paragraph.split(" [subcommands:").next().unwrap_or_default().to_owned())
        .collect::<Vec<_>>()
        .join("; ")
}
