//! Images in a real Docker Engine: `make test-docker` runs these, with one of its own where there is none.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    docs,
    grpc::calls_at,
    support::{Server, post, send, wait_for},
};

/// Runs `docker`; what it says, which must be no complaint.
fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A container; removed when this is dropped.
struct Container {
    id: String,
    url: String,
}

impl Container {
    /// Runs an image as strictly as an engine can.
    fn run(image: &str) -> Container {
        let strict = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "200"];
        let ports = ["--publish", "127.0.0.1::8080"];
        let id = docker(&[&["run", "--detach"], &strict[..], &ports, &[image]].concat());
        let container = Container { url: format!("http://{}", docker(&["port", &id, "8080"])), id };
        wait_for("the container to answer", || {
            let told =
                Command::new("docker").args(["exec", &container.id, "/usr/bin/wattle", "health"]).output().unwrap();
            told.status.success().then_some(())
        });
        container
    }

    fn inspect(&self) -> Value {
        let told: Value = serde_json::from_str(&docker(&["inspect", &self.id])).unwrap();
        told[0].clone()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", &self.id]).output();
    }
}

/// A registry; ended when this is dropped.
struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Registry {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.path()}},
            "http": {"addr": address},
        });
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry { child: command.spawn().unwrap(), address, _folder: folder };
        wait_for("the registry", || std::net::TcpStream::connect(&registry.address).ok());
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_runs_an_image_as_a_user_without_rights_on_a_root_that_is_not_written() {
    let server = Server::start();
    server.import_founding();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    let built = server.json(&["image", "build", "founding", "--tar", archive.to_str().unwrap()]);
    assert!(docker(&["load", "--input", archive.to_str().unwrap()]).contains("wattle/founding:1"));
    let container = Container::run("wattle/founding:1");
    let inspected = container.inspect();
    assert_eq!(inspected["Config"]["User"], "65532:65532");
    assert_eq!(post(&format!("{}/predict", container.url), &json!({"x": [1.0]})).json(), json!({"y_pred": [[3.0]]}));
    calls_at(&container.url, async |channel| crate::grpc::founding_is_answered(channel).await);
    let refused = send(|client| client.delete(format!("{}/api/v1/deployments/founding", container.url)));
    assert_eq!(refused.status, 403, "{}", refused.text);
    // No shell, no package manager: what can be run is the program.
    let shell = Command::new("docker").args(["exec", &container.id, "/bin/sh", "-c", "true"]).output().unwrap();
    assert!(!shell.status.success());
    wait_for("the engine to find it healthy", || {
        (container.inspect()["State"]["Health"]["Status"] == "healthy").then_some(())
    });
    docker(&["stop", "--time", "20", &container.id]);
    assert_eq!(container.inspect()["State"]["ExitCode"], 0, "{}", docker(&["logs", &container.id]));
    assert!(built["bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_pulls_from_a_registry_what_was_pushed_and_a_further_version_sends_its_own_layer_alone() {
    let registry = Registry::start();
    let server = Server::start();
    server.import_founding();
    let name = format!("{}/team/founding", registry.address);
    let first = server.json(&["image", "build", "founding:1", "--push", &format!("{name}:1")]);
    let sent = |built: &Value| built["pushed"]["sent_bytes"].as_u64().unwrap();
    let reference = first["pushed"]["reference"].as_str().unwrap();
    assert_eq!(reference, format!("{name}@{}", first["digest"].as_str().unwrap()));
    docker(&["pull", reference]);
    let container = Container::run(reference);
    assert_eq!(post(&format!("{}/predict", container.url), &json!({"x": [1.0]})).json(), json!({"y_pred": [[3.0]]}));

    server.import_founding();
    let second = server.json(&["image", "build", "founding:2", "--push", &format!("{name}:2")]);
    assert!(sent(&first) > 10 << 20 && sent(&second) < 1 << 20, "{first} {second}");
    let again = server.json(&["image", "build", "founding:2", "--push", &format!("{name}:2")]);
    assert_eq!(sent(&again), 0, "{again}");
    docker(&["pull", &format!("{name}:2")]);
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_does_what_the_page_on_containers_shows() {
    docs::check_page(docs::ON_CONTAINERS);
}
