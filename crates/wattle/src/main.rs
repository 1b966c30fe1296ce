//! Wattle: train a model, store it, deploy it, call it, and know what each call cost.

#![forbid(unsafe_code)]

mod client;
mod commands;
mod flags;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::{flags::Flags, output::report_error};

fn main() -> ExitCode {
    let flags = Flags::parse();
    let output = flags.output;
    match commands::run(flags) {
        Ok(code) => code,
        Err(error) => {
            report_error(output, &error);
            ExitCode::FAILURE
        }
    }
}
