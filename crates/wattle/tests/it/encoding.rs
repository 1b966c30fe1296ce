//! Bodies that are compressed on their way.

use std::io::{Read, Write};

use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::{
    raw::{self, Connection},
    support::{Server, example},
};

const CODINGS: [&str; 3] = ["gzip", "deflate", "zstd"];

fn compress(coding: &str, plain: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(plain, 3).unwrap(),
        other => panic!("{other}"),
    }
}

fn decompress(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => GzDecoder::new(coded).read_to_end(&mut plain).unwrap(),
        "deflate" => ZlibDecoder::new(coded).read_to_end(&mut plain).unwrap(),
        "zstd" => zstd::Decoder::new(coded).unwrap().read_to_end(&mut plain).unwrap(),
        other => panic!("{other}"),
    };
    plain
}

/// Calls over a real client, which does not decode by itself: status, headers and the bytes of the answer.
fn post(url: &str, headers: &[(&'static str, &'static str)], body: Vec<u8>) -> (u16, HeaderMap, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let request = headers.iter().fold(client.post(url), |request, (name, value)| request.header(*name, *value));
        let response = request.body(body).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.bytes().await.unwrap().to_vec())
    })
}

#[test]
fn calls_and_answers_are_compressed_as_their_headers_say() {
    let server = Server::start_furnished();
    let url = format!("{}/models/founding/predict", server.url);
    let call = json!({ "x": vec![1.0; 2000] }).to_string().into_bytes();
    let plain = post(&url, &[], call.clone()).2;
    assert!(plain.len() > 10_000);
    for coding in CODINGS {
        let coded = compress(coding, &call);
        assert!(coded.len() < 1000);
        let (status, headers, answer) =
            post(&url, &[("content-encoding", coding), ("accept-encoding", coding)], coded.clone());
        assert_eq!((status, headers["content-encoding"].to_str().unwrap()), (200, coding));
        assert_eq!(headers["vary"], "accept-encoding");
        assert!(answer.len() < plain.len() / 10);
        assert_eq!(decompress(coding, &answer), plain, "{coding}");
        // A compressed call has a plain answer if none other is asked for, and so has a small one.
        let (_, headers, answer) = post(&url, &[("content-encoding", coding)], coded);
        assert_eq!((headers.get("content-encoding"), answer), (None, plain.clone()));
        let (_, headers, answer) = post(&url, &[("accept-encoding", coding)], br#"{"x": [1.0]}"#.to_vec());
        assert_eq!((headers.get("content-encoding"), answer.as_slice()), (None, &br#"{"y_pred":[[3.0]]}"#[..]));
        let infer = format!("{}/v2/models/founding/infer", server.url);
        let tensor = json!({ "name": "x", "datatype": "FP64", "shape": [2, 1], "data": [1.0, 2.0] });
        let tensors = compress(coding, json!({ "inputs": [tensor] }).to_string().as_bytes());
        let answer: Value = serde_json::from_slice(&post(&infer, &[("content-encoding", coding)], tensors).2).unwrap();
        assert_eq!(answer["outputs"][0]["data"], json!([3.0, 5.0]));
    }
}

#[test]
fn uploads_may_be_compressed() {
    let server = Server::start();
    let table = std::fs::read(example("penguins.csv")).unwrap();
    for coding in CODINGS {
        let mut connection = Connection::open(&server.url).unwrap();
        let path = format!("/api/v1/datasets/{coding}");
        let answer = connection.call("PUT", &path, &[("Content-Encoding", coding)], &compress(coding, &table)).unwrap();
        assert_eq!((answer.status, &answer.json()["rows"]), (201, &json!(344)), "{coding}: {}", answer.text);
    }
}

#[test]
fn a_bomb_is_refused_when_it_has_grown_too_large() {
    let server = Server::start_with(&["--max-body-bytes", "1000000", "--max-upload-bytes", "1000000"]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let bomb = vec![b' '; 100 << 20];
    for coding in CODINGS {
        let bomb = compress(coding, &bomb);
        assert!(bomb.len() < 200_000);
        for (method, path) in [("POST", "/predict"), ("POST", "/api/v1/deployments"), ("PUT", "/api/v1/datasets/bomb")]
        {
            let headers = [("Content-Encoding", coding), ("Content-Type", "application/json")];
            let answer = raw::call(&server.url, method, path, &headers, &bomb);
            assert_eq!(answer.status, 413, "{coding} {path}: {}", answer.text);
        }
    }
    let peak = crate::process::peak_memory(server.id()).unwrap();
    assert!(peak < 400 << 20, "the server took {peak} bytes");
}

#[test]
fn what_is_not_as_its_coding_says_is_told() {
    let server = Server::start_furnished();
    let path = "/models/founding/predict";
    let call = br#"{"x": [1.0]}"#;
    for (coding, words) in [
        ("gzip", "not the gzip"),
        ("zstd", "not the zstd"),
        ("deflate", "not the deflate"),
        ("br", "zstd, gzip or deflate"),
    ] {
        let answer = raw::call(&server.url, "POST", path, &[("Content-Encoding", coding)], call);
        assert_eq!(answer.status, if coding == "br" { 415 } else { 400 }, "{}", answer.text);
        assert!(answer.json()["error"].as_str().unwrap().contains(words), "{}", answer.text);
    }
    let refused = raw::call(&server.url, "POST", path, &[("Content-Encoding", "br")], call);
    assert_eq!(refused.header("accept-encoding"), "zstd, gzip, deflate");
    let half = compress("gzip", call);
    let answer = raw::call(&server.url, "POST", path, &[("Content-Encoding", "gzip")], &half[..half.len() - 5]);
    assert_eq!(answer.status, 400, "{}", answer.text);
}
