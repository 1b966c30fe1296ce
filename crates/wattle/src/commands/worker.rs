//! The processes that the server starts.

use std::{
    fs,
    io::{self, BufReader, Read, Write},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use wattle_api::{
    import::{Inspection, inspect},
    worker::serve_model,
};
use wattle_train::worker::run_worker;

use crate::flags::WorkerCommand;

pub(crate) fn run(command: &WorkerCommand) -> Result<ExitCode> {
    // When memory runs out, this process is to go before the server. Where it may not be said, nothing is lost.
    let _ = fs::write("/proc/self/oom_score_adj", "800");
    match command {
        WorkerCommand::Train => Ok(run_worker(BufReader::new(io::stdin()), io::stdout())),
        WorkerCommand::Serve => Ok(serve_model(BufReader::new(io::stdin()), io::stdout())),
        WorkerCommand::Inspect => {
            let mut question = String::new();
            io::stdin().read_to_string(&mut question)?;
            let inspection: Inspection =
                serde_json::from_str(&question).context("no inspection on the standard input")?;
            serde_json::to_writer(io::stdout().lock(), &inspect(&inspection))?;
            io::stdout().flush()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
