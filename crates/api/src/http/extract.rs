//! Parts of a request, with errors in the API's own words.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::App;
use crate::{ApiError, Code, Result};

/// A JSON body. `application/json` is asked for, since a browser asks the server first before it sends that for a page
/// of another site.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json = content_type.is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(ApiError::new(Code::Unsupported, "send JSON with the header Content-Type: application/json"));
        }
        Ok(Json(app.bodies.read(request.into_body()).await?.parse()?))
    }
}

/// The parts of the path.
pub(super) struct FromPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for FromPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(value)| FromPath(value))
            .map_err(|rejection| ApiError::invalid(in_our_words(&rejection.body_text())))
    }
}

/// What a library says of a wrong request, the way our own errors are written.
pub(super) fn in_our_words(text: &str) -> String {
    let text = text.trim_start_matches("Invalid URL: ").trim_end_matches('.');
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// The query.
pub(super) struct FromQuery<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for FromQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Query::from_request_parts(parts, state).await.map(|Query(value)| FromQuery(value)).map_err(|rejection| {
            let text = rejection.body_text();
            let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            ApiError::invalid(format!("the query cannot be read: {reason}"))
        })
    }
}
