//! Many callers at once.

use std::{
    fs::{self, File},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use serde_json::json;

use crate::{
    raw::Connection,
    slow::deploy_slow_model,
    support::{Server, command, wait_for, words},
};

#[test]
fn a_cold_deployment_is_loaded_once_however_many_ask() {
    const CALLERS: usize = 32;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    server.furnish();
    server.terminate();
    let log = folder.path().join("log");
    let mut launcher = command();
    launcher.env("WATTLE_LOG", "info").stderr(File::create(&log).unwrap());
    let server = Server::spawn(launcher, &data_dir, &[]);
    let barrier = Barrier::new(CALLERS);
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let mut connection = Connection::open(&server.url).unwrap();
                barrier.wait();
                let answer = connection.post("/models/founding/predict", r#"{"x": [1.0]}"#).unwrap();
                assert_eq!((answer.status, answer.json()), (200, json!({"y_pred": [[3.0]]})));
            });
        }
    });
    let listed = server.json(&["ps"]);
    let founding = listed.as_array().unwrap().iter().find(|one| one["name"] == "founding").unwrap();
    assert_eq!(
        (&founding["requests"], &founding["failures"], &founding["in_flight"]),
        (&json!(32), &json!(0), &json!(0))
    );
    assert!(founding["load_ms"].as_f64().unwrap() > 0.0);
    server.terminate();
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("model loaded").count(), 1, "{log}");
}

#[test]
fn a_new_version_is_deployed_without_a_lost_call() {
    let server = Server::start();
    server.import_founding();
    server.wattle(&words("models import --name founding --coef examples/model.npy"));
    server.wattle(&["deploy", "founding:1"]);
    let done = AtomicBool::new(false);
    let calls: u64 = thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(&server.url).unwrap();
                    let mut calls = 0;
                    while !done.load(Relaxed) {
                        let answer = connection.post("/models/founding/predict", r#"{"x": [1.0]}"#).unwrap();
                        assert_eq!(answer.status, 200, "{}", answer.text);
                        // Each answer is that of the version which it names.
                        let expected = if answer.header("x-wattle-model") == "founding:1" { 3.0 } else { 2.0 };
                        assert_eq!(answer.json(), json!({"y_pred": [[expected]]}));
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let mut connection = Connection::open(&server.url).unwrap();
        for round in 0..40 {
            let body = json!({"model": format!("founding:{}", round % 2 + 1)}).to_string();
            assert_eq!(connection.post("/api/v1/deployments", &body).unwrap().status, 201);
            // From the answer on, the new version is the one that is called.
            let answer = connection.post("/models/founding/predict", r#"{"x": [1.0]}"#).unwrap();
            assert_eq!(answer.header("x-wattle-model"), format!("founding:{}", round % 2 + 1));
        }
        done.store(true, Relaxed);
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    let usage = server.json(&["usage", "--by", "deployment"]);
    let line = usage.as_array().unwrap().iter().find(|line| line["key"] == "founding").unwrap();
    assert_eq!(line["requests"].as_u64(), Some(calls + 40));
}

#[test]
fn over_the_bound_a_call_is_refused_at_once() {
    const CALLERS: usize = 8;
    let server = Server::start_with(&["--max-computing", "1", "--max-waiting", "2"]);
    deploy_slow_model(&server);
    let barrier = Barrier::new(CALLERS);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(&server.url).unwrap();
                    barrier.wait();
                    let answer = connection.post("/models/slow/predict", r#"{"x": [1.0]}"#).unwrap();
                    if answer.status == 503 {
                        assert_eq!(answer.header("retry-after"), "1");
                        assert!(
                            answer.text.contains("waiting") && answer.text.contains("try again"),
                            "{}",
                            answer.text
                        );
                    }
                    answer.status
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert!(count(200) >= 3, "{statuses:?}");
    assert!(count(503) >= 1, "{statuses:?}");
    assert_eq!(count(200) + count(503), CALLERS, "{statuses:?}");
}

#[test]
fn a_caller_that_leaves_while_it_waits_is_not_computed() {
    let server = Server::start_with(&["--max-computing", "1"]);
    deploy_slow_model(&server);
    let call = |connection: &mut Connection| connection.post("/models/slow/predict", r#"{"x": [1.0]}"#);
    let mut first = Connection::open(&server.url).unwrap();
    call(&mut first).unwrap();
    let status = || server.json(&["ps"])[0].clone();
    thread::scope(|scope| {
        scope.spawn(|| call(&mut first).unwrap());
        wait_for("the first call", || (status()["in_flight"] == 1).then_some(()));
        for _ in 0..5 {
            Connection::open(&server.url)
                .unwrap()
                .send("POST", "/models/slow/predict", &[], br#"{"x": [1.0]}"#)
                .unwrap();
        }
    });
    // One that the server had already begun to compute when its caller left would be the first to come.
    let answer = call(&mut Connection::open(&server.url).unwrap()).unwrap();
    assert_eq!(answer.status, 200);
    let requests = status()["requests"].as_u64().unwrap();
    assert!((3..=4).contains(&requests), "{requests} calls were computed");
}
