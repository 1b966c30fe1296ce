//! What a caller says of a call in its headers.

use std::time::{Duration, Instant};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, request::Parts},
};
use wattle_serve::{Context, Priority};

use crate::{ApiError, Result};

/// Who calls: a name of 1 to 64 letters, digits, `-`, `_` and `.`.
const TENANT: HeaderName = HeaderName::from_static("x-wattle-tenant");
/// `interactive` (the default) or `batch`.
const PRIORITY: HeaderName = HeaderName::from_static("x-wattle-priority");
/// How long the caller waits for its answer, in milliseconds.
const TIMEOUT_MS: HeaderName = HeaderName::from_static("x-wattle-timeout-ms");
/// Calls with the same key meet the same revision of a deployment: a user's or a session's id.
const KEY: HeaderName = HeaderName::from_static("x-wattle-key");

const MAX_TENANT_LENGTH: usize = 64;
const MAX_KEY_LENGTH: usize = 256;
/// The longest time that a caller may allow itself, a day.
const MAX_TIMEOUT_MS: u64 = 86_400_000;

/// The call's context, out of its headers.
pub(super) struct FromHeaders(pub(super) Context);

impl<S: Send + Sync> FromRequestParts<S> for FromHeaders {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        context(&parts.headers).map(FromHeaders)
    }
}

/// The context that headers tell, or gRPC's metadata, which are headers too.
pub(crate) fn context(headers: &HeaderMap) -> Result<Context> {
    let header = |name: &HeaderName| match headers.get(name) {
        None => Ok(None),
        Some(value) => match value.to_str() {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(ApiError::invalid(format!("the header {name} is no plain text"))),
        },
    };
    let tenant = header(&TENANT)?.map(tenant).transpose()?;
    let priority = header(&PRIORITY)?.map_or(Ok(Priority::default()), priority)?;
    let deadline = header(&TIMEOUT_MS)?.map(deadline).transpose()?;
    let key = header(&KEY)?.map(key).transpose()?;
    Ok(Context { tenant, priority, deadline, key, copy: false })
}

fn tenant(text: &str) -> Result<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > MAX_TENANT_LENGTH || !text.bytes().all(known) {
        return Err(ApiError::invalid(format!(
            "the header {TENANT} is no name: use 1 to {MAX_TENANT_LENGTH} letters, digits, - _ and ."
        )));
    }
    Ok(text.to_owned())
}

fn key(text: &str) -> Result<String> {
    if text.is_empty() || text.len() > MAX_KEY_LENGTH {
        return Err(ApiError::invalid(format!("the header {KEY} must have 1 to {MAX_KEY_LENGTH} characters")));
    }
    Ok(text.to_owned())
}

fn priority(text: &str) -> Result<Priority> {
    match text {
        "interactive" => Ok(Priority::Interactive),
        "batch" => Ok(Priority::Batch),
        _ => Err(ApiError::invalid(format!("the header {PRIORITY} must be interactive or batch"))),
    }
}

fn deadline(text: &str) -> Result<Instant> {
    let ms = text.parse().ok().filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms));
    match ms {
        Some(ms) => Ok(Instant::now() + Duration::from_millis(ms)),
        None => {
            let message = format!("the header {TIMEOUT_MS} must be a whole number from 1 to {MAX_TIMEOUT_MS}");
            Err(ApiError::invalid(message))
        }
    }
}
