//! SIGTERM, and a second server on the same data.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    process,
    raw::Connection,
    slow::{deploy_slow_model, start_endless_job},
    support::{PATIENCE, Server, command, wait_for},
};

#[test]
fn calls_under_way_are_answered_and_a_running_job_says_that_it_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &["--max-computing", "2"]);
    deploy_slow_model(&server);
    let mut warm = Connection::open(&server.url).unwrap();
    assert_eq!(warm.post("/predict", r#"{"x": [1.0]}"#).unwrap().status, 200);
    let id = start_endless_job(&server);
    let trainer = wait_for("the training process", || process::trainer(server.id()));
    let mut follower = server.start_command(&["jobs", "follow", &id]);
    let url = server.url.clone();
    // Some compute and the others wait for their turn.
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let mut connection = Connection::open(&url).unwrap();
            thread::spawn(move || connection.post("/predict", r#"{"x": [1.0]}"#))
        })
        .collect();
    wait_for("calls under way", || (server.json(&["ps"])[0]["in_flight"] != 0).then_some(()));
    thread::sleep(Duration::from_millis(50));
    server.terminate();
    for caller in callers {
        let answer = caller.join().unwrap().unwrap();
        let y = answer.json()["y"][0][0].as_f64().unwrap();
        assert!(answer.status == 200 && (y - 1.0).abs() < 1e-6, "{} {}", answer.status, answer.text);
    }
    assert!(!process::is_alive(trainer));
    assert_eq!(follower.wait().unwrap().code(), Some(1));
    assert!(Connection::open(&url).is_err());

    let server = Server::start_in(&data_dir, &[]);
    assert_eq!(server.json(&["jobs", "show", &id])["state"], "interrupted");
    let usage = server.json(&["usage", "--by", "deployment"]);
    let line = usage.as_array().unwrap().iter().find(|line| line["key"] == "slow").unwrap();
    assert_eq!((&line["requests"], &line["rows"]), (&json!(5), &json!(5)));
}

#[test]
fn a_call_that_takes_too_long_does_not_hold_up_the_end_for_ever() {
    let server = Server::start_with(&["--grace-seconds", "0"]);
    deploy_slow_model(&server);
    let mut connection = Connection::open(&server.url).unwrap();
    // So many rows take minutes.
    let body = json!({"x": vec![1.0; 20_000]}).to_string();
    connection.send("POST", "/predict", &[], body.as_bytes()).unwrap();
    wait_for("the call", || (server.json(&["ps"])[0]["in_flight"] == 1).then_some(()));
    let started = Instant::now();
    server.terminate();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_connection_that_is_kept_open_does_not_hold_up_the_end() {
    let server = Server::start_furnished();
    let mut connection = Connection::open(&server.url).unwrap();
    assert_eq!(connection.post("/models/founding/predict", r#"{"x": [1.0]}"#).unwrap().status, 200);
    let silent = Connection::open(&server.url).unwrap();
    let started = Instant::now();
    server.terminate();
    assert!(started.elapsed() < Duration::from_secs(10));
    drop((connection, silent));
}

#[test]
fn a_data_folder_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    let mut second = command()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    wait_for("the second server's end", || second.try_wait().unwrap());
    assert!(started.elapsed() < PATIENCE);
    let output = second.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("is used by another wattle server: stop that one, or choose another --data-dir"), "{error}");
    // The first one has noticed nothing, and the folder is free after it.
    server.furnish();
    server.terminate();
    Server::start_in(&data_dir, &[]).terminate();
}

#[test]
fn an_address_that_is_taken_is_told() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let address = server.url.trim_start_matches("http://");
    let output = command().args(["serve", "--listen", address, "--data-dir"]).arg(folder.path()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("cannot listen on {address}")) && error.contains("--listen"), "{error}");
}

#[test]
fn a_server_that_is_told_to_end_as_soon_as_it_listens_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        Server::start_in(&folder.path().join("data"), &[]).terminate();
    }
}
