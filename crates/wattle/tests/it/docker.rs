//! Images in a real Docker Engine: `make test-docker` runs these, with one of its own where there is none.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    docs,
    grpc::calls_at,
    language_models::Decoder,
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

/// Calls one address again and again from several threads until told to stop; how each call ended.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(u16, String)>>>,
}

impl Load {
    fn start(server: &Server, path: &str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let (stop, url) = (Arc::clone(&stop), format!("{}{path}", server.url));
            thread::spawn(move || {
                let mut answers = Vec::new();
                while !stop.load(Relaxed) {
                    let answer = post(&url, &json!({"x": [1.0]}));
                    answers.push((answer.status, answer.text));
                    thread::sleep(Duration::from_millis(2));
                }
                answers
            })
        };
        Load { threads: (0..6).map(call).collect(), stop }
    }

    fn end(self) -> Vec<(u16, String)> {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// The names of a deployment's containers that get calls.
fn ready(server: &Server, name: &str) -> Vec<String> {
    let status = send(|client| client.get(format!("{}/api/v1/deployments/{name}", server.url))).json();
    let instances = status["instances"].as_array().cloned().unwrap_or_default();
    let ready = instances.iter().filter(|instance| instance["state"] == "ready");
    ready.map(|instance| instance["name"].as_str().unwrap().to_owned()).collect()
}

/// A deployment's containers, one in a line, whether they run or not.
fn containers(name: &str) -> String {
    docker(&["ps", "--all", "--quiet", "--filter", &format!("label=serving.wattle.deployment={name}")])
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_serves_a_deployment_through_the_death_of_a_container_a_pause_and_a_rolling_update() {
    let server = Server::start();
    server.import_founding();
    server.import_founding();
    server.wattle(&[
        "deploy",
        "founding:1",
        "--target",
        "docker",
        "--replicas",
        "2",
        "--cpus",
        "1",
        "--memory",
        "256MiB",
    ]);
    let first = ready(&server, "founding");
    assert_eq!(first.len(), 2);
    let limits = docker(&["inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", &first[0]]);
    assert_eq!(limits, format!("{} 1000000000", 256 << 20));
    assert!(server.wattle(&["ps"]).contains("2 containers"));
    let log = server.wattle(&["logs", "founding"]);
    assert!(first.iter().all(|name| log.contains(name)), "what the containers say is told too: {log}");

    // One is killed: what it had in hand is lost, and nothing else.
    let load = Load::start(&server, "/models/founding/predict");
    thread::sleep(Duration::from_millis(500));
    docker(&["kill", &first[0]]);
    wait_for("another container in its place", || {
        let now = ready(&server, "founding");
        (now.len() == 2 && !now.contains(&first[0])).then_some(())
    });
    let answers = load.end();
    let lost: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
    // A batch for each of the calls that a container may have in hand, of all calls of the six threads.
    assert!(lost.len() <= 6, "{lost:?}");
    assert!(lost.iter().all(|(status, text)| *status == 503 && text.contains("ended")), "{lost:?}");
    assert!(answers.len() > 200 && answers.iter().any(|(_, text)| *text == r#"{"y_pred":[[3.0]]}"#));

    // One stands still: it gets no calls until it goes on.
    let paused = ready(&server, "founding")[0].clone();
    docker(&["pause", &paused]);
    wait_for("the one that stands still to get no calls", || {
        (!ready(&server, "founding").contains(&paused)).then_some(())
    });
    let load = Load::start(&server, "/models/founding/predict");
    thread::sleep(Duration::from_millis(500));
    assert!(load.end().iter().all(|(status, _)| *status == 200));
    docker(&["unpause", &paused]);
    wait_for("it to get calls again", || ready(&server, "founding").contains(&paused).then_some(()));

    // A new version takes over one by one, and no call fails.
    let before = ready(&server, "founding");
    let load = Load::start(&server, "/models/founding/predict");
    thread::sleep(Duration::from_millis(200));
    server.wattle(&["deploy", "founding:2"]);
    thread::sleep(Duration::from_millis(200));
    let answers = load.end();
    let failed: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
    assert!(failed.is_empty() && answers.len() > 100, "{failed:?}");
    let after = ready(&server, "founding");
    assert!(after.len() == 2 && after.iter().all(|name| !before.contains(name)), "{before:?} {after:?}");
    wait_for("the old ones to be removed", || (containers("founding").lines().count() == 2).then_some(()));

    server.wattle(&["undeploy", "founding"]);
    wait_for("all containers to be removed", || containers("founding").is_empty().then_some(()));
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_has_a_language_model_answer_where_the_prompt_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.gguf");
    Decoder { context_tokens: 4096, ..Decoder::SMALL }.write(&file);
    let server = Server::start();
    server.wattle(&["models", "import", "--name", "tiny", file.to_str().unwrap()]);
    server.wattle(&["deploy", "tiny", "--name", "near", "--threads", "1"]);
    let far = "deploy tiny --name far --target docker --replicas 2 --cpus 1 --threads 1";
    server.wattle(&far.split(' ').collect::<Vec<_>>());
    let complete = |model: &str, prompt: &str| {
        let body = json!({"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0});
        let answer = post(&format!("{}/v1/completions", server.url), &body);
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    // Prompts of one batch, since sums in other batches are rounded otherwise.
    for prompt in ["One", "Two", "Three", "Four"] {
        assert_eq!(complete("near", prompt)["choices"], complete("far", prompt)["choices"]);
    }
    // Whatever prompts are about, each is read once, in one of the two.
    for topic in ["tides", "bees", "rust", "wattle"] {
        let prompt = format!("What is known of {topic}? ").repeat(40);
        let first = complete("far", &prompt)["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert!(first < 100, "{first}");
        let again = complete("far", &format!("{prompt} And what else?"));
        let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert!(cached as usize >= prompt.len() - 16, "{again}");
    }
    let body = json!({"model": "far", "prompt": "Count", "max_tokens": 4, "stream": true});
    let streamed = post(&format!("{}/v1/completions", server.url), &body).text;
    assert!(streamed.matches("data: {").count() >= 2 && streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    let tokens = post(&format!("{}/api/v1/tokenize", server.url), &json!({"model": "far", "content": "ab"}));
    assert_eq!(tokens.status, 200, "{}", tokens.text);
    // More than its context holds: what an instance refuses its caller is told.
    let body = json!({"model": "far", "prompt": "long ".repeat(1000), "max_tokens": 1});
    let refused = post(&format!("{}/v1/completions", server.url), &body);
    assert_eq!(refused.status, 400, "{}", refused.text);
    // What was used there is booked here.
    let usage = server.json(&["usage", "--by", "deployment"]).to_string();
    assert!(usage.contains("\"far\""), "{usage}");
    server.wattle(&["undeploy", "far"]);
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_loses_no_container_when_the_server_is_killed_or_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(folder.path(), &[]);
    server.import_founding();
    server.wattle(&["deploy", "founding", "--name", "orphan", "--target", "docker"]);
    let first = containers("orphan");
    assert_eq!(first.lines().count(), 1);
    server.kill();
    assert_eq!(containers("orphan"), first, "nobody removed it");
    let server = Server::start_in(folder.path(), &[]);
    let answer = post(&format!("{}/models/orphan/predict", server.url), &json!({"x": [1.0]}));
    assert_eq!((answer.status, answer.json()), (200, json!({"y_pred": [[3.0]]})));
    let second = containers("orphan");
    assert!(second.lines().count() == 1 && second != first);
    server.terminate();
    assert_eq!(containers("orphan"), "");
}

#[test]
#[ignore = "needs a Docker Engine: make test-docker"]
fn docker_does_what_the_page_on_containers_shows() {
    docs::check_page(docs::ON_CONTAINERS);
}
