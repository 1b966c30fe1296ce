//! A full disk: a small file system in memory, in a mount namespace of the server's own, which goes with it.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    raw,
    support::{Server, command, words},
};

#[test]
fn a_full_disk_is_told_and_costs_nothing_that_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let Some(launcher) = launcher(folder.path()) else {
        let is_known = std::env::var_os("WATTLE_TESTS_WITHOUT_MOUNT").is_some_and(|value| value == "1");
        assert!(
            is_known,
            "this user may not mount a file system in a namespace of their own: run the tests as one who may, or set \
             WATTLE_TESTS_WITHOUT_MOUNT=1 to go without this test"
        );
        return;
    };
    let disk = folder.path().join("disk");
    let server = Server::spawn(launcher, &disk.join("data"), &[]);
    // The way into the server's own view of the file system.
    let disk = PathBuf::from(format!("/proc/{}/root{}", server.id(), disk.display()));
    server.furnish();
    let state = || ["/api/v1/datasets", "/api/v1/models"].map(|path| raw::get(&server.url, path).json());
    let before = state();

    // More than there is room for: nothing half-made is left.
    let table = format!("a,b\n{}", "1.25,text\n".repeat(2 << 20));
    let refused = raw::call(&server.url, "PUT", "/api/v1/datasets/big", &[], table.as_bytes());
    assert_eq!(refused.status, 507, "{}", refused.text);
    let error = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("disk is full") && error.contains("wattle gc"), "{error}");
    assert_eq!((state(), files(&disk.join("data/staging"))), (before.clone(), 0));
    server.wattle(&words("data add line examples/line.csv"));
    server.wattle(&words("data rm line"));

    // Not a byte is left.
    let filler = disk.join("filler");
    fill(&filler);
    for (request, body, content_type) in [
        ("PUT /api/v1/datasets/small", "a,b\n1,2\n", "text/csv"),
        ("POST /api/v1/models/small/versions", "not that it matters", "application/octet-stream"),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let refused = raw::call(&server.url, method, path, &[("Content-Type", content_type)], body.as_bytes());
        assert_eq!(refused.status, 507, "{request}: {}", refused.text);
    }
    let job = json!({"algorithm": "linear-regression", "data": "diabetes", "target": "target"}).to_string();
    let refused = raw::call(
        &server.url,
        "POST",
        "/api/v1/training-jobs",
        &[("Content-Type", "application/json")],
        job.as_bytes(),
    );
    // A little may still fit into the pages that the catalogue has; then the job cannot write its model.
    match refused.status {
        507 => {}
        201 => {
            let told = server.fails(&["jobs", "follow", refused.json()["id"].as_str().unwrap()]);
            assert!(told.contains("space") || told.contains("full"), "{told}");
        }
        other => panic!("{other}: {}", refused.text),
    }
    // Calls need no disk, and are counted when there is one again.
    let predict = || raw::call(&server.url, "POST", "/models/founding/predict", &[], br#"{"x": [1.0]}"#);
    for _ in 0..20 {
        let answer = predict();
        assert_eq!((answer.status, answer.json()), (200, json!({"y_pred": [[3.0]]})));
    }
    assert_eq!((state(), files(&disk.join("data/staging"))), (before, 0));

    fs::remove_file(&filler).unwrap();
    server.wattle(&words("data add line examples/line.csv"));
    server.wattle(&words("train --algorithm linear-regression --data line --target y --name line"));
    let usage = server.json(&["usage", "--by", "deployment"]);
    let line = usage.as_array().unwrap().iter().find(|line| line["key"] == "founding");
    assert_eq!(line.unwrap_or(&Value::Null)["requests"], 20, "{usage}");
    server.terminate();
}

/// Runs the binary with a file system of a few megabytes at `disk` in the folder, as root in the eyes of that file
/// system alone; `None` where that is not allowed.
fn launcher(folder: &Path) -> Option<Command> {
    const SCRIPT: &str = r#"mount -t tmpfs -o size=12m,mode=0700 tmpfs "$0" && exec "$@""#;
    let disk = folder.join("disk");
    fs::create_dir(&disk).unwrap();
    let unshare = |namespaces: &[&str]| {
        // It takes over what keeps the user's own settings out.
        let mut launcher = Command::new("unshare");
        for (name, value) in command().get_envs() {
            match value {
                Some(value) => launcher.env(name, value),
                None => launcher.env_remove(name),
            };
        }
        launcher.args(namespaces).args(["sh", "-c", SCRIPT]).arg(&disk);
        launcher
    };
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &&[&str]| {
        let tried = unshare(way).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let way = ways.into_iter().find(works)?;
    let mut launcher = unshare(way);
    launcher.arg(command().get_program());
    Some(launcher)
}

/// Writes a file until there is no room for another byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}
