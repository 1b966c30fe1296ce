//! A server that serves a folder of models and nothing else, as a container does.

use std::{ffi::OsStr, fs};

use serde_json::{Value, json};

use crate::{
    grpc::calls_at,
    support::{Server, command, post, send, words},
};

/// A folder with the founding model, and the server that it came from.
fn exported() -> (tempfile::TempDir, Server) {
    let server = Server::start();
    server.import_founding();
    let folder = tempfile::tempdir().unwrap();
    export(&server, "founding", &folder);
    (folder, server)
}

fn export(server: &Server, model: &str, folder: &tempfile::TempDir) {
    server.wattle(&["models", "export", model, folder.path().join("any-name").to_str().unwrap()]);
}

fn worker(folder: &tempfile::TempDir) -> Server {
    Server::start_with(&["--role", "worker", "--models-dir", folder.path().to_str().unwrap()])
}

/// What a server says that cannot start.
fn told<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let data = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path()).args(arguments);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn answer(worker: &Server) -> Value {
    post(&format!("{}/predict", worker.url), &json!({"x": [1.0]})).json()
}

#[test]
fn a_worker_serves_its_folder_by_every_protocol_and_changes_nothing() {
    let (folder, _server) = exported();
    let worker = worker(&folder);
    assert_eq!(answer(&worker), json!({"y_pred": [[3.0]]}));
    calls_at(&worker.url, async |channel| crate::grpc::founding_is_answered(channel).await);
    let deployments = worker.json(&["ps"]);
    assert_eq!(deployments[0]["loaded"], true);
    assert_eq!(deployments[0]["isolation"], "thread");
    assert_eq!(worker.wattle(&["health"]), "");

    let refusals = [
        worker.fails(&["undeploy", "founding"]),
        worker.fails(&["deploy", "founding"]),
        worker.fails(&words("models import --name other --coef examples/model.npy")),
        worker.fails(&["models", "rm", "founding"]),
        worker.fails(&words("data add line examples/line.csv")),
        worker.fails(&words("train --algorithm linear-regression --data examples/line.csv --target y --name line")),
        worker.fails(&["gc"]),
    ];
    for refusal in refusals {
        assert!(refusal.contains("this server is a worker"), "{refusal}");
    }
    let unload = send(|client| client.post(format!("{}/v2/repository/models/founding/unload", worker.url)));
    assert_eq!(unload.status, 403, "{}", unload.text);
    assert_eq!(answer(&worker), json!({"y_pred": [[3.0]]}));
}

#[test]
fn a_worker_that_starts_again_serves_what_its_folder_has_then() {
    let (folder, server) = exported();
    let data = tempfile::tempdir().unwrap();
    let start = || {
        let models = folder.path().to_str().unwrap();
        Server::start_in(data.path(), &["--role", "worker", "--models-dir", models])
    };
    let first = start();
    assert_eq!(first.json(&["ps"])[0]["version"], 1);
    drop(first);
    server.import_founding();
    export(&server, "founding", &folder);
    let second = start();
    assert_eq!((second.json(&["ps"])[0]["version"].clone(), answer(&second)), (json!(2), json!({"y_pred": [[3.0]]})));
}

#[test]
fn a_folder_that_cannot_be_served_is_told() {
    let (folder, _server) = exported();
    let models = folder.path().to_str().unwrap();
    let worker = ["--role", "worker", "--models-dir", models];
    assert!(told(&["--role", "worker"]).contains("worker.models_dir is missing"));
    assert!(told(&["--models-dir", models]).contains("--role worker"));
    assert!(told(&["--role", "worker", "--models-dir", "/nowhere"]).contains("cannot read the folder /nowhere"));
    let one = folder.path().join("any-name");
    fs::write(one.join("model.onnx"), "short").unwrap();
    assert!(told(&worker).contains("5 bytes"));
    fs::write(one.join("manifest.json"), "{").unwrap();
    assert!(told(&worker).contains("manifest.json is no manifest of a model"));
    fs::remove_dir_all(&one).unwrap();
    assert!(told(&worker).contains("there is no model in"));
}

#[test]
fn a_server_that_is_not_there_is_not_healthy() {
    let output = command().env("WATTLE_URL", crate::support::nobody()).arg("health").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no server answers"));
}

#[test]
fn what_a_worker_is_told_to_serve_is_fetched_once_and_checked_each_time() {
    let server = Server::start();
    server.import_founding();
    server.import_founding();
    let digest = server.json(&["models", "show", "founding:1"])["digest"].as_str().unwrap().to_owned();
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("cache");
    let start = |model: &str, source: Option<&str>| {
        let mut arguments = vec!["--role", "worker", "--models-dir", folder.to_str().unwrap(), "--model", model];
        arguments.extend(source.into_iter().flat_map(|source| ["--models-source", source]));
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let serve = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let worker = Server::start_with(&arguments);
        assert_eq!(answer(&worker), json!({"y_pred": [[3.0]]}));
        worker.json(&["ps"])[0]["version"].clone()
    };
    let exact = format!("founding:1@{digest}");
    assert!(told(&start(&exact, None)).contains("--models-source"));
    assert_eq!(serve(&start(&exact, Some(&server.url))), 1);
    let kept = folder.join(format!("founding-1-{}", &digest[7..19])).join("model.onnx");
    assert!(kept.is_file());
    // Nobody is asked again, and what rots is noticed and fetched again.
    assert_eq!(serve(&start(&exact, None)), 1);
    fs::write(&kept, vec![0; usize::try_from(fs::metadata(&kept).unwrap().len()).unwrap()]).unwrap();
    assert!(told(&start(&exact, None)).contains("--models-source"));
    assert_eq!(serve(&start("founding:1", Some(&server.url))), 1);
    assert_eq!(serve(&start(&exact, None)), 1);
    // The same bytes under another number are another version.
    assert_eq!(serve(&start("founding:2", Some(&server.url))), 2);

    let other = format!("founding:1@sha256:{}", "ab".repeat(32));
    assert!(told(&start(&other, Some(&server.url))).contains("and not sha256:abab"));
    assert!(told(&start("founding:9", Some(&server.url))).contains("its latest is founding:2"));
    assert!(told(&start("founding:1", Some(&crate::support::nobody()))).contains("cannot fetch founding:1"));
    assert!(told(&start("founding", Some(&server.url))).contains("iris:3"));
    let left = fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, 2, "nothing half fetched stays");
}
