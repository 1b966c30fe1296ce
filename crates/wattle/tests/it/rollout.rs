//! Revisions, canaries, shadows, and the way back.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use serde_json::{Value, json};
use wattle_core::{Datatype, TensorSpec};
use wattle_engine::onnx::graph::GraphBuilder;

use crate::{
    raw::Connection,
    support::{Answer, Server, file, wait_for, words},
};

/// A server with `founding:1`, which answers 2x + 1, and `founding:2`, which answers 2x.
fn start() -> Server {
    let server = Server::start();
    server.import_founding();
    server.wattle(&words("models import --name founding --coef examples/model.npy"));
    server
}

/// A model that looks `index` up among these values, and fails where there is none.
pub(crate) fn import_lookup(server: &Server, values: &[f64]) {
    let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1], missing: true };
    let mut graph = GraphBuilder::new("lookup");
    graph.input(&spec("index", Datatype::Int64));
    graph.output(&spec("y", Datatype::Fp64));
    let table = graph.numbers("table", &[values.len()], values);
    graph.node_to("y", "Gather", &[&table, "index"], &[("axis", 0)]);
    let folder = tempfile::tempdir().unwrap();
    server.wattle(&["models", "import", "--name", "lookup", &file(&folder, "lookup.onnx", graph.finish())]);
}

/// The version that answers a call of `founding`, with this key if there is one; its answer is that version's own.
fn version(connection: &mut Connection, key: Option<&str>) -> u64 {
    let headers: Vec<(&str, &str)> = key.map(|key| ("x-wattle-key", key)).into_iter().collect();
    let answer = connection.call("POST", "/models/founding/predict", &headers, br#"{"x": [1.0]}"#).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let (version, expected) = if answer.header("x-wattle-model") == "founding:1" { (1, 3.0) } else { (2, 2.0) };
    assert_eq!(answer.json(), json!({"y_pred": [[expected]]}));
    version
}

/// The revision and the share of each that answers.
fn shares(deployment: &Value) -> Vec<(u64, u64)> {
    let number = |share: &Value, key: &str| share[key].as_u64().unwrap();
    let shares = deployment["traffic"]["shares"].as_array().unwrap();
    shares.iter().map(|share| (number(share, "revision"), number(share, "percent"))).collect()
}

#[test]
fn traffic_moves_forth_and_back_and_is_remembered() {
    let server = start();
    server.wattle(&["deploy", "founding:1"]);
    let canary = server.json(&["deploy", "founding:2", "--canary", "10", "--max-batch-size", "8"]);
    assert_eq!((shares(&canary), &canary["version"]), (vec![(1, 90), (2, 10)], &json!(1)));
    assert_eq!(canary["revisions"][1]["settings"], json!({"max_batch_size": 8}));
    let said = server.wattle(&["deploy", "founding:2", "--canary", "20"]);
    assert!(said.contains("founding:1 (revision 1) answers 80% of the calls of founding"), "{said}");
    assert!(said.contains("founding:2 (revision 2) answers 20% of the calls of founding"), "{said}");
    assert_eq!(shares(&server.json(&["promote", "founding"])), [(2, 100)]);
    assert!(server.wattle(&["rollback", "founding"]).contains("founding:1 (revision 1) answers all calls of founding"));
    assert!(server.fails(&["rollback", "founding"]).contains("nothing to go back to"));
    assert!(server.fails(&["promote", "founding"]).contains("neither a canary nor a shadow"));
    let shadow = server.wattle(&["deploy", "founding:2", "--shadow"]);
    assert!(shadow.contains("founding:2 (revision 3) gets copies of them"), "{shadow}");

    let history = server.json(&["history", "founding"]);
    let what: Vec<&Value> = history["changes"].as_array().unwrap().iter().map(|change| &change["what"]).collect();
    assert_eq!(what, ["deployed", "canary", "canary", "promoted", "rolled-back", "shadow"]);
    assert_eq!(history["revisions"].as_array().unwrap().len(), 3);
    let table = server.wattle(&["history", "founding"]);
    let line = table.lines().find(|line| line.contains("promoted")).unwrap();
    assert!(line.contains("founding:2") && line.contains("2: 100%") && line.contains("max_batch_size=8"), "{line}");

    // It outlives the server and the deployment.
    server.wattle(&["undeploy", "founding"]);
    let data_dir = server.data_dir().to_owned();
    let _folder = server.terminate();
    let server = Server::start_in(&data_dir, &[]);
    let after = server.json(&["history", "founding"]);
    assert_eq!(after["changes"].as_array().unwrap().last().unwrap()["what"], "undeployed");
    assert_eq!(after["revisions"], history["revisions"]);
    assert!(server.fails(&["history", "fonding"]).contains("no deployment is named \"fonding\""));
}

#[test]
fn settings_that_no_server_can_keep_are_refused() {
    let server = start();
    server.wattle(&["deploy", "founding:1", "--threads", "2", "--keep-alive", "10m", "--pin"]);
    let refusals: [(&[&str], &str); 7] = [
        (&["--max-batch-size", "0"], "max_batch_size is 0: use a value from 1 to 1048576"),
        (&["--cpu-limit", "1"], "set isolation to process too"),
        (&["--isolation", "thred"], "did you mean thread?"),
        (&["--canary", "100"], "100 is not in 1..=99"),
        (&["--canary", "10", "--shadow"], "cannot be used with"),
        (&["--keep-alive", "3d"], "write seconds"),
        (&["--memory-limit", "much", "--isolation", "process"], "invalid amount of memory"),
    ];
    for (flags, words) in refusals {
        let refusal = server.fails(&[&["deploy", "founding:1"], flags].concat());
        assert!(refusal.contains(words), "{refusal}");
    }
    let deployed = server.json(&["ps"])[0].clone();
    let settings = json!({"threads": 2, "keep_alive_seconds": 600, "pin": true});
    assert_eq!((shares(&deployed), &deployed["settings"]), (vec![(1, 100)], &settings));
    let next = server.json(&["deploy", "founding:2", "--pin=false"]);
    assert_eq!(next["settings"], json!({"threads": 2, "keep_alive_seconds": 600, "pin": false}));
    assert_eq!(server.json(&["deploy", "founding:2", "--reset-settings"])["settings"], json!({}));
}

#[test]
fn a_version_that_the_way_back_needs_is_not_removed() {
    let server = start();
    server.wattle(&["deploy", "founding:1"]);
    server.wattle(&["deploy", "founding:2"]);
    let refusal = server.fails(&["models", "rm", "founding:1"]);
    assert!(refusal.contains("founding:1 is what `wattle rollback founding` goes back to"), "{refusal}");
    server.wattle(&["rollback", "founding"]);
    server.wattle(&["models", "rm", "founding:2"]);
    assert_eq!(server.json(&["gc"])["blobs"], 1);
}

#[test]
fn a_canary_gets_its_share_and_a_key_its_revision() {
    const CALLS: u64 = 2000;
    let server = start();
    server.wattle(&["deploy", "founding:1"]);
    server.wattle(&["deploy", "founding:2", "--canary", "20"]);
    let mut connection = Connection::open(&server.url).unwrap();
    let met: u64 = (0..CALLS).map(|_| version(&mut connection, None) - 1).sum();
    // Seven standard deviations of the binomial distribution.
    let error = 7.0 * (0.2_f64 * 0.8 * CALLS as f64).sqrt();
    assert!((met as f64 - 0.2 * CALLS as f64).abs() < error, "{met} of {CALLS} calls met the canary");

    let keys: Vec<String> = (0..100).map(|key| format!("caller-{key}")).collect();
    let mut meet = || -> Vec<u64> { keys.iter().map(|key| version(&mut connection, Some(key))).collect() };
    let before = meet();
    assert!(before.contains(&1) && before.contains(&2) && meet() == before);
    server.wattle(&["deploy", "founding:2", "--canary", "50"]);
    let after = meet();
    assert!(before.iter().zip(&after).all(|(before, after)| before <= after) && before != after);
    // The place of a key is the same in every gateway, so the callers who meet it are known.
    server.wattle(&["rollback", "founding"]);
    assert!(meet().into_iter().all(|version| version == 1));
    let long = "k".repeat(257);
    let refused = connection.call("POST", "/predict", &[("x-wattle-key", &long)], b"{}").unwrap();
    assert!(refused.status == 400 && refused.text.contains("1 to 256 characters"), "{}", refused.text);

    // Whoever names a version gets it, whatever its share.
    server.wattle(&["deploy", "founding:2", "--canary", "1"]);
    let metadata = crate::raw::get(&server.url, "/v2/models/founding").json();
    assert_eq!(metadata["versions"], json!(["1", "2"]));
    let body = br#"{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}]}"#;
    for (version, expected) in [("1", 3.0), ("2", 2.0)] {
        let path = format!("/v2/models/founding/versions/{version}/infer");
        let answer = connection.call("POST", &path, &[], body).unwrap().json();
        assert_eq!((&answer["model_version"], &answer["outputs"][0]["data"]), (&json!(version), &json!([expected])));
    }
    let absent = crate::raw::get(&server.url, "/v2/models/founding/versions/3");
    assert!(absent.text.contains("serves versions 1 and 2, not 3"), "{}", absent.text);
}

#[test]
fn a_canary_that_fails_is_rolled_back_by_itself() {
    let server = Server::start();
    import_lookup(&server, &[10.0, 20.0, 30.0]);
    import_lookup(&server, &[10.0]);
    server.wattle(&["deploy", "lookup:1"]);
    server.wattle(&["deploy", "lookup:2", "--canary", "50", "--gate-min-calls", "8"]);
    let mut connection = Connection::open(&server.url).unwrap();
    let call = |connection: &mut Connection, index: u64| -> Answer {
        connection.post("/models/lookup/predict", &json!({"index": [index]}).to_string()).unwrap()
    };
    let mut call_by = |index: u64, key: &str| -> Answer {
        let body = json!({"index": [index]}).to_string();
        let headers = [("content-type", "application/json"), ("x-wattle-key", key)];
        connection.call("POST", "/models/lookup/predict", &headers, body.as_bytes()).unwrap()
    };
    // A key always meets the same revision.
    let keys: Vec<String> = (0..100).map(|key| key.to_string()).collect();
    let mut key_of = |model: &str| keys.iter().find(|key| call_by(0, key).header("x-wattle-model") == model).unwrap();
    let (stable, canary) = (key_of("lookup:1"), key_of("lookup:2"));
    for _ in 0..20 {
        assert_eq!(call_by(0, canary).status, 200);
    }
    // What both answer alike says nothing, and what both refuse does not either.
    for _ in 0..50 {
        for key in [stable, canary] {
            assert_eq!((call_by(99, key).status, call_by(0, key).status), (500, 200));
        }
    }
    assert_eq!(shares(&server.json(&["ps"])[0]), [(1, 50), (2, 50)]);
    let mut failed = 0;
    let history = wait_for("the canary's end", || {
        for _ in 0..20 {
            let answer = call(&mut connection, 2);
            assert!(answer.status == 500 || answer.header("x-wattle-model") == "lookup:1", "{}", answer.text);
            failed += u64::from(answer.status == 500);
        }
        let history = server.json(&["history", "lookup"]);
        (history["changes"].as_array().unwrap().len() > 2).then_some(history)
    });
    let last = &history["changes"][2];
    assert_eq!((&last["what"], &last["revision"]), (&json!("gate-rolled-back"), &json!(2)));
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("calls failed") && reason.contains("of the stable revision's"), "{reason}");
    assert_eq!(shares(&server.json(&["ps"])[0]), [(1, 100)]);
    assert!(failed > 0);
    for _ in 0..50 {
        assert_eq!(call(&mut connection, 2).json(), json!({"y": [30.0]}));
    }
    assert!(server.wattle(&["history", "lookup"]).contains("gate rolled back"));
}

#[test]
fn a_version_that_cannot_be_loaded_gets_no_calls() {
    let server = start();
    server.wattle(&["deploy", "founding:1"]);
    let digest = server.json(&["models", "show", "founding:2"])["digest"].as_str().unwrap().replace("sha256:", "");
    fs::write(server.data_dir().join("blobs/sha256").join(digest), "no model").unwrap();
    for flags in [&[][..], &["--canary", "10"], &["--shadow"], &["--name", "other"]] {
        let refusal = server.fails(&[&["deploy", "founding:2"], flags].concat());
        assert!(refusal.contains("is not ready, and the traffic stays as it was"), "{refusal}");
    }
    let listed = server.json(&["ps"]);
    assert_eq!((listed.as_array().unwrap().len(), shares(&listed[0])), (1, vec![(1, 100)]));
    assert_eq!(version(&mut Connection::open(&server.url).unwrap(), None), 1);
    let history = server.json(&["history", "founding"]);
    let what: Vec<&Value> = history["changes"].as_array().unwrap().iter().map(|change| &change["what"]).collect();
    assert_eq!(what, ["deployed", "gate-refused", "gate-refused", "gate-refused"]);
    assert!(history["changes"][1]["reason"].as_str().unwrap().contains("cannot be loaded"));
    assert_eq!(server.json(&["history", "other"])["changes"][0]["what"], "gate-refused");
}

#[test]
fn a_shadow_is_compared_and_costs_no_requests() {
    let server = start();
    server.wattle(&["deploy", "founding:1"]);
    server.wattle(&["deploy", "founding:2", "--shadow"]);
    let mut connection = Connection::open(&server.url).unwrap();
    // 2x + 1 and 2x are the same to a thousandth where x is large.
    for x in ["[1.0]", "[1e9]"] {
        let answer = connection.post("/models/founding/predict", &format!(r#"{{"x": {x}}}"#)).unwrap();
        assert_eq!((answer.status, answer.header("x-wattle-model")), (200, "founding:1"));
        let counted = || {
            let compared = &server.json(&["ps"])[0]["replicas"][1]["compared"];
            ["same", "different", "failed", "dropped"].iter().map(|key| compared[key].as_u64().unwrap()).sum::<u64>()
        };
        wait_for("the comparison", || (counted() == if x == "[1.0]" { 1 } else { 2 }).then_some(()));
    }
    let status = &server.json(&["ps"])[0]["replicas"][1];
    assert_eq!(status["compared"], json!({"same": 1, "different": 1, "failed": 0, "dropped": 0}));
    let shown = server.wattle(&["ps"]);
    assert!(shown.contains("copies") && shown.contains("1 copies answered the same, 1 otherwise"), "{shown}");
    let usage = server.json(&["usage", "--by", "deployment"]);
    let line = usage.as_array().unwrap().iter().find(|line| line["activity"] == "predict").unwrap();
    assert_eq!(line["requests"], 2);
    assert_eq!(shares(&server.json(&["promote", "founding"])), [(2, 100)]);
    assert_eq!(version(&mut connection, None), 2);
}

#[test]
fn calls_are_answered_while_revisions_come_and_go() {
    let server = start();
    server.wattle(&["deploy", "founding:1"]);
    let done = AtomicBool::new(false);
    let calls: u64 = thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let (server, done) = (&server, &done);
                scope.spawn(move || {
                    let mut connection = Connection::open(&server.url).unwrap();
                    let key = format!("caller-{caller}");
                    let mut calls = 0;
                    while !done.load(Relaxed) {
                        version(&mut connection, (caller % 2 == 0).then_some(&key));
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let mut connection = Connection::open(&server.url).unwrap();
        let mut change = |path: &str, body: Value, status: u16| {
            let answer = connection.post(&format!("/api/v1/deployments{path}"), &body.to_string()).unwrap();
            assert_eq!(answer.status, status, "{}", answer.text);
        };
        for round in 0..10 {
            let settings = json!({"max_batch_size": 1 + round});
            change("", json!({"model": "founding:2", "canary": 30, "settings": settings}), 201);
            change("/founding/promote", json!({}), 200);
            change("", json!({"model": "founding:1", "shadow": true}), 201);
            change("", json!({"model": "founding:1", "canary": 70}), 201);
            change("/founding/rollback", json!({}), 200);
            change("/founding/rollback", json!({}), 200);
        }
        done.store(true, Relaxed);
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    let usage = server.json(&["usage", "--by", "deployment"]);
    let mut lines = usage.as_array().unwrap().iter();
    let line = lines.find(|line| line["key"] == "founding" && line["activity"] == "predict").unwrap();
    assert_eq!(line["requests"].as_u64(), Some(calls), "every call counts once, and copies do not");
    assert_eq!(shares(&server.json(&["ps"])[0]).len(), 1);
}
