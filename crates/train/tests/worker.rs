//! The training process, in a process of its own: this test's binary, called again.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    env,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::tempdir;
use wattle_train::{events::Event, fit::MODEL_FILE, worker::run_worker};

#[test]
#[ignore = "it is the child of the other tests"]
fn child() {
    let code = run_worker(BufReader::new(io::stdin()), io::stdout());
    // The test harness would otherwise say on the standard output how the test went.
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

fn start(folder: &Path, job: &Value) -> Child {
    let mut csv = "x,y\n".to_owned();
    for x in 0..2000 {
        writeln!(csv, "{x},{}", 2 * x + 1).unwrap();
    }
    common::table(folder, &csv);
    let mut spec = json!({"algorithm": "linear-regression", "data": "line", "target": "y"});
    spec.as_object_mut().unwrap().extend(job.as_object().unwrap().clone());
    let request = json!({"table": folder.join("table.parquet"), "work_dir": folder.join("job"), "spec": spec});
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{request}").unwrap();
    child
}

/// The events, without what the test harness says before and between them.
fn events(child: &mut Child) -> impl Iterator<Item = Event> + use<> {
    let event = |line: io::Result<String>| {
        let line = line.unwrap();
        serde_json::from_str(&line[line.find('{')?..]).ok()
    };
    BufReader::new(child.stdout.take().unwrap()).lines().filter_map(event)
}

#[test]
fn a_job_tells_its_progress_and_its_end() {
    let folder = tempdir().unwrap();
    let mut child = start(folder.path(), &json!({}));
    let events: Vec<Event> = events(&mut child).collect();
    let Some(Event::Done(done)) = events.last() else { panic!("{events:?}") };
    assert!((done.artefact.metrics["coefficients"]["x"].as_f64().unwrap() - 2.0).abs() < 1e-6);
    assert!(done.cpu_seconds > 0.0 && done.wall_seconds > 0.0);
    assert!(matches!(events.first(), Some(Event::Progress(_))), "{events:?}");
    assert!(folder.path().join("job").join(MODEL_FILE).is_file());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_job_that_cannot_be_done_says_why() {
    let folder = tempdir().unwrap();
    let mut child = start(folder.path(), &json!({"target": "z"}));
    let events: Vec<Event> = events(&mut child).collect();
    let Some(Event::Failed(failed)) = events.last() else { panic!("{events:?}") };
    assert!(failed.error.contains("no column \"z\""), "{}", failed.error);
    assert!(!child.wait().unwrap().success());
}

#[test]
fn the_process_ends_with_its_server() {
    let folder = tempdir().unwrap();
    let endless = json!({"optimizer": "gd", "iterations": 4_000_000_000_u64, "learning-rate": 1e-9, "tolerance": 0});
    let mut child = start(folder.path(), &endless);
    let mut events = events(&mut child);
    assert!(matches!(events.next(), Some(Event::Progress(_))));
    // The server's death closes the pipe.
    drop(child.stdin.take());
    let dropped = Instant::now();
    assert!(events.all(|event| matches!(event, Event::Progress(_))));
    assert!(!child.wait().unwrap().success());
    assert!(dropped.elapsed() < Duration::from_secs(5));
}
