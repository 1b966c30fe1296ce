//! Errors as OpenAI tells them: `{"error": {"message", "type", "param", "code"}}`.

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::{ApiError, Code, http::error::answer};

/// A failed call in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Refusal {
    error: ApiError,
    /// The field that is wrong.
    param: Option<&'static str>,
}

impl Refusal {
    /// The deployment that `model` names is wrong.
    pub(super) fn of_model(error: ApiError) -> Refusal {
        Refusal { error, param: Some("model") }
    }

    /// What is wrong, as JSON.
    pub(super) fn json(&self) -> Value {
        let (kind, code) = match self.error.code {
            Code::InvalidArgument | Code::Conflict | Code::Unsupported => ("invalid_request_error", None),
            Code::NotFound => ("invalid_request_error", self.param.map(|_| "model_not_found")),
            Code::TooLarge => ("invalid_request_error", Some("request_too_large")),
            Code::Forbidden => ("permission_error", None),
            Code::Timeout | Code::Expired => ("timeout_error", Some("timeout")),
            Code::TooMany => ("rate_limit_error", Some("rate_limit_exceeded")),
            Code::Unavailable => ("service_unavailable_error", Some("service_unavailable")),
            Code::OutOfSpace | Code::Internal => ("server_error", None),
        };
        json!({"error": {"message": self.error.message, "type": kind, "param": self.param, "code": code}})
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal { error, param: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(&self.error, self.json())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{StatusCode, header};

    use super::*;

    #[test]
    fn errors_have_openais_form() {
        let unknown = Refusal::of_model(ApiError::new(Code::NotFound, "there is no deployment x"));
        let told = json!({"error": {
            "message": "there is no deployment x", "type": "invalid_request_error", "param": "model", "code": "model_not_found"
        }});
        assert_eq!(unknown.json(), told);
        assert_eq!(unknown.into_response().status(), StatusCode::NOT_FOUND);
        let busy = ApiError { retry_after_seconds: Some(3), ..ApiError::new(Code::TooMany, "later") };
        let response = Refusal::from(busy).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
