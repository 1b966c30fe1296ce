//! The one table from codes to HTTP statuses.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{ApiError, Code, failures};

impl Code {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Conflict => StatusCode::CONFLICT,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Unsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::Timeout => StatusCode::REQUEST_TIMEOUT,
            Code::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            // The time was the caller's own to set; a server error would be ours.
            Code::Expired => StatusCode::REQUEST_TIMEOUT,
            Code::OutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        answer(&self, json!({ "error": self.message }))
    }
}

/// The answer of a call that failed, in its protocol's form.
pub(super) fn answer(error: &ApiError, body: Value) -> Response {
    failures::note(error);
    let mut response = (error.code.status(), Json(body)).into_response();
    if let Some(seconds) = error.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
