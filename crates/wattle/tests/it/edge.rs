//! Clients that are slow, hostile or too many.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    process,
    raw::{self, Connection},
    slow::deploy_slow_model,
    support::{Answer, PATIENCE, Server, wait_for},
};

#[test]
fn the_head_of_a_request_has_a_time_limit() {
    let server = Server::start_with(&["--header-timeout-seconds", "1"]);
    let silent = connect(&server);
    let mut slow = connect(&server);
    slow.write_all(b"POST /predict HTTP/1.1\r\nHost: ").unwrap();
    // The second head on a connection is no different.
    let mut second = Connection::open(&server.url).unwrap();
    assert_eq!(second.call("GET", "/v2", &[], b"").unwrap().status, 200);
    let mut second = second.into_stream();
    second.write_all(b"GET /v2 HT").unwrap();
    let dripping = connect(&server);
    let dripped = thread::spawn(move || drip(dripping));
    assert_eq!(last_words(silent), "");
    let words = last_words(slow);
    assert!(words.starts_with("HTTP/1.1 408 ") && words.contains("within 1 s"), "{words}");
    let words = last_words(second);
    assert!(words.starts_with("HTTP/1.1 408 "), "{words}");
    dripped.join().unwrap();
}

#[test]
fn the_body_of_a_request_has_a_time_limit() {
    let server = Server::start_with(&["--body-timeout-seconds", "1"]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    for (request, body) in [
        ("POST /predict", r#"{"x": "#),
        ("PUT /api/v1/datasets/slow", "x,y\n1,2\n"),
        ("POST /api/v1/deployments", r#"{"model": "#),
    ] {
        let mut stream = connect(&server);
        let head = "HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
        stream.write_all(format!("{request} {head}{body}").as_bytes()).unwrap();
        let words = last_words(stream);
        assert!(words.starts_with("HTTP/1.1 408 ") && words.contains("came in too slowly"), "{request}: {words}");
    }
}

#[test]
fn a_connection_is_closed_between_requests_and_not_during_one() {
    let server = Server::start_with(&["--idle-timeout-seconds", "1", "--max-computing", "1"]);
    deploy_slow_model(&server);
    let mut connection = Connection::open(&server.url).unwrap();
    // So many rows take longer than the connection may be idle.
    let rows = vec!["1.0"; 128].join(",");
    let started = Instant::now();
    let answer = connection.post("/predict", &format!(r#"{{"x": [{rows}]}}"#)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(started.elapsed() > Duration::from_secs(1), "the model is not slow enough for this test");
    assert_eq!(last_words(connection.into_stream()), "");
}

#[test]
fn a_head_is_bounded_in_size_and_in_the_number_of_headers() {
    let server = Server::start_with(&["--max-header-bytes", "4096"]);
    let long = "x".repeat(5000);
    let many: Vec<(String, String)> = (0..120).map(|index| (format!("x-{index}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(raw::call(&server.url, "GET", &format!("/{long}"), &[], b"").status, 431);
    assert_eq!(raw::call(&server.url, "GET", "/v2", &[("X-Long", &long)], b"").status, 431);
    assert_eq!(raw::call(&server.url, "GET", "/v2", &many, b"").status, 431);
    assert_eq!(raw::call(&server.url, "GET", "/v2", &[("X-Long", &long[..3000])], b"").status, 200);
}

#[test]
fn connections_over_the_bound_are_refused_and_the_others_go_on() {
    let server = Server::start_with(&["--max-connections", "2"]);
    let mut kept: Vec<Connection> = (0..2).map(|_| Connection::open(&server.url).unwrap()).collect();
    for connection in &mut kept {
        assert_eq!(live(connection).unwrap().status, 200);
    }
    let refused = raw::get(&server.url, "/v2/health/live");
    assert_eq!((refused.status, refused.header("connection")), (503, "close"));
    assert!(refused.text.contains("too many connections"), "{}", refused.text);
    // More than are told so at once.
    let crowd: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
    for connection in &mut kept {
        assert_eq!(live(connection).unwrap().status, 200);
    }
    drop((crowd, kept.pop()));
    wait_for("a free place", || {
        let answer = Connection::open(&server.url).and_then(|mut connection| live(&mut connection));
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    assert_eq!(live(&mut kept[0]).unwrap().status, 200);
}

#[test]
fn a_server_without_file_descriptors_answers_again_when_it_has_some() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = Command::new("bash");
    launcher.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_wattle")]).env("WATTLE_LOG", "off");
    let server = Server::spawn(launcher, &folder.path().join("data"), &[]);
    let crowd: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
    wait_for("all descriptors to be taken", || (process::descriptors(server.id()) >= 100).then_some(()));
    drop(crowd);
    assert_eq!(raw::get(&server.url, "/v2/health/live").status, 200);
}

#[test]
fn an_answer_that_its_client_does_not_take_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    server.terminate();
    // The one place for a connection is free again only when the server has given up the one who does not read.
    let server = Server::start_in(&data_dir, &["--max-connections", "1", "--write-timeout-seconds", "1"]);
    let mut connection = Connection::open(&server.url).unwrap();
    connection.send("POST", "/predict", &[], large_call().as_bytes()).unwrap();
    wait_for("the server to give up", || {
        let answer = Connection::open(&server.url).and_then(|mut connection| connection.post("/predict", "[1.0]"));
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    });
    let taken = last_words(connection.into_stream());
    assert!(taken.starts_with("HTTP/1.1 200 ") && !taken.ends_with('}'), "{} bytes were taken", taken.len());
}

#[test]
fn thousands_of_idle_connections_disturb_nobody() {
    const IDLE: usize = 2000;
    allow_open_files(2 * IDLE as u64);
    let server = Server::start();
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let mut busy = Connection::open(&server.url).unwrap();
    let mut call = || busy.post("/predict", r#"{"x": [1.0]}"#).unwrap();
    assert_eq!(call().status, 200);
    let before = process::peak_memory(server.id()).unwrap();
    let idle = |_| {
        let mut connection = Connection::open(&server.url).unwrap();
        // One that has asked nothing yet has only the time of a head.
        assert_eq!(live(&mut connection).unwrap().status, 200);
        connection
    };
    let mut idle: Vec<Connection> = (0..IDLE).map(idle).collect();
    for _ in 0..100 {
        assert_eq!(call().text, r#"{"y_pred":[[3.0]]}"#);
    }
    let each = (process::peak_memory(server.id()).unwrap() - before) / IDLE as u64;
    assert!(each < 64 << 10, "an idle connection takes {each} bytes");
    // All of them are still there, and none holds up the end.
    for connection in idle.iter_mut().step_by(100) {
        assert_eq!(live(connection).unwrap().status, 200);
    }
    let started = Instant::now();
    server.terminate();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn half_a_head_does_not_hold_up_the_end() {
    let server = Server::start();
    let mut half = connect(&server);
    half.write_all(b"GET /v2 HTTP/1.1\r\nHo").unwrap();
    raw::get(&server.url, "/v2/health/live");
    let started = Instant::now();
    server.terminate();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_answer_has_its_requests_id() {
    let server = Server::start();
    let id = |headers: &[(&str, &str)]| {
        raw::call(&server.url, "GET", "/nowhere", headers, b"").header("x-request-id").to_owned()
    };
    assert_eq!(id(&[("X-Request-Id", "from-7-to-8")]), "from-7-to-8");
    let (first, second) = (id(&[]), id(&[("X-Request-Id", "not one word")]));
    assert!(first != second && first[..17] == second[..17], "{first} {second}");
    assert_ne!(id(&[("X-Request-Id", &"x".repeat(200))]).len(), 200);
}

/// The body of a call whose answer is larger than what the kernel holds of it.
pub(crate) fn large_call() -> String {
    format!(r#"{{"x": [{}]}}"#, vec!["1"; 2_000_000].join(","))
}

fn live(connection: &mut Connection) -> io::Result<Answer> {
    connection.call("GET", "/v2/health/live", &[], b"")
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that the server says until it closes the connection.
fn last_words(mut stream: TcpStream) -> String {
    let mut words = Vec::new();
    match stream.read_to_end(&mut words) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(words).unwrap(),
    }
}

/// Sends a head that never ends, until the connection does.
fn drip(mut stream: TcpStream) {
    let started = Instant::now();
    let mut next: &[u8] = b"GET /v2 HTTP/1.1\r\nX-Drop: ";
    while stream.write_all(next).is_ok() {
        assert!(started.elapsed() < PATIENCE, "a head that never ends is listened to for ever");
        thread::sleep(Duration::from_millis(20));
        next = b"x";
    }
}

fn allow_open_files(wanted: u64) {
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limits })
            .expect("this test opens many connections: raise the hard limit of open files");
    }
}
