//! `wattle bench`: what it counts is what the server saw, and a slow server cannot hide it.

use std::{process::Stdio, thread};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    process,
    slow::deploy_slow_model,
    support::{Server, command, file, nobody, wait_for, words},
};

/// What the server counted of a deployment.
fn requests(server: &Server, name: &str) -> u64 {
    let listed = server.json(&["ps"]);
    let found = listed.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
    found["requests"].as_u64().unwrap()
}

fn bench(server: &Server, line: &str) -> Value {
    server.json(&words(&format!("bench {line}")))
}

#[test]
fn a_closed_loop_counts_what_the_server_counts() {
    let server = Server::start_furnished();
    let report = bench(&server, "founding --concurrency 3 --duration 500ms --warmup 100ms");
    let count = |key: &str| report[key].as_u64().unwrap();
    assert!(count("answered") > 0 && count("warmup_requests") > 0, "{report}");
    assert_eq!((count("requests"), &report["errors"]), (count("answered"), &json!({})), "{report}");
    // One more is sent before the clock runs.
    assert_eq!(count("requests") + count("warmup_requests") + 1, requests(&server, "founding"), "{report}");
    assert_eq!(count("sent_bytes"), count("requests") * r#"{"x":[[0]]}"#.len() as u64);
    assert_eq!(count("received_bytes"), count("requests") * r#"{"y_pred":[[1.0]]}"#.len() as u64);
    let histogram = report["histogram"].as_array().unwrap().iter().map(|bar| bar["count"].as_u64().unwrap());
    assert_eq!(histogram.sum::<u64>(), count("answered"));
    let times = ["p50", "p90", "p99", "p99.9", "max"].map(|name| report["latency_ms"][name].as_f64().unwrap());
    assert!(times[0] > 0.0 && times.is_sorted(), "{report}");
    assert!(report["mean_compute_ms"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!((&report["connections"], report.get("unsent")), (&json!(3), None), "{report}");

    // What the answers said of their cost, less the one call in advance and the warm-up, is in the ledger.
    let cost = |name: &str| report["mean_cost"][name].as_f64().unwrap();
    assert!(cost("energy_joules_low") <= cost("energy_joules"), "{report}");
    assert!(cost("energy_joules") <= cost("energy_joules_high") && cost("energy_joules") > 0.0, "{report}");
    let usage = server.json(&["usage", "--by", "deployment"]);
    let line = usage.as_array().unwrap().iter().find(|line| line["key"] == "founding").unwrap();
    let measured = cost("cpu_seconds") * report["answered"].as_f64().unwrap();
    assert!(measured > 0.0 && measured <= line["cpu_seconds"].as_f64().unwrap(), "{report} {line}");
    assert_eq!(report["mean_cost"]["energy_label"], line["energy"]["label"]);
    assert_eq!(report["mean_cost"]["energy_source"], line["energy"]["source"]);
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let server = Server::start_furnished();
    for arrivals in ["constant", "poisson"] {
        let before = requests(&server, "founding");
        let line = format!("founding --rps 200 --arrivals {arrivals} --duration 1s --warmup 0s");
        let report = bench(&server, &line);
        assert_eq!((&report["rps"], &report["arrivals"]), (&json!(200.0), &json!(arrivals)));
        let (sent, unsent) = (report["requests"].as_u64().unwrap(), report["unsent"].as_u64().unwrap());
        match arrivals {
            "constant" => assert_eq!(sent + unsent, 200, "{report}"),
            // Five standard deviations.
            _ => assert!((sent + unsent).abs_diff(200) <= 70, "{report}"),
        }
        assert_eq!(requests(&server, "founding") - before, sent + 1, "{report}");
    }
}

#[test]
fn a_slow_server_cannot_hide_what_was_due_meanwhile() {
    let server = Server::start();
    deploy_slow_model(&server);
    // One answer takes some tenths of a second, and forty requests a second are due.
    let report = bench(&server, "slow --rps 40 --concurrency 1 --duration 4s --warmup 0s");
    let time = |from: &str, name: &str| report[from][name].as_f64().unwrap();
    let (sent, unsent) = (report["requests"].as_u64().unwrap(), report["unsent"].as_u64().unwrap());
    assert_eq!((sent + unsent, &report["errors"]), (160, &json!({})), "{report}");
    assert!(sent >= 2 && unsent > 0, "{report}");
    // They were sent one after the other without a pause: the last one was due long before, and answered at the end.
    let waited_ms = (report["seconds"].as_f64().unwrap() - (sent - 1) as f64 / 40.0) * 1e3;
    assert!(time("latency_ms", "max") > 0.9 * waited_ms, "{waited_ms} {report}");
    assert!(time("latency_ms", "mean") > time("latency_from_sent_ms", "mean"), "{report}");
    assert!(
        time("latency_from_sent_ms", "mean") * sent as f64 <= report["seconds"].as_f64().unwrap() * 1e3,
        "{report}"
    );
    let shown = server.wattle(&words("bench slow --rps 40 --concurrency 1 --duration 1s --warmup 0s"));
    assert!(shown.contains("not sent") && shown.contains("from sent") && shown.contains('█'), "{shown}");
}

#[test]
fn refusals_are_counted_and_do_not_end_it() {
    let server = Server::start_with(&["--max-computing", "1", "--max-waiting", "1"]);
    deploy_slow_model(&server);
    let report = bench(&server, "slow --concurrency 8 --duration 1s --warmup 0s");
    let refused = report["errors"]["503"].as_u64().unwrap_or_else(|| panic!("{report}"));
    assert_eq!(report["requests"].as_u64().unwrap(), refused + report["answered"].as_u64().unwrap());
    let report = bench(&server, "slow --concurrency 2 --duration 500ms --warmup 0s --timeout 1ms");
    assert!(report["errors"]["timed out"].as_u64().unwrap() > 0, "{report}");
    assert_eq!((&report["answered"], report.get("latency_ms")), (&json!(0), None), "{report}");
}

#[test]
fn every_protocol_takes_zeros_and_rows() {
    let server = Server::start_furnished();
    for protocol in ["predict", "v2", "v2-binary"] {
        for (name, input) in [
            ("founding", ""),
            ("penguins", ""),
            ("penguins", "--csv examples/penguins.csv"),
            ("diabetes", "--csv examples/diabetes.csv --batch 7"),
        ] {
            let line = format!("{name} {input} --protocol {protocol} --concurrency 1 --duration 100ms --warmup 0s");
            let report = bench(&server, &line);
            assert!(report["answered"].as_u64().unwrap() > 0 && report["errors"] == json!({}), "{line}: {report}");
            assert_eq!(report["protocol"], protocol);
        }
    }
    let report =
        server.json(&[&words("bench founding --duration 100ms --warmup 0s --json")[..], &[r#"{"x": 4}"#]].concat());
    assert_eq!(report["sent_bytes"].as_u64().unwrap() % r#"{"x":4}"#.len() as u64, 0);
    assert!(report["answered"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn what_cannot_be_loaded_is_told_before_anything_is_sent() {
    let server = Server::start_furnished();
    let told = |arguments: &[&str]| server.fails(&[&["bench"], arguments].concat());
    assert!(told(&["foundling"]).contains("there is no deployment foundling: did you mean founding?"));
    assert!(told(&["founding", "--json", r#"{"z": 1}"#]).contains("unknown column \"z\""));
    let nothing = r#"{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1]}]}"#;
    let binary = ["founding", "--protocol", "v2-binary", "--json", nothing];
    assert!(told(&binary).contains("input \"x\" has no data"), "{}", told(&binary));
    assert!(told(&["founding", "--rps", "0"]).contains("above 0"));
    assert!(told(&["founding", "--duration", "2h"]).contains("1h is the longest"));
    assert!(told(&["founding", "--concurrency", "10001"]).contains("10000"));
    let folder = tempfile::tempdir().unwrap();
    let empty = file(&folder, "empty.csv", "x\n");
    assert!(told(&["founding", "--csv", &empty]).contains("row"), "{}", told(&["founding", "--csv", &empty]));
    assert_eq!(requests(&server, "founding"), 0);
    let output = command().args(["bench", "founding", "--url", &nobody()]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("no server answers at"));
}

#[test]
fn ctrl_c_prints_what_was_measured() {
    let server = Server::start_furnished();
    let child = command()
        .env("WATTLE_URL", &server.url)
        .args(words("bench founding --duration 1h --warmup 0s -o json"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the load", || {
        (process::catches_interrupt(child.id()) && requests(&server, "founding") > 10).then_some(())
    });
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let output = thread::spawn(move || child.wait_with_output()).join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    // Whatever was sent was answered.
    assert_eq!(report["requests"].as_u64().unwrap() + 1, requests(&server, "founding"), "{report}");
    assert_eq!(report["errors"], json!({}));
}

#[test]
fn a_server_that_goes_away_is_counted_too() {
    let server = Server::start_furnished();
    let child = command()
        .env("WATTLE_URL", &server.url)
        .args(words("bench founding --duration 3s --warmup 0s --concurrency 2 -o json"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the load", || (requests(&server, "founding") > 10).then_some(()));
    server.kill();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && report["answered"].as_u64().unwrap() > 0, "{report}");
    assert!(report["errors"]["connection lost"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["mean_compute_ms"], Value::Null);
}
