//! A server of its own for each test, on a free port, with a data folder that is thrown away.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::process;

/// The longest that anything here may take; a test that waits longer has found a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that nobody has.
pub(crate) const NO_FOLDER: &str = "/nowhere";

/// The repository's root, where `examples/` is.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A file of `examples/`.
pub(crate) fn example(name: &str) -> String {
    root().join("examples").join(name).to_str().unwrap().to_owned()
}

/// A running server. It is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    data_dir: PathBuf,
    // Outlives the child, which writes into it.
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    /// A server with an empty data folder.
    pub(crate) fn start() -> Server {
        Server::start_with(&[])
    }

    /// The same with further arguments of `wattle serve`.
    pub(crate) fn start_with(arguments: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::start_in(&folder.path().join("data"), arguments);
        server._folder = Some(folder);
        server
    }

    /// A server on a data folder that outlives it.
    pub(crate) fn start_in(data_dir: &Path, arguments: &[&str]) -> Server {
        Server::spawn(command(), data_dir, arguments)
    }

    /// The same by a command line that ends in running the binary in its own process.
    pub(crate) fn spawn(mut launcher: Command, data_dir: &Path, arguments: &[&str]) -> Server {
        launcher.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir).args(arguments);
        Server::launch(launcher, data_dir)
    }

    /// The same by a whole command line, which keeps its data there.
    pub(crate) fn launch(mut launcher: Command, data_dir: &Path) -> Server {
        let mut child = launcher.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, line) = mpsc::channel();
        thread::spawn(move || {
            let _ = sender.send(BufReader::new(stdout).lines().next());
        });
        let line = match line.recv_timeout(PATIENCE) {
            Ok(Some(Ok(line))) => line,
            other => {
                let _ = child.kill();
                panic!("the server did not say where it listens: {other:?}");
            }
        };
        let url = line.split_whitespace().find(|word| word.starts_with("http")).unwrap().to_owned();
        Server { child, url, data_dir: data_dir.to_owned(), _folder: None }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A server with the founding pair, a regression without gaps and a classifier with categories and gaps, each
    /// deployed under its model's name.
    pub(crate) fn start_furnished() -> Server {
        let server = Server::start();
        server.furnish();
        server
    }

    /// Makes and deploys the models of [`Server::start_furnished`].
    pub(crate) fn furnish(&self) {
        self.import_founding();
        self.wattle(&words(
            "train --algorithm linear-regression --data examples/diabetes.csv --target target --features bmi,bp,s5
             --name diabetes",
        ));
        self.wattle(&words(
            "train --algorithm logistic-regression --data examples/penguins.csv --target species
             --features island,body_mass_g,sex --name penguins",
        ));
        for model in ["founding", "diabetes", "penguins"] {
            self.wattle(&["deploy", model]);
        }
    }

    /// Imports the founding example's pair as the next version of `founding`: `y = 2x + 1`.
    pub(crate) fn import_founding(&self) {
        self.wattle(&words(
            "models import --name founding --coef examples/model.npy --intercept examples/intercept.npy",
        ));
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) -> Option<tempfile::TempDir> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self._folder.take()
    }

    /// SIGTERM; waits for the end and checks that it was an orderly one.
    pub(crate) fn terminate(mut self) -> Option<tempfile::TempDir> {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let id = self.child.id();
            assert!(started.elapsed() < PATIENCE, "the server does not end: {:?}", process::threads(id));
            thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "the server ended with {status}");
        self._folder.take()
    }

    /// Runs `wattle` against this server; whatever comes out.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        command()
            .env("WATTLE_URL", &self.url)
            .args(arguments)
            .current_dir(root())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same with something on its standard input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = command()
            .env("WATTLE_URL", &self.url)
            .args(arguments)
            .current_dir(root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that refuses its input does not read all of it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Starts `wattle` against this server and leaves it running.
    pub(crate) fn start_command(&self, arguments: &[&str]) -> Child {
        command()
            .env("WATTLE_URL", &self.url)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Runs `wattle` against this server; its standard output. It must succeed.
    pub(crate) fn wattle(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "wattle {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The same with `-o json`, parsed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["-o", "json"]].concat();
        let text = self.wattle(&arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("wattle {arguments:?}: {error}: {text}"))
    }

    /// Runs `wattle` against this server; what it says on the standard error. It must fail.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "wattle {arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test, with a home of nobody's, so that the user's own settings and data stay out.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattle"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("WATTLE_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", NO_FOLDER).env("WATTLE_LOG", "warn");
    command
}

/// Waits until `found` finds something.
pub(crate) fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A file with this content in a folder.
pub(crate) fn file(folder: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A command line's words.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The address of a port that nobody listens on.
pub(crate) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.below(1 << 53) as f64 / (1_u64 << 53) as f64
    }
}

/// An answer over HTTP.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }
}

/// Sends one request and waits for the whole answer.
pub(crate) fn send(make: impl FnOnce(&reqwest::Client) -> reqwest::RequestBuilder) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // TLS has tests of its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE).build().unwrap();
        let response = make(&client).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    })
}

/// `POST` of JSON.
pub(crate) fn post(url: &str, body: &Value) -> Answer {
    send(|client| client.post(url).json(body))
}
