//! Codings of bodies: gzip, deflate and zstd come off a request's body and onto an answer's.

use std::{io, io::Write};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    BoxError,
    body::{Body, HttpBody, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::off_the_runtime;
use crate::{ApiError, Code, Result};

/// What fits into one packet arrives no sooner for being smaller, and costs the work of both sides.
const LEAST_BYTES: u64 = 1400;
/// A decoded body is handed on in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;
/// The logarithm of the largest window of zstd, 8 MiB: what RFC 9659 has receivers of HTTP bodies allow.
const LARGEST_WINDOW_LOG: u32 = 23;
/// The quickest level of zstd. An answer is sent once, so that the work must pay for itself then.
const ZSTD_LEVEL: i32 = 1;
/// The header of an answer in which binary tensors follow JSON.
const BINARY_TENSORS: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A content coding (RFC 9110, 8.4.1).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Coding {
    Zstd,
    Gzip,
    /// Deflate in zlib's form, as the RFC has it.
    Deflate,
}

impl Coding {
    /// All, the cheapest first.
    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Gzip, Coding::Deflate];

    fn name(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    fn named(name: &str) -> Option<Coding> {
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        Coding::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name()))
    }
}

/// Takes the coding off a request's body, so that every handler reads, and counts, what was meant.
///
/// # Errors
/// The answer to a coding that is not known.
pub(super) fn decode(request: Request) -> Result<Request, Box<Response>> {
    if !request.headers().contains_key(header::CONTENT_ENCODING) {
        return Ok(request);
    }
    let coding = match coding_of(request.headers()) {
        Ok(Some(coding)) => coding,
        Ok(None) => return Ok(request),
        Err(error) => {
            let known = [(header::ACCEPT_ENCODING, HeaderValue::from_static("zstd, gzip, deflate"))];
            return Err(Box::new((known, error).into_response()));
        }
    };
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(header::CONTENT_ENCODING);
    // It is the length of what came.
    parts.headers.remove(header::CONTENT_LENGTH);
    let coded = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let body = match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(coded);
            decoder.multiple_members(true);
            pieces(decoder, coding)
        }
        Coding::Deflate => pieces(ZlibDecoder::new(coded), coding),
        Coding::Zstd => {
            let mut decoder = ZstdDecoder::with_params(coded, &[DParameter::window_log_max(LARGEST_WINDOW_LOG)]);
            decoder.multiple_members(true);
            pieces(decoder, coding)
        }
    };
    Ok(Request::from_parts(parts, body))
}

/// The coding of a request's body; none when it has the identity's.
fn coding_of(headers: &HeaderMap) -> Result<Option<Coding>> {
    let named = headers.get_all(header::CONTENT_ENCODING).iter();
    let named: Vec<&str> = named
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"))
        .collect();
    let known = match named.as_slice() {
        [] => return Ok(None),
        [name] => Coding::named(name),
        _ => None,
    };
    known.map(Some).ok_or_else(|| {
        let shown: String = named.join(", ").chars().take(50).collect();
        let advice = "send it as zstd, gzip or deflate, or as it is";
        ApiError::new(Code::Unsupported, format!("the body's coding {shown} is not known here: {advice}"))
    })
}

fn pieces(decoder: impl AsyncRead + Send + 'static, coding: Coding) -> Body {
    let pieces = ReaderStream::with_capacity(decoder, PIECE_BYTES).then(move |piece| async move {
        // A few bytes may decode to many, and others want the thread too.
        tokio::task::coop::consume_budget().await;
        piece.map_err(|error| -> BoxError {
            match error.get_ref().is_some_and(|source| source.is::<axum::Error>()) {
                // The body itself broke off.
                true => error.into(),
                false => {
                    let name = coding.name();
                    ApiError::invalid(format!("the body is not the {name} that its Content-Encoding says")).into()
                }
            }
        })
    });
    Body::from_stream(pieces)
}

/// The coding that a request wishes for its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wish(Option<Coding>);

impl Wish {
    /// None at all.
    pub(super) const NOTHING: Wish = Wish(None);

    /// What is wished most of what is known here; of equals the cheapest.
    pub(super) fn of(request: &Request) -> Wish {
        if request.method() == Method::HEAD || !request.headers().contains_key(header::ACCEPT_ENCODING) {
            return Wish::NOTHING;
        }
        let accepted = request.headers().get_all(header::ACCEPT_ENCODING).iter();
        let accepted = accepted.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        let mut best = (0.0, None);
        for wish in accepted {
            let mut parts = wish.split(';').map(str::trim);
            let Some(coding) = parts.next().and_then(Coding::named) else { continue };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let weight: f32 = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            let cheaper = best.1.is_none_or(|best| (coding as u8) < (best as u8));
            if weight > best.0 || (weight == best.0 && weight > 0.0 && cheaper) {
                best = (weight, Some(coding));
            }
        }
        Wish(best.1)
    }
}

/// Puts the wished coding onto an answer, if it is large enough to be worth it.
///
/// Only answers that are complete are encoded: what is sent as it comes about, as server-sent events are, would wait for
/// more in the encoder.
pub(super) async fn encode(response: Response, wish: Wish) -> Response {
    match wish.0 {
        Some(coding) if is_worth_it(&response) => {
            Box::pin(encode_with(coding, response)).await.unwrap_or_else(IntoResponse::into_response)
        }
        _ => response,
    }
}

async fn encode_with(coding: Coding, response: Response) -> Result<Response> {
    let (mut parts, body) = response.into_parts();
    let plain = to_bytes(body, usize::MAX).await.map_err(ApiError::internal)?;
    let bytes = plain.clone();
    let coded = off_the_runtime(plain.len(), move || compress(coding, &bytes).map_err(ApiError::internal)).await?;
    parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if coded.len() >= plain.len() {
        return Ok(Response::from_parts(parts, Body::from(plain)));
    }
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(coded.len()));
    Ok(Response::from_parts(parts, Body::from(coded)))
}

fn compress(coding: Coding, plain: &[u8]) -> io::Result<Vec<u8>> {
    let coded = Vec::with_capacity(plain.len() / 2);
    match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(coded, Compression::fast());
            encoder.write_all(plain)?;
            encoder.finish()
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(coded, Compression::fast());
            encoder.write_all(plain)?;
            encoder.finish()
        }
        Coding::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL),
    }
}

fn is_worth_it(response: &Response) -> bool {
    let headers = response.headers();
    response.body().size_hint().exact().is_some_and(|bytes| bytes >= LEAST_BYTES)
        && response.status() != StatusCode::PARTIAL_CONTENT
        && !headers.contains_key(header::CONTENT_ENCODING)
        && is_compressible(headers)
}

/// Text, and tensors for a client that asked; files such as models are hardly smaller for it.
fn is_compressible(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/octet-stream" => headers.contains_key(BINARY_TENSORS),
        "application/json" | "application/javascript" | "application/xml" | "image/svg+xml" => true,
        essence => essence.ends_with("+json") || (essence.starts_with("text/") && essence != "text/event-stream"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wish(accepted: &str) -> Option<&'static str> {
        let request = Request::builder().header("accept-encoding", accepted).body(Body::empty()).unwrap();
        Wish::of(&request).0.map(Coding::name)
    }

    #[test]
    fn of_what_is_accepted_the_most_wished_is_taken_and_of_equals_the_cheapest() {
        assert_eq!(wish("gzip, deflate"), Some("gzip"));
        assert_eq!(wish("deflate"), Some("deflate"));
        assert_eq!(wish("gzip, deflate, br, zstd"), Some("zstd"));
        assert_eq!(wish("gzip;q=1.0, zstd;q=0.5"), Some("gzip"));
        assert_eq!(wish("GZIP ; Q=0.2"), Some("gzip"));
        for none in ["", "br", "identity", "*", "gzip;q=0", "zstd;q=0, br", "gzip;q=many"] {
            assert_eq!(wish(none), None, "{none}");
        }
    }

    fn request(coding: &str, body: Vec<u8>) -> Request {
        let builder = Request::builder().header("content-encoding", coding).header("content-length", body.len());
        builder.body(Body::from(body)).unwrap()
    }

    #[tokio::test]
    async fn what_is_compressed_comes_back() {
        let plain = b"[1.0, 2.0, 3.0]".repeat(10_000);
        for coding in Coding::ALL {
            let coded = compress(coding, &plain).unwrap();
            assert!(coded.len() < plain.len() / 10);
            let request = decode(request(coding.name(), coded)).unwrap();
            assert!(request.headers().is_empty());
            assert_eq!(to_bytes(request.into_body(), plain.len()).await.unwrap(), plain);
        }
    }

    #[tokio::test]
    async fn what_is_broken_is_told_apart_from_what_broke_off() {
        for coding in Coding::ALL {
            let mut coded = compress(coding, &b"[1.0, 2.0, 3.0]".repeat(10_000)).unwrap();
            let half = coded[..coded.len() / 2].to_vec();
            let middle = coded.len() / 2;
            coded[middle..].fill(0xff);
            for body in [half, coded, b"[1.0]".to_vec()] {
                let request = decode(request(coding.name(), body)).unwrap();
                let error = to_bytes(request.into_body(), 1 << 20).await.unwrap_err();
                assert!(error.to_string().contains("Content-Encoding"), "{} {error}", coding.name());
            }
        }
    }

    #[tokio::test]
    async fn a_window_larger_than_allowed_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(LARGEST_WINDOW_LOG + 2).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let request = decode(request("zstd", encoder.finish().unwrap())).unwrap();
        assert!(to_bytes(request.into_body(), 2 << 20).await.is_err());
    }

    #[test]
    fn a_coding_that_is_not_known_is_refused_with_those_that_are() {
        for coding in ["br", "gzip, gzip", "zstd, br", "compress"] {
            let refusal = decode(request(coding, Vec::new())).unwrap_err();
            assert_eq!(refusal.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
            assert_eq!(refusal.headers()["accept-encoding"], "zstd, gzip, deflate");
        }
        for none in ["identity", "", "identity, identity"] {
            assert!(decode(request(none, Vec::new())).is_ok());
        }
    }

    async fn encoded(content_type: &'static str, bytes: usize) -> Response {
        let response = ([(header::CONTENT_TYPE, content_type)], "a".repeat(bytes)).into_response();
        encode(response, Wish(Some(Coding::Gzip))).await
    }

    #[tokio::test]
    async fn only_large_texts_are_encoded() {
        let is_encoded = |response: Response| response.headers().contains_key(header::CONTENT_ENCODING);
        for text in ["application/json", "text/csv; charset=utf-8", "application/problem+json", "text/html"] {
            assert!(is_encoded(encoded(text, 2000).await), "{text}");
            assert!(!is_encoded(encoded(text, 1000).await), "{text}");
        }
        for other in ["application/octet-stream", "text/event-stream", "image/png"] {
            assert!(!is_encoded(encoded(other, 2000).await), "{other}");
        }
        let answer = encoded("application/json", 2000).await;
        assert_eq!((&answer.headers()["vary"], answer.status()), (&"accept-encoding".parse().unwrap(), StatusCode::OK));
        let tensors = [(header::CONTENT_TYPE, "application/octet-stream"), (BINARY_TENSORS, "1000")];
        let tensors = (tensors, "a".repeat(2000)).into_response();
        assert!(is_encoded(encode(tensors, Wish(Some(Coding::Deflate))).await));
    }
}
