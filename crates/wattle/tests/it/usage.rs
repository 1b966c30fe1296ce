//! `wattle usage`: the sums equal what was served.

use std::{collections::BTreeMap, sync::Barrier, thread, time::Instant};

use serde_json::{Value, json};

use crate::{
    raw::Connection,
    slow::start_endless_job,
    support::{Random, Server, send, wait_for},
};

/// What callers were answered.
#[derive(Default)]
struct Served {
    requests: u64,
    rows: u64,
    joules: f64,
    joules_low: f64,
    joules_high: f64,
    cpu_seconds: f64,
}

impl Served {
    fn add(&mut self, other: &Served) {
        self.requests += other.requests;
        self.rows += other.rows;
        self.joules += other.joules;
        self.joules_low += other.joules_low;
        self.joules_high += other.joules_high;
        self.cpu_seconds += other.cpu_seconds;
    }

    /// The header of an answer rounds to nanojoules and nanoseconds: by half of one at most, each call its own way.
    fn assert_equals(&self, line: &Value) {
        assert_eq!(
            (line["requests"].as_u64(), line["rows"].as_u64()),
            (Some(self.requests), Some(self.rows)),
            "{line}"
        );
        let near = |value: &Value, expected: f64| {
            let value = value.as_f64().unwrap();
            let rounded = 0.5e-9 * self.requests as f64 + 1e-9 * expected;
            assert!((value - expected).abs() <= rounded, "{value} in the ledger, {expected} told: {line}");
        };
        near(&line["energy"]["joules"], self.joules);
        near(&line["energy"]["joules_low"], self.joules_low);
        near(&line["energy"]["joules_high"], self.joules_high);
        near(&line["cpu_seconds"], self.cpu_seconds);
    }
}

const CALLERS: u64 = 4;
const CALLS: u64 = 60;

#[test]
fn the_ledger_holds_exactly_what_was_served() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    server.furnish();
    let served = call_from_many_threads(&server.url);
    let mut total = Served::default();
    served.values().for_each(|one| total.add(one));
    assert_eq!(total.requests, CALLERS * CALLS);

    let check = |server: &Server| {
        total.assert_equals(line(&server.json(&["usage"]), None, "predict"));
        let by_deployment = server.json(&["usage", "--by", "deployment"]);
        let by_model = server.json(&["usage", "--by", "model"]);
        for (name, expected) in &served {
            expected.assert_equals(line(&by_deployment, Some(name), "predict"));
            expected.assert_equals(line(&by_model, Some(&format!("{name}:1")), "predict"));
        }
        let by_day = server.json(&["usage", "--by", "day"]);
        let days: Vec<&Value> =
            by_day.as_array().unwrap().iter().filter(|line| line["activity"] == "predict").collect();
        // The calls may have been made around midnight.
        assert!((1..=2).contains(&days.len()), "{by_day}");
        assert_eq!(days.iter().map(|line| line["requests"].as_u64().unwrap()).sum::<u64>(), total.requests);
        assert_eq!(days.iter().map(|line| line["rows"].as_u64().unwrap()).sum::<u64>(), total.rows);
        assert_eq!(server.json(&["usage", "--since", "2100-01-01T00:00:00Z"]), json!([]));
        assert_eq!(server.json(&["usage", "--since", "2100-01-01"]), json!([]));
        let told = server.fails(&["usage", "--since", "yesterday"]);
        assert!(told.contains("2026-01-31, or") && told.contains("2026-01-31T12:00:00Z"), "{told}");
        let since = server.json(&["usage", "--since", "2020-01-01T00:00:00Z"]);
        assert_eq!(line(&since, None, "predict")["requests"].as_u64(), Some(total.requests));
    };
    check(&server);
    let shown = server.wattle(&["usage", "--by", "deployment"]);
    assert!(shown.contains("penguins") && shown.contains("predict"), "{shown}");

    // Two jobs, whose joules are also in their models' manifests.
    let usage = server.json(&["usage"]);
    let train = line(&usage, None, "train");
    assert_eq!(train["requests"], 2);
    let costs: f64 = ["diabetes", "penguins"]
        .map(|model| server.json(&["models", "show", model])["training"]["energy"]["joules"].as_f64().unwrap())
        .iter()
        .sum();
    let joules = train["energy"]["joules"].as_f64().unwrap();
    assert!((joules - costs).abs() <= 1e-9 * costs, "{joules} in the ledger, {costs} in the manifests");
    server.terminate();
    check(&Server::start_in(&data_dir, &[]));
}

#[test]
fn idling_is_a_line_of_its_own_and_grows() {
    let server = Server::start_with(&["--idle-watts", "10", "--full-watts", "30"]);
    let idle = || {
        let usage = server.json(&["usage"]);
        let line = usage.as_array().unwrap().iter().find(|line| line["activity"] == "idle").cloned();
        line.map(|line| (line["energy"]["joules"].as_f64().unwrap(), line))
    };
    let started = Instant::now();
    let (first, line) = wait_for("idle energy", || idle().filter(|(joules, _)| *joules > 0.0));
    assert_eq!((&line["requests"], &line["rows"], &line["key"]), (&json!(0), &json!(0), &json!(null)));
    let (second, _) = wait_for("more idle energy", || idle().filter(|(joules, _)| *joules > first));
    // It is what the operator said, for the time that has gone by.
    let seconds = started.elapsed().as_secs_f64() + 1.5;
    assert!(second <= 10.0 * seconds, "{second} J in {seconds} s at 10 W");
    assert!(second >= 5.0, "{second} J");
}

#[test]
fn a_job_that_is_cancelled_is_paid_for() {
    let server = Server::start();
    let id = start_endless_job(&server);
    wait_for("a second of work", || {
        server.json(&["jobs", "show", &id])["progress"]["cpu_seconds"].as_f64().filter(|seconds| *seconds > 0.5)
    });
    let job = server.json(&["jobs", "cancel", &id]);
    let usage = server.json(&["usage", "--by", "model"]);
    let train = line(&usage, Some("endless"), "train");
    let (joules, cost) = (train["energy"]["joules"].as_f64().unwrap(), job["energy"]["joules"].as_f64().unwrap());
    assert!((joules - cost).abs() <= 1e-9 * cost && cost > 0.0, "{joules} in the ledger, {cost} told");
    assert_eq!(train["requests"], 0, "a job that made nothing is no job ended well: {train}");
}

#[test]
fn answers_name_their_cost_by_either_protocol() {
    let server = Server::start_furnished();
    let infer = json!({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}]});
    for (path, body) in [("/models/founding/predict", json!({"x": [1.0]})), ("/v2/models/founding/infer", infer)] {
        let answer = send(|client| client.post(format!("{}{path}", server.url)).json(&body));
        let number = |name: &str| answer.header(name).parse::<f64>().unwrap();
        let (low, joules, high) = (
            number("x-wattle-energy-joules-low"),
            number("x-wattle-energy-joules"),
            number("x-wattle-energy-joules-high"),
        );
        assert!(0.0 < low && low <= joules && joules <= high, "{low} {joules} {high}");
        assert!(number("x-wattle-cpu-seconds") > 0.0);
        assert!(["measured", "estimated"].contains(&answer.header("x-wattle-energy-label")));
        assert!(!answer.header("x-wattle-energy-source").is_empty() && !answer.header("x-request-id").is_empty());
        assert_eq!(answer.header("x-wattle-model"), "founding:1");
    }
}

/// What each deployment was answered, as told by the answers themselves. Between good calls there are bad ones.
fn call_from_many_threads(url: &str) -> BTreeMap<&'static str, Served> {
    let barrier = Barrier::new(CALLERS as usize);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|seed| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut connection = Connection::open(url).unwrap();
                    let mut random = Random(seed);
                    let mut served: BTreeMap<&str, Served> = BTreeMap::new();
                    barrier.wait();
                    for _ in 0..CALLS {
                        let rows = random.below(20) + 1;
                        let (name, row) = match random.below(3) {
                            0 => ("founding", json!({"x": 1.5})),
                            1 => ("diabetes", json!({"bmi": 30, "bp": 90, "s5": 4})),
                            _ => ("penguins", json!({"island": "Biscoe", "body_mass_g": null, "sex": "male"})),
                        };
                        let body = json!({"rows": vec![row; rows as usize]});
                        let answer = connection.post(&format!("/models/{name}/predict"), &body.to_string()).unwrap();
                        assert_eq!(answer.status, 200, "{}", answer.text);
                        let number = |name: &str| answer.header(name).parse::<f64>().unwrap();
                        served.entry(name).or_default().add(&Served {
                            requests: 1,
                            rows,
                            joules: number("x-wattle-energy-joules"),
                            joules_low: number("x-wattle-energy-joules-low"),
                            joules_high: number("x-wattle-energy-joules-high"),
                            cpu_seconds: number("x-wattle-cpu-seconds"),
                        });
                        let bad =
                            ["{}", "{\"x\": [[1, 2]]}", "[", "{\"rows\": [{\"bmi\": null, \"bp\": 1, \"s5\": 1}]}"];
                        let bad = bad[random.below(4) as usize];
                        let status = connection.post("/models/diabetes/predict", bad).unwrap().status;
                        assert_eq!(status, 400);
                        assert_eq!(connection.post("/models/nobody/predict", "{}").unwrap().status, 404);
                    }
                    served
                })
            })
            .collect();
        let mut all: BTreeMap<&str, Served> = BTreeMap::new();
        for caller in callers {
            for (name, served) in caller.join().unwrap() {
                all.entry(name).or_default().add(&served);
            }
        }
        all
    })
}

fn line<'a>(usage: &'a Value, key: Option<&str>, activity: &str) -> &'a Value {
    let lines = usage.as_array().unwrap();
    let mut found = lines.iter().filter(|line| line["key"].as_str() == key && line["activity"] == activity);
    let line = found.next().unwrap_or_else(|| panic!("no line for {key:?} and {activity}: {usage}"));
    assert!(found.next().is_none(), "two lines for {key:?} and {activity}: {usage}");
    line
}
