//! `wattle jobs`, and the events of a job over HTTP.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    process,
    slow::start_endless_job,
    support::{Server, command, example, file, send, wait_for},
};

#[test]
fn a_job_goes_on_when_its_client_leaves_and_ends_when_it_is_cancelled() {
    let server = Server::start();
    let id = start_endless_job(&server);
    let job = || server.json(&["jobs", "show", &id]);
    let iteration = || job()["progress"]["iteration"].as_u64().filter(|_| job()["progress"]["stage"] == "fitting");
    let first = wait_for("progress", iteration);
    let trainer = process::trainer(server.id()).unwrap();
    // It is nicer to others than the server is.
    assert!(process::niceness(trainer).unwrap() > process::niceness(server.id()).unwrap());

    let mut follower = server.start_command(&["jobs", "follow", &id]);
    thread::sleep(Duration::from_millis(50));
    follower.kill().unwrap();
    follower.wait().unwrap();
    wait_for("progress after the follower left", || iteration().filter(|now| *now > first));
    let progress = &job()["progress"];
    assert_eq!(progress["of"], 4_000_000_000_u64);
    assert!(progress["loss"].as_f64().unwrap() > 0.0 && progress["rows_per_second"].as_f64().unwrap() > 0.0);
    assert!(progress["seconds_left"].as_f64().unwrap() > 60.0);

    let started = Instant::now();
    let cancelled = server.json(&["jobs", "cancel", &id]);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((&cancelled["state"], &cancelled["result"]), (&json!("cancelled"), &json!(null)));
    assert!(cancelled["cpu_seconds"].as_f64().unwrap() > 0.0 && cancelled["energy"]["joules"].as_f64().unwrap() > 0.0);
    assert!(!process::is_alive(trainer));
    assert!(!server.data_dir().join("jobs").join(&id).exists());
    assert!(server.fails(&["jobs", "cancel", &id]).contains("it is cancelled"));
    assert!(server.fails(&["jobs", "follow", &id]).contains("cancelled"));
    assert_eq!(server.json(&["models", "list"]), json!([]));
    assert_eq!(server.json(&["jobs", "list"])[0]["state"], "cancelled");
}

#[test]
fn ctrl_c_ends_the_watching_and_says_that_the_job_goes_on() {
    let server = Server::start();
    let id = start_endless_job(&server);
    wait_for("progress", || server.json(&["jobs", "show", &id])["progress"]["loss"].as_f64());
    let shown = server.wattle(&["jobs", "show", &id]);
    let progress = shown.lines().find_map(|line| line.strip_prefix("progress")).unwrap();
    for part in ["fitting", "loss ", " rows/s", " left", " of 4000000000"] {
        assert!(progress.contains(part) && !progress.contains('{'), "no {part:?} in {progress}");
    }
    let follower = command()
        .env("WATTLE_URL", &server.url)
        .args(["jobs", "follow", &id])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the follower", || process::catches_interrupt(follower.id()).then_some(()));
    let follower_id = rustix::process::Pid::from_raw(i32::try_from(follower.id()).unwrap()).unwrap();
    rustix::process::kill_process(follower_id, rustix::process::Signal::INT).unwrap();
    let ended = follower.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{told}");
    assert_eq!(told.trim(), format!("job {id} goes on: wattle jobs follow {id}, or wattle jobs cancel {id}"));
    assert_eq!(server.json(&["jobs", "show", &id])["state"], "running");
}

#[test]
fn a_wrong_id_is_told_alike_everywhere() {
    let server = Server::start();
    let words = "nope is not a job's id: `wattle jobs list` lists them";
    for command in ["show", "follow", "cancel"] {
        assert_eq!(server.fails(&["jobs", command, "nope"]).trim(), format!("error: {words}"));
    }
    for path in ["nope", "nope/events"] {
        let answer = send(|client| client.get(format!("{}/api/v1/training-jobs/{path}", server.url)));
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some(words)));
    }
}

#[test]
fn jobs_wait_for_their_turn_and_can_be_cancelled_while_they_wait() {
    let server = Server::start();
    let (first, second) = (start_endless_job(&server), start_endless_job(&server));
    let state = |id: &str| server.json(&["jobs", "show", id])["state"].clone();
    wait_for("the first job's start", || (state(&first) == "running").then_some(()));
    assert_eq!(state(&second), "queued");
    assert_eq!(server.json(&["jobs", "cancel", &second])["state"], "cancelled");
    assert_eq!(state(&first), "running");
    let third = start_endless_job(&server);
    server.json(&["jobs", "cancel", &first]);
    wait_for("the third job's turn", || (state(&third) == "running").then_some(()));
    let listed = server.json(&["jobs", "list"]);
    let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&*third, &*second, &*first], "the newest comes first");
}

#[test]
fn a_failed_job_says_why() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let table = file(&folder, "classes.csv", "a,class\n1,same\n2,same\n3,same\n4,same\n5,same\n");
    let train = ["train", "--algorithm", "logistic-regression", "--data", &table, "--target", "class"];
    let told = server.fails(&train);
    assert!(told.starts_with("data set classes") && told.contains(" is failed: ") && told.contains("class"), "{told}");
    let output = server.run(&[&train[..], &["-o", "json"]].concat());
    let job: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &job["state"]), (Some(1), &json!("failed")));
    assert!(job["error"].as_str().unwrap().contains("class"), "{job}");
    let shown = server.wattle(&["jobs", "show", job["id"].as_str().unwrap()]);
    assert!(shown.contains("failed") && shown.contains(job["error"].as_str().unwrap()), "{shown}");

    let diverging = [
        "train",
        "--algorithm",
        "linear-regression",
        "--data",
        &example("line.csv"),
        "--target",
        "y",
        "--optimizer",
        "gd",
        "--learning-rate",
        "1000",
    ];
    let told = server.fails(&diverging);
    assert!(told.contains("learning rate"), "{told}");
    assert_eq!(server.json(&["models", "list"]), json!([]));
}

#[test]
fn the_events_of_a_job_end_with_it() {
    let server = Server::start();
    let id = start_endless_job(&server);
    let address = format!("{}/api/v1/training-jobs/{id}/events", server.url);
    let listener = thread::spawn({
        let address = address.clone();
        move || send(|client| client.get(address))
    });
    wait_for("progress", || server.json(&["jobs", "show", &id])["progress"]["loss"].as_f64());
    server.json(&["jobs", "cancel", &id]);
    let stream = listener.join().unwrap();
    assert_eq!((stream.status, stream.header("content-type")), (200, "text/event-stream"));
    let events = events(&stream.text);
    assert!(events.len() >= 3, "{} events", events.len());
    assert_eq!(events.last().unwrap()["state"], "cancelled");
    assert!(
        events[..events.len() - 1].iter().all(|job| ["queued", "running"].contains(&job["state"].as_str().unwrap()))
    );
    assert!(events.iter().any(|job| job["progress"]["loss"].as_f64().is_some()));

    // Of a job that has ended there is one event left.
    let after = send(|client| client.get(address));
    assert_eq!(self::events(&after.text), [events.last().unwrap().clone()]);
}

/// The jobs in a stream of server-sent events, all of which are named `job`.
fn events(stream: &str) -> Vec<Value> {
    let mut jobs = Vec::new();
    for event in stream.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':')) {
        let data = event.strip_prefix("event: job\ndata: ").unwrap_or_else(|| panic!("no event: {event:?}"));
        jobs.push(serde_json::from_str(data).unwrap());
    }
    jobs
}
