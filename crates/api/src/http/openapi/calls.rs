//! Calls in the simplest form, and MLflow's.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::operation::{Operation, named};
use crate::Code;

/// What every call may say in its headers.
pub(super) fn context(operation: Operation) -> Operation {
    let tenant = json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"});
    let priority = json!({"type": "string", "enum": ["interactive", "batch"], "default": "interactive"});
    let key = json!({"type": "string", "minLength": 1, "maxLength": 256});
    let timeout = json!({"type": "integer", "minimum": 1, "maximum": 86_400_000});
    operation
        .header("x-wattle-tenant", &tenant, "who calls")
        .header("x-wattle-priority", &priority, "who waits when not all can be computed at once")
        .header("x-wattle-key", &key, "calls with the same key meet the same revision of a deployment")
        .header("x-wattle-timeout-ms", &timeout, "how long the caller waits; what is late is not computed")
}

/// What every answer to a call says of its cost.
pub(super) const COST: [(&str, &str); 7] = [
    ("x-wattle-model", "the version that answered, as `line:3`"),
    ("x-wattle-cpu-seconds", "processor time"),
    ("x-wattle-energy-joules", "energy, the likely value"),
    ("x-wattle-energy-joules-low", "the low end of the estimate"),
    ("x-wattle-energy-joules-high", "the high end of the estimate"),
    ("x-wattle-energy-label", "`measured` or `estimated`"),
    ("x-wattle-energy-source", "what says so"),
];

/// Why calls fail.
pub(super) const FAILURES: [(Code, &str); 5] = [
    (Code::InvalidArgument, "The inputs are not what the model takes; the message says what to send."),
    (Code::NotFound, "There is no such deployment."),
    (Code::TooLarge, "The body, or its answer, would be larger than the server's limit."),
    (Code::TooMany, "The caller has as many calls waiting as it may."),
    (Code::Unavailable, "Too many calls are waiting, the server shuts down, or the model cannot be loaded."),
];

pub(super) fn operations() -> Vec<Operation> {
    vec![
        predict("/predict", "Call the default or only deployment"),
        predict("/models/{deployment}/predict", "Call a deployment"),
        invocations("/invocations", "Score with the default or only deployment"),
        invocations("/models/{deployment}/invocations", "Score with a deployment"),
        ping("/ping"),
        ping("/health"),
        Operation::new("get", "/version", "mlflow", "The server's version").answers_as(
            StatusCode::OK,
            "The version.",
            "text/plain",
            &json!({"type": "string"}),
        ),
    ]
}

fn predict(path: &str, summary: &'static str) -> Operation {
    let any = json!({"description": "columns by name, rows by column name, or one row", "type": ["object", "array"]});
    let outputs = json!({
        "type": "object",
        "description": "every output by its name, nested as its shape",
        "additionalProperties": {},
    });
    context(Operation::new("post", path, "calls", summary))
        .says(
            "The body gives columns by name (`{\"x\": [1.0, 2.0]}`), rows by column name (`[{\"x\": 1.0}]`, or under the key `rows`), one row (`{\"x\": 1.0}`), or, \
             under the key `x` or bare, rows without names in the order of the signature. `null` is a missing value. Any content type is taken.",
        )
        .takes(&any, &json!({"x": [1.0, 2.0]}))
        .answers(StatusCode::OK, "The outputs.", &outputs)
        .with_headers(&COST)
        .fails(&FAILURES)
}

fn invocations(path: &str, summary: &'static str) -> Operation {
    let text = json!({"type": "string"});
    let binary = json!({"type": "string", "contentMediaType": "application/vnd.apache.parquet"});
    context(Operation::new("post", path, "mlflow", summary))
        .says(
            "Columns are found by name, and others left out. Several outputs are records for a table, and arrays under their names for `instances` and `inputs`.",
        )
        .takes_any(
            true,
            &[
                ("application/json", named("Invocation"), json!({"dataframe_split": {"columns": ["x"], "data": [[1.0]]}})),
                ("text/csv", text, json!("x\n1.0\n")),
                ("application/vnd.apache.parquet", binary.clone(), Value::Null),
                ("application/x-parquet", binary, Value::Null),
            ],
        )
        .answers(StatusCode::OK, "The predictions.", &named("Predictions"))
        .with_headers(&COST)
        .fails(&FAILURES)
        .fails(&[(Code::Unsupported, "The content type is none of these.")])
}

fn ping(path: &str) -> Operation {
    let line = json!({"type": "string", "const": "\n"});
    Operation::new("get", path, "mlflow", "Whether calls are taken")
        .answers_as(StatusCode::OK, "They are.", "text/plain", &line)
        .answers_as(StatusCode::SERVICE_UNAVAILABLE, "The server shuts down.", "text/plain", &line)
}
