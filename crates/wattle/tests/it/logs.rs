//! What the log says of calls.

use std::{
    fs::{self, File},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::support::{Server, command, post, send, wait_for};

#[test]
fn a_failed_call_has_one_line_with_the_id_that_came_back() {
    let folder = tempfile::tempdir().unwrap();
    let (data_dir, log) = (folder.path().join("data"), folder.path().join("log"));
    let mut launcher = command();
    launcher.stderr(File::create(&log).unwrap()).env("WATTLE_LOG", "info");
    let server = Server::spawn(launcher, &data_dir, &["--log-format", "json"]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let unload = format!("{}/api/v1/deployments/founding/unload", server.url);
    assert_eq!(post(&unload, &json!({})).status, 200);
    let digest = server.json(&["models", "show", "founding"])["digest"].as_str().unwrap().to_owned();
    let blob = data_dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "no model").unwrap();

    let url = format!("{}/models/founding/predict", server.url);
    let call = |id: &'static str, body: &Value| send(|client| client.post(&url).header("x-request-id", id).json(body));
    let answer = call("first-call", &json!({"x": [271_828.0]}));
    assert_eq!((answer.status, answer.header("x-request-id")), (503, "first-call"));
    let answer = call("a-callers-slip", &json!({"z": [1.0]}));
    assert_eq!((answer.status, answer.header("x-request-id")), (400, "a-callers-slip"));
    let made = post(&url, &json!({"x": [1.0]}));
    let id = made.header("x-request-id");
    assert!(id.len() >= 16, "{id}");

    // What a thread has written is there at once; what another writes may come a little later.
    let text = wait_for("the log", || fs::read_to_string(&log).ok().filter(|text| text.contains(id)));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |id: &str| -> Vec<&Value> { lines.iter().filter(|line| line["span"]["id"] == id).collect() };
    let first = of("first-call");
    assert_eq!(first.iter().filter(|line| line["fields"]["message"] == "a call failed").count(), 1, "{text}");
    let reason = first.iter().find_map(|line| line["fields"]["reason"].as_str()).unwrap();
    assert!(reason.contains("founding cannot be loaded"), "{reason}");
    assert!(of("a-callers-slip").is_empty(), "a caller's slip is told to the caller alone: {text}");
    assert!(!text.contains("271828"), "bodies do not belong into a log: {text}");
}

#[test]
fn the_access_log_is_there_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut launcher = command();
    launcher.stderr(File::create(&log).unwrap()).env("WATTLE_LOG", "warn,wattle::access=debug");
    let server = Server::spawn(launcher, &folder.path().join("data"), &["--log-format", "json"]);
    send(|client| client.get(format!("{}/v2?key=secret", server.url)).header("x-request-id", "look"));
    let text = wait_for("the line", || fs::read_to_string(&log).ok().filter(|text| text.contains("look")));
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&line["target"], &line["fields"]["status"]), (&json!("wattle::access"), &json!(200)), "{line}");
    assert_eq!((&line["span"]["path"], &line["span"]["method"]), (&json!("/v2"), &json!("GET")), "{line}");
    assert!(line["fields"]["ms"].as_f64().unwrap() > 0.0 && !text.contains("secret"), "{text}");
}

#[test]
fn a_deployment_has_a_log_of_its_own_that_can_be_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = command();
    launcher.env("WATTLE_LOG", "info");
    let server = Server::spawn(launcher, folder.path(), &[]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    server.wattle(&["deploy", "founding", "--name", "other"]);
    let lines = server.json(&["logs", "founding"]);
    let loaded = lines.as_array().unwrap().iter().find(|line| line["text"].as_str().unwrap().contains("model loaded"));
    assert_eq!(loaded.unwrap()["from"], "server", "{lines}");
    assert!(!lines.to_string().contains("other"), "{lines}");
    let shown = server.wattle(&["logs", "founding", "--tail", "1"]);
    assert_eq!(shown.trim().lines().count(), 1, "{shown}");
    assert!(server.fails(&["logs", "fonding"]).contains("did you mean founding?"));

    let mut follow = command();
    follow.args(["logs", "founding", "--tail", "0", "--follow", "-o", "json"]).env("WATTLE_URL", &server.url);
    let following = follow.stdout(Stdio::piped()).spawn().unwrap();
    // What is said before somebody listens is not told, so that it is said until it is.
    let (url, load) = (format!("{}/api/v1/deployments/founding", server.url), |what: &str, url: &str| {
        assert_eq!(post(&format!("{url}/{what}"), &json!({})).status, 200);
    });
    for _ in 0..20 {
        load("unload", &url);
        load("load", &url);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    server.terminate();
    let output = following.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let first: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert!(first["text"].as_str().unwrap().starts_with("INFO model"), "{told}");
}
