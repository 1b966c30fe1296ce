//! `kill -9` in the midst of everything, and what the next server finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use wattle_store::Store;

use crate::{
    process, raw,
    raw::Connection,
    slow::start_endless_job,
    support::{Random, Server, wait_for, words},
};

const IMPORTERS: [&str; 3] = ["a", "b", "c"];

/// What the importers were told is done.
#[derive(Default)]
struct Acknowledged {
    /// The digest and the coefficient of each version of each model.
    versions: BTreeMap<(String, u64), (String, f64)>,
    datasets: BTreeMap<String, String>,
    champions: BTreeMap<String, u64>,
    deployed: BTreeMap<String, u64>,
}

#[test]
fn what_was_acknowledged_outlives_kills_in_the_midst_of_imports() {
    const ROUNDS: u64 = 5;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let told = Mutex::new(Acknowledged::default());
    let mut random = Random(20_261_123);
    for round in 0..ROUNDS {
        let server = Server::start_in(&data_dir, &[]);
        check(&server.url, &told.lock().unwrap(), round);
        let known = told.lock().unwrap().versions.len();
        let url = server.url.clone();
        thread::scope(|scope| {
            for model in IMPORTERS {
                let (url, told) = (&url, &told);
                // The server is killed under it.
                scope.spawn(move || _ = import_until_killed(url, model, round, told));
            }
            wait_for("imports", || (told.lock().unwrap().versions.len() >= known + 4).then_some(()));
            thread::sleep(Duration::from_micros(random.below(200_000)));
            server.kill();
        });
    }
    let server = Server::start_in(&data_dir, &[]);
    let told = told.into_inner().unwrap();
    check(&server.url, &told, ROUNDS);
    assert_eq!(fs::read_dir(data_dir.join("staging")).unwrap().count(), 0);

    // What nobody refers to goes, and what somebody refers to stays.
    server.wattle(&["gc"]);
    check(&server.url, &told, ROUNDS);
    assert_eq!(server.json(&["gc"])["blobs"], 0);
    let mut referenced: BTreeSet<String> = BTreeSet::new();
    for dataset in server.json(&["data", "list"]).as_array().unwrap() {
        referenced.insert(dataset["digest"].as_str().unwrap().replace("sha256:", ""));
    }
    for model in server.json(&["models", "list"]).as_array().unwrap() {
        for version in model["versions"].as_array().unwrap() {
            let path = format!("/api/v1/models/{}/versions/{version}", model["name"].as_str().unwrap());
            let digest = raw::get(&server.url, &path).json()["digest"].as_str().unwrap().replace("sha256:", "");
            referenced.insert(digest);
        }
    }
    assert_eq!(blobs(&data_dir), referenced);
    server.terminate();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let faults = runtime.block_on(async { Store::open(&data_dir).await.unwrap().check().await.unwrap() });
    assert_eq!(faults, [""; 0]);
}

/// Imports versions of a model whose coefficient is its version's own, and moves data, an alias and a deployment along.
/// Its only end is the server's.
fn import_until_killed(url: &str, model: &str, round: u64, told: &Mutex<Acknowledged>) -> std::io::Result<()> {
    let mut random = Random(round * 100 + u64::from(model.as_bytes()[0]));
    let mut connection = Connection::open(url)?;
    loop {
        let coefficient = random.below(1 << 40) as f64;
        let form = form(&npy(coefficient));
        let headers = [("Content-Type", "multipart/form-data; boundary=b")];
        let answer = connection.call("POST", &format!("/api/v1/models/{model}/versions"), &headers, &form)?;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let (version, digest) = (answer.json()["version"].as_u64().unwrap(), answer.json()["digest"].clone());
        let before = told
            .lock()
            .unwrap()
            .versions
            .insert((model.into(), version), (digest.as_str().unwrap().into(), coefficient));
        assert!(before.is_none(), "{model}:{version} was made twice");
        match random.below(3) {
            0 => {
                let name = format!("{model}-{round}-{version}");
                let table = format!("a,b\n{coefficient},1\n2,{version}\n");
                let answer = connection.call("PUT", &format!("/api/v1/datasets/{name}"), &[], table.as_bytes())?;
                assert_eq!(answer.status, 201, "{}", answer.text);
                let digest = answer.json()["digest"].as_str().unwrap().to_owned();
                told.lock().unwrap().datasets.insert(name, digest);
            }
            1 => {
                let path = format!("/api/v1/models/{model}/aliases/champion");
                let body = json!({ "version": version }).to_string();
                let json = [("Content-Type", "application/json")];
                assert_eq!(connection.call("PUT", &path, &json, body.as_bytes())?.status, 200);
                told.lock().unwrap().champions.insert(model.into(), version);
            }
            _ => {
                let body = json!({"model": format!("{model}:{version}")}).to_string();
                assert_eq!(connection.post("/api/v1/deployments", &body)?.status, 201);
                told.lock().unwrap().deployed.insert(model.into(), version);
            }
        }
    }
}

/// Everything that was acknowledged is there and works; what is there beside it was under way when a server was killed.
fn check(url: &str, told: &Acknowledged, kills: u64) {
    for ((model, version), (digest, _)) in &told.versions {
        let found = raw::get(url, &format!("/api/v1/models/{model}/versions/{version}"));
        assert_eq!((found.status, &found.json()["digest"]), (200, &json!(digest)), "{model}:{version}");
    }
    for (name, digest) in &told.datasets {
        assert_eq!(&raw::get(url, &format!("/api/v1/datasets/{name}")).json()["digest"], digest, "{name}");
    }
    let mut surprises = 0;
    for model in raw::get(url, "/api/v1/models").json().as_array().unwrap() {
        let name = model["name"].as_str().unwrap();
        let versions = model["versions"].as_array().unwrap().iter().map(|version| version.as_u64().unwrap());
        surprises += versions.filter(|version| !told.versions.contains_key(&(name.into(), *version))).count();
        // Versions of one model only grow, and its alias with them.
        assert!(model["aliases"]["champion"].as_u64() >= told.champions.get(name).copied(), "{model}");
    }
    assert!(surprises as u64 <= kills * IMPORTERS.len() as u64, "{surprises} versions after {kills} kills");
    for (name, version) in &told.deployed {
        let deployed = raw::get(url, &format!("/api/v1/deployments/{name}")).json()["version"].as_u64().unwrap();
        assert!(deployed >= *version, "{name}:{version} was deployed, and {deployed} is");
        let answer = raw::call(url, "POST", &format!("/models/{name}/predict"), &[], br#"{"x": [1]}"#);
        assert_eq!(answer.status, 200, "{}", answer.text);
        if let Some((_, coefficient)) = told.versions.get(&(name.clone(), deployed)) {
            assert_eq!(answer.json(), json!({"y_pred": [[coefficient]]}));
        }
    }
}

#[test]
fn a_job_whose_server_is_killed_ends_and_says_that_it_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut random = Random(7);
    let mut interrupted = Vec::new();
    for round in 0..3 {
        let server = Server::start_in(&data_dir, &[]);
        let id = start_endless_job(&server);
        let waiting = start_endless_job(&server);
        let trainer = wait_for("the training process", || process::trainer(server.id()));
        thread::sleep(Duration::from_micros(random.below(500_000)));
        server.kill();
        wait_for("the end of the training process", || (!process::is_alive(trainer)).then_some(()));
        interrupted.extend([id, waiting]);

        let server = Server::start_in(&data_dir, &[]);
        for id in &interrupted {
            let job = server.json(&["jobs", "show", id]);
            assert_eq!((&job["state"], &job["result"]), (&json!("interrupted"), &json!(null)), "round {round}");
            assert!(!job["finished_at"].is_null());
            assert!(server.fails(&["jobs", "follow", id]).contains("interrupted"));
        }
        let left = fs::read_dir(data_dir.join("jobs")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "something is left of the jobs");
        server.kill();
    }
    // The place that they took is free.
    let server = Server::start_in(&data_dir, &[]);
    server.wattle(&words("train --algorithm linear-regression --data diabetes --target target"));
    assert_eq!(server.json(&["gc"])["blobs"], 0);
}

#[test]
fn calls_that_were_answered_before_a_kill_are_in_the_ledger_and_deployments_answer_again() {
    /// A killed process loses what it has not written yet: a tenth of a second's calls, on a machine that is not busy.
    const MAY_BE_LOST: Duration = Duration::from_millis(500);
    const CALLERS: u64 = 3;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut random = Random(11);
    let (mut at_least, mut at_most) = ([0; 2], [0; 2]);
    for round in 0..3 {
        let server = Server::start_in(&data_dir, &[]);
        if round == 0 {
            server.furnish();
        }
        let answered: Mutex<Vec<(Instant, u64)>> = Mutex::default();
        let sent = [AtomicU64::new(0), AtomicU64::new(0)];
        let url = server.url.clone();
        let killed = thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (url, answered, sent) = (&url, &answered, &sent);
                let mut random = Random(round * 10 + caller);
                scope.spawn(move || {
                    let mut connection = Connection::open(url).unwrap();
                    loop {
                        let rows = random.below(5) + 1;
                        let row = json!({"island": "Biscoe", "body_mass_g": null, "sex": "male"});
                        let body = json!({"rows": vec![row; rows as usize]}).to_string();
                        sent[0].fetch_add(1, Relaxed);
                        sent[1].fetch_add(rows, Relaxed);
                        let Ok(answer) = connection.post("/models/penguins/predict", &body) else { return };
                        assert_eq!(answer.status, 200, "{}", answer.text);
                        answered.lock().unwrap().push((Instant::now(), rows));
                    }
                });
            }
            wait_for("answers", || (answered.lock().unwrap().len() > 50).then_some(()));
            thread::sleep(MAY_BE_LOST + Duration::from_micros(random.below(300_000)));
            let killed = Instant::now();
            server.kill();
            killed
        });
        for (at, rows) in answered.into_inner().unwrap() {
            if at + MAY_BE_LOST < killed {
                at_least[0] += 1;
                at_least[1] += rows;
            }
        }
        for (bound, sent) in at_most.iter_mut().zip(&sent) {
            *bound += sent.load(Relaxed);
        }
        let server = Server::start_in(&data_dir, &[]);
        let usage = server.json(&["usage", "--by", "deployment"]);
        let line = usage.as_array().unwrap().iter().find(|line| line["key"] == "penguins").unwrap();
        let found = ["requests", "rows"].map(|key| line[key].as_u64().unwrap());
        for ((least, found), most) in at_least.iter().zip(&found).zip(&at_most) {
            assert!(least <= found && found <= most, "{found} in the ledger, between {least} and {most} were answered");
        }
        // What comes later is added to what is there.
        (at_least, at_most) = (found, found);
        for (path, body) in [
            ("/models/founding/predict", json!({"x": [1]})),
            ("/models/diabetes/predict", json!({"bmi": 30, "bp": 90, "s5": 4})),
        ] {
            let answer = raw::call(&server.url, "POST", path, &[], body.to_string().as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
}

fn blobs(data_dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(data_dir.join("blobs/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A NumPy file of one coefficient.
fn npy(coefficient: f64) -> Vec<u8> {
    let mut head = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }".to_owned();
    // Magic, version and length take 10 bytes, and the whole is a multiple of 64.
    head.push_str(&" ".repeat(127 - 10 - head.len()));
    head.push('\n');
    [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), &coefficient.to_le_bytes()].concat()
}

fn form(coef: &[u8]) -> Vec<u8> {
    let head = b"--b\r\nContent-Disposition: form-data; name=\"coef\"; filename=\"coef.npy\"\r\n\r\n";
    [&head[..], coef, b"\r\n--b--\r\n"].concat()
}
