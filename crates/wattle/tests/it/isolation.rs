//! Models in processes of their own.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    process,
    support::{Answer, Server, post, send, wait_for},
};

/// Deploys the founding model under this name in a process of its own, with further settings.
fn deploy_apart(server: &Server, name: &str, settings: &Value) {
    let mut all = json!({"isolation": "process"});
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let request = json!({"model": "founding", "name": name, "settings": all});
    let answer = post(&format!("{}/api/v1/deployments", server.url), &request);
    assert_eq!(answer.status, 201, "{}", answer.text);
}

fn call(server: &Server, name: &str) -> Answer {
    post(&format!("{}/models/{name}/predict", server.url), &json!({"x": [1.0]}))
}

fn status(server: &Server, name: &str) -> Value {
    send(|client| client.get(format!("{}/api/v1/deployments/{name}", server.url))).json()
}

/// The one process that serves a model.
fn worker(server: &Server) -> u32 {
    let workers = process::workers(server.id());
    let [worker] = workers.as_slice() else { panic!("{workers:?}") };
    *worker
}

fn kill(id: u32) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_process_of_its_own_answers_and_is_metered_like_the_server() {
    let server = Server::start_furnished();
    deploy_apart(&server, "apart", &json!({}));
    let answer = call(&server, "apart");
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"y_pred":[[3.0]]}"#));
    assert!(answer.header("x-wattle-cpu-seconds").parse::<f64>().unwrap() > 0.0);
    let status = status(&server, "apart");
    assert_eq!((&status["isolation"], &status["limited_by"]), (&json!("process"), &json!("none")));
    // With its engine it takes some megabytes at least.
    assert!(status["resident_bytes"].as_u64().unwrap() > 4 << 20, "{status}");
    let wrong = post(&format!("{}/models/apart/predict", server.url), &json!({"x": [[1.0, 2.0]]}));
    assert_eq!(wrong.status, 400, "{}", wrong.text);
    worker(&server);
}

#[test]
fn a_killed_process_costs_its_own_calls_alone_and_comes_back() {
    let server = Server::start_furnished();
    deploy_apart(&server, "apart", &json!({}));
    assert_eq!(call(&server, "apart").status, 200);
    let killed = worker(&server);
    let (done, lost, answered) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for name in ["apart", "apart", "founding", "founding"] {
            let (server, done, lost, answered) = (&server, &done, &lost, &answered);
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    let answer = call(server, name);
                    match (name, answer.status) {
                        (_, 200) => answered.fetch_add(1, Relaxed),
                        ("apart", 503) => lost.fetch_add(1, Relaxed),
                        _ => panic!("{name}: {} {}", answer.status, answer.text),
                    };
                }
            });
        }
        wait_for("calls under way", || (answered.load(Relaxed) > 20).then_some(()));
        kill(killed);
        wait_for("another process", || process::workers(server.id()).into_iter().find(|id| *id != killed));
        wait_for("answers again", || (call(&server, "apart").status == 200).then_some(()));
        done.store(true, Relaxed);
    });
    assert!(!process::is_alive(killed));
}

#[test]
fn unloading_ends_the_process() {
    let server = Server::start_furnished();
    deploy_apart(&server, "apart", &json!({}));
    assert_eq!(call(&server, "apart").status, 200);
    let first = worker(&server);
    let unloaded = send(|client| client.post(format!("{}/v2/repository/models/apart/unload", server.url)));
    assert_eq!(unloaded.status, 200, "{}", unloaded.text);
    wait_for("the end of the process", || (!process::is_alive(first)).then_some(()));
    assert_eq!(status(&server, "apart")["loaded"], json!(false));
    assert_eq!(call(&server, "apart").status, 200);
    assert_ne!(worker(&server), first);
}

#[test]
fn no_process_outlives_its_server() {
    let server = Server::start_furnished();
    deploy_apart(&server, "apart", &json!({}));
    assert_eq!(call(&server, "apart").status, 200);
    let worker = worker(&server);
    drop(server.kill());
    wait_for("the end of the process", || (!process::is_alive(worker)).then_some(()));
}

#[test]
fn limits_hold_and_who_breaks_them_falls_alone() {
    const LIMIT: u64 = 192 << 20;
    const ROWS: usize = 16 << 20;
    let server = Server::start_with(&["--max-body-bytes", "268435456"]);
    server.furnish();
    deploy_apart(&server, "apart", &json!({"memory_limit_bytes": LIMIT, "cpu_limit": 0.5}));
    assert_eq!(call(&server, "apart").status, 200);
    let limited_by = status(&server, "apart")["limited_by"].as_str().unwrap().to_owned();
    let id = worker(&server);
    if limited_by == "affinity and rlimit" {
        let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
        assert!(data.contains(&LIMIT.to_string()), "{data}");
    } else {
        assert_eq!(limited_by, "cgroup");
    }
    // What comes in fits, and not what is made of it.
    let binary = json!({"binary_data_size": 8 * ROWS});
    let input = json!({"name": "x", "shape": [ROWS, 1], "datatype": "FP64", "parameters": binary});
    let json = json!({"inputs": [input]}).to_string();
    let body = [json.as_bytes(), &vec![0; 8 * ROWS]].concat();
    let answer = send(|client| {
        let url = format!("{}/v2/models/apart/infer", server.url);
        client.post(url).header("Inference-Header-Content-Length", json.len()).body(body)
    });
    assert!(matches!(answer.status, 500 | 503), "{} {}", answer.status, answer.text);
    assert_eq!(call(&server, "founding").status, 200);
    wait_for("answers again", || (call(&server, "apart").status == 200).then_some(()));
}
