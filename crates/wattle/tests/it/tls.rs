//! TLS by certificate files.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    raw,
    support::{PATIENCE, Server, command, wait_for},
};

/// A certificate of its own authority, and its key, in files.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cert(&self) -> String {
        self.path("cert.pem").to_str().unwrap().to_owned()
    }

    /// Writes another certificate in place of the one that is there.
    fn renew(&self) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(self.path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    }

    fn serve(&self, launcher: Command, arguments: &[&str]) -> Server {
        let key = self.path("key.pem");
        let tls = ["--tls-cert", &self.cert(), "--tls-key", key.to_str().unwrap()];
        Server::spawn(launcher, &self.path("data"), &[&tls, arguments].concat())
    }
}

/// Whether the command line reaches a server when it trusts this certificate.
fn is_reached(server: &Server, ca_file: &Path) -> bool {
    server.run(&["ps", "--ca-file", ca_file.to_str().unwrap()]).status.success()
}

#[test]
fn the_command_line_and_curl_speak_tls_with_a_server() {
    let files = Files::new();
    let server = files.serve(command(), &[]);
    assert!(server.url.starts_with("https://127.0.0.1:"));
    let trusting = |arguments: &[&str]| server.wattle(&[arguments, &["--ca-file", &files.cert()]].concat());
    let founding = "models import --name founding --coef examples/model.npy --intercept examples/intercept.npy";
    trusting(&founding.split(' ').collect::<Vec<_>>());
    trusting(&["deploy", "founding"]);
    assert_eq!(
        trusting(&["predict", "founding", "--json", r#"{"x": [1.0]}"#]).lines().next(),
        Some(r#"{"y_pred":[[3.0]]}"#)
    );
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", flag, "--noproxy", "*", "--cacert", &files.cert()])
            .args(["--write-out", " %{http_version}", "--data", r#"{"x": [1.0]}"#])
            .arg(format!("{}/predict", server.url.replace("127.0.0.1", "localhost")))
            .output()
            .unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(said, format!(r#"{{"y_pred":[[3.0]]}} {version}"#));
    }
    server.terminate();
}

#[test]
fn a_server_that_is_not_trusted_or_called_in_the_clear_is_told_with_what_to_do() {
    let (files, others) = (Files::new(), Files::new());
    let server = files.serve(command(), &[]);
    let error = server.fails(&["ps", "--ca-file", &others.cert()]);
    assert!(error.contains("is not trusted") && error.contains("--ca-file"), "{error}");
    let error = server.fails(&["ps", "--ca-file", files.path("key.pem").to_str().unwrap()]);
    assert!(error.contains("holds no certificate"), "{error}");
    let answer = raw::get(&server.url.replace("https://", "http://"), "/v2/health/live");
    assert!(answer.status == 400 && answer.text.contains("https://"), "{}", answer.text);
}

#[test]
fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let files = Files::new();
    let log = files.path("log");
    let mut launcher = command();
    launcher.env("WATTLE_LOG", "info").stderr(fs::File::create(&log).unwrap());
    let server = files.serve(launcher, &[]);
    let first = files.path("first.pem");
    fs::copy(files.path("cert.pem"), &first).unwrap();
    assert!(is_reached(&server, &first));

    files.renew();
    let second = files.path("second.pem");
    fs::copy(files.path("cert.pem"), &second).unwrap();
    wait_for("the new certificate", || is_reached(&server, &second).then_some(()));
    assert!(!is_reached(&server, &first));

    fs::write(files.path("cert.pem"), "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n").unwrap();
    let logged = |words: &str| fs::read_to_string(&log).unwrap().contains(words).then_some(());
    wait_for("the broken certificate to be logged", || logged("the old one is kept"));
    assert!(is_reached(&server, &second));

    files.renew();
    wait_for("the third certificate", || is_reached(&server, Path::new(&files.cert())).then_some(()));
}

#[test]
fn a_connection_outlives_its_certificate() {
    let files = Files::new();
    let server = files.serve(command(), &[]);
    let first = fs::read(files.path("cert.pem")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted = reqwest::Certificate::from_pem_bundle(&first).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only(trusted).build().unwrap();
    let live = format!("{}/v2/health/live", server.url);
    let call = || runtime.block_on(async { client.get(&live).send().await.unwrap().text().await.unwrap() });
    call();
    files.renew();
    wait_for("the new certificate", || is_reached(&server, Path::new(&files.cert())).then_some(()));
    // Another connection would not be trusted.
    assert_eq!(call(), r#"{"live":true}"#);
}

#[test]
fn a_handshake_that_goes_nowhere_is_given_up_and_keeps_nobody_waiting() {
    let files = Files::new();
    let server = files.serve(command(), &["--header-timeout-seconds", "1"]);
    let stalled: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.url.trim_start_matches("https://")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The beginning of a record that never comes.
            stream.write_all(&[0x16, 0x03, 0x01, 0x01]).unwrap();
            stream
        })
        .collect();
    assert!(is_reached(&server, &files.path("cert.pem")));
    for mut stream in stalled {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
}

#[test]
fn a_server_does_not_start_with_files_that_are_not_what_they_should_be() {
    let (files, others) = (Files::new(), Files::new());
    let fails = |cert: PathBuf, key: PathBuf| {
        let output = command()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(files.path("data"))
            .args(["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for (cert, key, words) in [
        (files.path("none.pem"), files.path("key.pem"), "cannot read"),
        (files.path("key.pem"), files.path("key.pem"), "holds no certificate"),
        (files.path("cert.pem"), files.path("cert.pem"), "holds no private key"),
        (files.path("cert.pem"), others.path("key.pem"), "is not that of the certificate"),
    ] {
        let error = fails(cert, key);
        assert!(error.contains(words), "{error}");
    }
    let output = command().args(["serve", "--tls-cert", "cert.pem"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("say server.tls_key too"), "{error}");
}
