//! `wattle top`, as scripts use it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::{
    raw::Connection,
    support::{Server, command, nobody, wait_for},
};

/// Calls `founding` over and over, two rows at a time, while something else goes on.
fn under_load<T>(server: &Server, watch: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = Connection::open(&server.url).unwrap();
            while !done.load(Ordering::Relaxed) {
                assert_eq!(connection.post("/models/founding/predict", r#"{"x": [1.0, 2.0]}"#).unwrap().status, 200);
                assert_eq!(connection.post("/models/founding/predict", "{}").unwrap().status, 400);
            }
        });
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(watch));
        done.store(true, Ordering::Relaxed);
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn row<'a>(figures: &'a Value, name: &str) -> &'a Value {
    let rows = figures["deployments"].as_array().unwrap();
    rows.iter().find(|row| row["deployment"] == name).unwrap_or_else(|| panic!("no {name} in {figures}"))
}

#[test]
fn one_look_shows_what_goes_on() {
    let server = Server::start_furnished();
    let (figures, shown) = under_load(&server, || {
        (server.json(&["top", "--once", "--interval", "0.5"]), server.wattle(&["top", "--once", "--interval", "0.5"]))
    });
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {figures}"));
    let founding = row(&figures, "founding");
    assert_eq!(figures["deployments"][0], *founding, "the busiest comes first: {figures}");
    assert_eq!((&founding["model"], &founding["loaded"]), (&json!("founding:1"), &json!(true)));
    assert!(number(&founding["calls_per_second"]) > 0.0 && number(&figures["watts"]) > 0.0);
    assert!(number(&founding["p50_seconds"]) <= number(&founding["p99_seconds"]));
    // The two kinds of calls alternate, so that their numbers differ by one at most.
    let calls = number(&founding["calls_per_second"]) * number(&figures["interval_seconds"]);
    assert!((number(&founding["failed"]) * calls - calls / 2.0).abs() < 1.0 + 1e-6, "{founding}");
    assert_eq!(number(&founding["rows_per_batch"]), 2.0);
    assert!(number(&founding["joules_per_call"]) > 0.0 && number(&founding["watts"]) > 0.0);
    let penguins = row(&figures, "penguins");
    assert_eq!((&penguins["calls_per_second"], &penguins["p99_seconds"]), (&json!(0.0), &Value::Null));
    assert_eq!((&figures["ready"], &figures["version"]), (&json!(true), &json!(env!("CARGO_PKG_VERSION"))));

    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("wattle ") && lines[0].contains(&server.url), "{shown}");
    assert!(lines[4].starts_with("DEPLOYMENT") && lines[5].starts_with("founding"), "{shown}");
    assert_eq!(lines.len(), 8, "{shown}");
}

#[test]
fn a_stream_survives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    let address = server.url.trim_start_matches("http://").to_owned();
    let mut top = command()
        .args(["top", "-o", "json", "--interval", "0.1", "--url", &server.url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut until = |what: &str, found: fn(&Value) -> bool| {
        wait_for(what, || {
            let line = lines.next().unwrap().unwrap();
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            found(&line).then_some(line)
        })
    };
    until("figures", |line| line["ready"] == true);
    server.kill();
    let away = until("its absence", |line| line.get("error").is_some());
    assert!(away["error"].as_str().unwrap().contains("no server answers"), "{away}");
    let serve = ["serve", "--listen", &address, "--data-dir", data_dir.to_str().unwrap()];
    let again = command().args(serve).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut children = [again, top];
    until("its return", |line| line["ready"] == true);
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn what_cannot_be_shown_is_said() {
    let server = Server::start();
    let told = server.fails(&["top"]);
    assert!(told.contains("--once"), "{told}");
    let told = server.fails(&["top", "--once", "--interval", "0"]);
    assert!(told.contains("0.1 to 3600"), "{told}");
    let shown = server.wattle(&["top", "--once", "--interval", "0.1"]);
    assert!(shown.contains("nothing is deployed"), "{shown}");
    let told = server.fails(&["top", "--once", "--url", &nobody()]);
    assert!(told.contains("no server answers"), "{told}");
}
