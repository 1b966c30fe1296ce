//! Traces, as a collector receives them.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use serde_json::json;

use crate::{
    grpc::{Client, calls, founding},
    process,
    support::{Server, command, nobody, post, send},
};

/// A collector that keeps what it is sent.
struct Collector {
    url: String,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received: Arc<Mutex<Received>> = Arc::default();
        let kept = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&kept);
                thread::spawn(
                    move || while take_batch(&mut BufReader::new(stream.as_ref().unwrap()), &kept).is_some() {},
                );
            }
        });
        Collector { url, received }
    }

    fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap().spans.clone()
    }
}

/// Reads one request and answers it; `None` at the connection's end.
fn take_batch(stream: &mut BufReader<&TcpStream>, kept: &Mutex<Received>) -> Option<()> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    assert!(line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if let Some(value) = header.strip_prefix("content-type:") {
            assert_eq!(value.trim(), "application/x-protobuf");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let batch = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    let mut received = kept.lock().unwrap();
    for traces in batch.resource_spans {
        received.resource.extend(attributes(&traces.resource.unwrap().attributes));
        received.spans.extend(traces.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    drop(received);
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    stream.get_mut().write_all(answer.as_bytes()).ok()
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_calls_trace_is_part_of_its_callers() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = command();
    launcher.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url).env("WATTLE_TELEMETRY_SERVICE_NAME", "models");
    let server = Server::spawn(launcher, &folder.path().join("data"), &[]);
    server.furnish();
    let call = |path: &str, traceparent: &str| {
        let url = format!("{}{path}", server.url);
        send(|client| {
            let request = client.post(url).header("traceparent", traceparent).header("x-request-id", "mine");
            request.json(&json!({"x": [1.0, 2.0]}))
        })
    };
    let answer = call("/models/founding/predict", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(answer.status, 200);
    assert_eq!(call("/models/nobody/predict", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").status, 404);
    // The caller has decided that this one is not kept.
    assert_eq!(call("/models/founding/predict", "00-2af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").status, 200);
    send(|client| client.get(format!("{}/metrics", server.url)));
    send(|client| client.get(format!("{}/v2/health/ready", server.url)));
    // Long before the next batch would be due.
    server.terminate();

    let spans = collector.spans();
    let trace = |id: &str| -> Vec<&Span> { spans.iter().filter(|span| hex(&span.trace_id) == id).collect() };
    let one = trace("0af7651916cd43dd8448eb211c80319c");
    let request = *one.iter().find(|span| span.kind == SpanKind::Server as i32).unwrap();
    assert_eq!(hex(&request.parent_span_id), "b7ad6b7169203331");
    assert_eq!(request.name, "POST /models/{deployment}/predict");
    let told = attributes(&request.attributes);
    let expected = [
        ("http.request.method", "POST"),
        ("http.route", "/models/{deployment}/predict"),
        ("url.path", "/models/founding/predict"),
        ("http.response.status_code", "200"),
        ("wattle.request_id", "mine"),
        ("wattle.deployment", "founding"),
        ("wattle.model", "founding:1"),
        ("wattle.energy_label", answer.header("x-wattle-energy-label")),
    ];
    for (attribute, value) in expected {
        assert_eq!(told.get(attribute).map(String::as_str), Some(value), "{attribute} of {told:?}");
    }
    assert_eq!(told["wattle.energy_joules"].parse::<f64>(), answer.header("x-wattle-energy-joules").parse::<f64>());

    let mut phases: Vec<&&Span> = one.iter().filter(|span| span.parent_span_id == request.span_id).collect();
    phases.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
    let names: Vec<&str> = phases.iter().map(|span| span.name.as_str()).collect();
    assert_eq!((one.len(), names.len()), (6, 5), "{names:?}");
    for name in ["read", "queue", "batch", "compute", "reply"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for pair in phases.windows(2) {
        assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano, "{names:?}");
    }
    let compute = phases.iter().find(|span| span.name == "compute").unwrap();
    assert!(compute.end_time_unix_nano > compute.start_time_unix_nano);
    // The clock of the day may be set while a request runs, but hardly by a minute.
    let apart = phases[0].start_time_unix_nano.abs_diff(request.start_time_unix_nano);
    assert!(apart < 60_000_000_000 && phases[4].end_time_unix_nano == request.end_time_unix_nano);

    let missing = trace("1af7651916cd43dd8448eb211c80319c");
    assert_eq!(missing.len(), 1);
    assert_eq!(attributes(&missing[0].attributes)["http.response.status_code"], "404");
    let failed = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
    assert!(!failed(missing[0]), "a caller's slip is no failure of the server's");
    assert!(trace("2af7651916cd43dd8448eb211c80319c").is_empty());
    assert!(!spans.iter().any(|span| span.name.contains("/metrics") || span.name.contains("/health")));
    let resource = &collector.received.lock().unwrap().resource;
    assert_eq!(resource["service.name"], "models");
}

#[test]
fn a_call_over_grpc_is_traced_too() {
    let collector = Collector::start();
    let server = Server::start_with(&["--otlp-endpoint", &collector.url]);
    server.furnish();
    calls(&server, async |channel| {
        let mut request = tonic::Request::new(founding("1", &[1.0]));
        let parent = "00-3af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        Client::new(channel).model_infer(request).await.unwrap();
    });
    server.terminate();
    let spans = collector.spans();
    let mut of_call: Vec<&Span> =
        spans.iter().filter(|span| hex(&span.trace_id) == "3af7651916cd43dd8448eb211c80319c").collect();
    of_call.sort_by_key(|span| span.kind != SpanKind::Server as i32);
    assert_eq!(of_call.len(), 6, "{of_call:?}");
    assert_eq!(attributes(&of_call[0].attributes)["wattle.deployment"], "founding");
    assert!(of_call[1..].iter().all(|phase| phase.parent_span_id == of_call[0].span_id));
}

#[test]
fn a_collector_that_is_away_or_asleep_disturbs_nobody() {
    let asleep = TcpListener::bind("127.0.0.1:0").unwrap();
    let asleep_url = format!("http://{}", asleep.local_addr().unwrap());
    for endpoint in [nobody(), asleep_url] {
        let server = Server::start_with(&["--otlp-endpoint", &endpoint]);
        server.import_founding();
        server.wattle(&["deploy", "founding"]);
        for _ in 0..20 {
            assert_eq!(post(&format!("{}/predict", server.url), &json!({"x": [1.0]})).status, 200);
        }
        server.terminate();
    }
}

#[test]
fn without_a_collector_nothing_is_there_to_trace() {
    let sends =
        |server: &Server| process::threads(server.id()).iter().any(|thread| thread.starts_with("OpenTelemetry"));
    assert!(!sends(&Server::start()));
    assert!(sends(&Server::start_with(&["--otlp-endpoint", &nobody()])));
}
