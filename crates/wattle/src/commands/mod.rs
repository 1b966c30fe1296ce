//! One file per command.

mod bench;
mod chat;
mod config;
mod convert;
mod data;
mod deploy;
mod docs;
mod embed;
mod generate;
mod health;
mod image;
mod jobs;
mod language;
mod logs;
mod models;
mod predict;
mod quickstart;
mod rollout;
mod serve;
mod top;
mod train;
mod usage;
mod worker;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use tokio::runtime::Builder;

use crate::{
    client::Client,
    flags::{Command, Flags, OutputFormat},
};

/// What every command that talks to a server needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) output: OutputFormat,
}

/// Does what the command line says.
pub(crate) fn run(flags: Flags) -> Result<ExitCode> {
    match flags.command {
        Command::Worker(command) => return worker::run(&command),
        Command::Serve(serve) => {
            block_on(Builder::new_multi_thread(), serve::run(&serve, flags.ca_file.as_deref()))?;
            // A model may still be loaded, or computed with for a call whose grace is over.
            wattle_engine::exit(0)
        }
        Command::Config(command) => {
            return block_on(Builder::new_current_thread(), config::run(flags.output, &command));
        }
        Command::Docs { page } => return docs::run(page),
        _ => {}
    }
    let client = Client::new(&flags.url, flags.ca_file.as_deref())?;
    let context = Context { client, ca_file: flags.ca_file, output: flags.output };
    let command = async {
        match flags.command {
            Command::Quickstart(flags) => quickstart::run(&context, &flags).await,
            Command::Data(command) => data::run(&context, command).await,
            Command::Train(flags) => return train::run(&context, *flags).await,
            Command::Jobs(command) => return jobs::run(&context, command).await,
            Command::Models(command) => models::run(&context, command).await,
            Command::Deploy(flags) => deploy::deploy(&context, *flags).await,
            Command::Promote { name } => rollout::promote(&context, &name).await,
            Command::Rollback { name } => rollout::roll_back(&context, &name).await,
            Command::History { name } => rollout::history(&context, &name).await,
            Command::Ps => deploy::list(&context).await,
            Command::Logs { name, tail, follow } => logs::run(&context, &name, tail, follow).await,
            Command::Undeploy { name } => deploy::undeploy(&context, &name).await,
            Command::Bench(flags) => return bench::run(&context, *flags).await,
            Command::Predict(flags) => predict::run(&context, flags).await,
            Command::Chat(flags) => chat::run(&context, flags).await,
            Command::Generate(flags) => generate::run(&context, *flags).await,
            Command::Embed(flags) => embed::run(&context, flags).await,
            Command::Image(command) => image::run(&context, *command).await,
            Command::Health => health::run(&context).await,
            Command::Usage(flags) => usage::run(&context, flags).await,
            Command::Top(flags) => top::run(&context, flags).await,
            Command::Gc => usage::collect_garbage(&context).await,
            Command::Worker(_) | Command::Serve(_) | Command::Config(_) | Command::Docs { .. } => Ok(()),
        }
        .map(|()| ExitCode::SUCCESS)
    };
    block_on(Builder::new_current_thread(), command)
}

fn block_on(mut builder: Builder, command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = builder.enable_all().build()?;
    let outcome = runtime.block_on(command);
    // To drop it would wait for what its threads still compute or read, however long that takes.
    runtime.shutdown_background();
    outcome
}
