//! HTTP/2 by prior knowledge, on the port of HTTP/1.1.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use reqwest::header::HeaderMap;
use tokio::task::JoinHandle;

use crate::{
    edge::large_call,
    support::{PATIENCE, Server},
};

/// A client of HTTP/2 that gives each of its streams so much room at first.
async fn connect(server: &Server, window_bytes: u32) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let (sender, connection) = Builder::new().initial_window_size(window_bytes).handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    (sender.ready().await.unwrap(), connection)
}

/// Sends a request; its answer's status, headers and body.
async fn call(
    sender: &mut SendRequest<Bytes>,
    server: &Server,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, HeaderMap, RecvStream) {
    let request = http::Request::builder().method(method).uri(format!("{}{path}", server.url)).body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }
    let (parts, body) = response.await.unwrap().into_parts();
    (parts.status.as_u16(), parts.headers, body)
}

/// The whole of a body, as fast as it comes.
async fn whole(mut body: RecvStream) -> Result<String, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(bytes).unwrap())
}

fn founding(arguments: &[&str]) -> Server {
    let server = Server::start_with(arguments);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    server
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the server does not answer")
}

#[tokio::test]
async fn calls_share_a_connection() {
    let server = founding(&["--max-http2-streams", "3"]);
    let (mut sender, _connection) = connect(&server, 65_535).await;
    let (status, headers, body) = patiently(call(&mut sender, &server, "POST", "/predict", r#"{"x": [1.0]}"#)).await;
    assert_eq!((status, whole(body).await.unwrap().as_str()), (200, r#"{"y_pred":[[3.0]]}"#));
    assert!(headers.contains_key("x-request-id") && headers.contains_key("x-wattle-energy-joules"));
    assert_eq!(sender.current_max_send_streams(), 3);
    // An answer of many frames, beside which others go on.
    let (status, _, large) = patiently(call(&mut sender, &server, "POST", "/predict", "[1, 2]")).await;
    assert_eq!((status, whole(large).await.unwrap().as_str()), (200, r#"{"y_pred":[[3.0],[5.0]]}"#));
    let (status, _, body) = patiently(call(&mut sender, &server, "GET", "/nowhere", "")).await;
    assert!(status == 404 && whole(body).await.unwrap().contains("there is nothing at /nowhere"));
}

#[tokio::test]
async fn a_stream_that_its_client_does_not_read_is_reset_and_the_others_go_on() {
    let server = founding(&["--write-timeout-seconds", "1"]);
    let (mut sender, _connection) = connect(&server, 1000).await;
    let request = http::Request::builder().method("POST").uri(format!("{}/predict", server.url)).body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(Bytes::from(large_call()), true).unwrap();
    let mut body = patiently(response).await.unwrap().into_body();
    let first = patiently(body.data()).await.unwrap().unwrap();
    assert!(!first.is_empty());
    let (status, _, other) = patiently(call(&mut sender, &server, "POST", "/predict", "[1.0]")).await;
    assert_eq!((status, whole(other).await.unwrap().as_str()), (200, r#"{"y_pred":[[3.0]]}"#));
    let end = patiently(async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        }
    });
    let error = end.await.expect("the answer came to an end").unwrap_err();
    assert!(error.is_reset(), "{error}");
    let (status, ..) = patiently(call(&mut sender, &server, "GET", "/v2/health/live", "")).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_large_answer_comes_whole_to_a_client_that_reads() {
    let server = founding(&[]);
    let (mut sender, _connection) = connect(&server, 65_535).await;
    let request = http::Request::builder().method("POST").uri(format!("{}/predict", server.url)).body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(Bytes::from(large_call()), true).unwrap();
    let answer = patiently(response).await.unwrap();
    let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let text = patiently(whole(answer.into_body())).await.unwrap();
    assert_eq!(text.len(), length);
    assert!(text.starts_with(r#"{"y_pred":[[3.0],[3.0],"#) && text.ends_with("[3.0]]}"));
}

#[tokio::test]
async fn an_idle_connection_is_told_to_end_and_so_is_one_when_the_server_does() {
    let server = founding(&["--idle-timeout-seconds", "1"]);
    let (mut sender, connection) = connect(&server, 65_535).await;
    drop(patiently(call(&mut sender, &server, "GET", "/v2", "")).await);
    patiently(connection).await.unwrap().unwrap();

    let server = founding(&[]);
    let (mut sender, connection) = connect(&server, 65_535).await;
    drop(patiently(call(&mut sender, &server, "GET", "/v2", "")).await);
    let started = Instant::now();
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    patiently(connection).await.unwrap().unwrap();
    ended.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
}
