//! The training process: a child of the server, which it never outlives.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    ops::ControlFlow,
    path::PathBuf,
    process::{self, ExitCode},
    thread,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wattle_store::table::Table;

use crate::{
    Error, Result,
    events::{Done, Event, Failed, Reporter, cpu_seconds},
    fit::{Artefact, fit},
    spec::TrainingSpec,
};

/// The niceness of a training process: answering requests comes first.
const NICENESS: i32 = 10;

/// The longest request that is read, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 20;

/// What the server asks of the process: the first line of its standard input, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRequest {
    /// The data set in its normal form.
    pub table: PathBuf,
    /// The job's folder: the only one that is written to.
    pub work_dir: PathBuf,
    /// The job's keys, as [`TrainingSpec`] reads them.
    pub spec: Value,
}

/// Does the work that the first line of `stdin` asks for, and tells `stdout` about it, an [`Event`] a line.
///
/// The process exits when `stdin` ends, for then the server has ended: call this from a process of its own.
pub fn run_worker(mut stdin: impl BufRead + Send + 'static, stdout: impl Write + Send + 'static) -> ExitCode {
    let start = Instant::now();
    // A process that may not lower its own priority works at the usual one.
    let _ = rustix::process::nice(NICENESS);
    let reporter = Reporter::start(stdout);
    let outcome = read_request(&mut stdin).and_then(|request| {
        watch(stdin)?;
        train(&request, &reporter)
    });
    let (end, code) = match outcome {
        Ok(artefact) => {
            let wall_seconds = start.elapsed().as_secs_f64();
            (Event::Done(Box::new(Done { artefact, cpu_seconds: cpu_seconds(), wall_seconds })), ExitCode::SUCCESS)
        }
        Err(error) => (Event::Failed(Failed { error: error.to_string() }), ExitCode::FAILURE),
    };
    // Whoever does not listen any more has no use for the result either.
    match reporter.finish(&end) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_request(stdin: &mut impl BufRead) -> Result<WorkerRequest> {
    let mut line = String::new();
    stdin.by_ref().take(MAX_REQUEST_BYTES).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(|error| {
        Error::Invalid(format!(
            "this command is started by `wattle serve`, with a request on its standard input: {error}"
        ))
    })
}

/// Ends the process with its server, in whatever state the work is: the folder goes with the job.
fn watch(mut stdin: impl Read + Send + 'static) -> Result<()> {
    thread::Builder::new().name("watch".into()).spawn(move || {
        // Nothing more is expected; what comes nevertheless is passed over.
        let _ = io::copy(&mut stdin, &mut io::sink());
        process::exit(1);
    })?;
    Ok(())
}

fn train<W: Write + Send + 'static>(request: &WorkerRequest, reporter: &Reporter<W>) -> Result<Artefact> {
    let spec = TrainingSpec::from_value(request.spec.clone())?.resolve()?;
    fs::create_dir_all(&request.work_dir)?;
    let table = Table::open(&request.table)?;
    fit(&table, &spec, &request.work_dir, &mut |progress| {
        reporter.progress(progress);
        ControlFlow::Continue(())
    })
}
