//! Errors as Anthropic tells them: `{"type": "error", "error": {"type", "message"}}`.

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::{ApiError, Code, http::error::answer};

/// A failed call in Anthropic's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Refusal(ApiError);

impl Refusal {
    /// What is wrong, as JSON, which is also the event of a call that fails midway.
    pub(super) fn json(&self) -> Value {
        let kind = match self.0.code {
            Code::InvalidArgument | Code::Conflict | Code::Unsupported => "invalid_request_error",
            Code::NotFound => "not_found_error",
            Code::TooLarge => "request_too_large",
            Code::Forbidden => "permission_error",
            Code::TooMany => "rate_limit_error",
            Code::Unavailable => "overloaded_error",
            Code::Timeout | Code::Expired => "timeout_error",
            Code::OutOfSpace | Code::Internal => "api_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": self.0.message}})
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(&self.0, self.json())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, header};

    use super::*;

    #[test]
    fn errors_have_anthropics_form() {
        let busy = ApiError { retry_after_seconds: Some(3), ..ApiError::new(Code::Unavailable, "later") };
        let busy = Refusal::from(busy);
        let told = json!({"type": "error", "error": {"type": "overloaded_error", "message": "later"}});
        assert_eq!(busy.json(), told);
        let response = busy.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
        let unknown = Refusal::from(ApiError::new(Code::NotFound, "x"));
        assert_eq!(unknown.json()["error"]["type"], "not_found_error");
    }
}
