//! The Open Inference Protocol over REST.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    calls::{COST, FAILURES, context},
    operation::{Operation, list_of, named},
};
use crate::Code;

const TAG: &str = "open inference protocol";

const NOT_FOUND: [(Code, &str); 1] = [(Code::NotFound, "There is no such deployment, or it serves another version.")];

pub(super) fn operations() -> Vec<Operation> {
    let ready = json!({"type": "object", "properties": {"ready": {"type": "boolean"}}, "required": ["ready"]});
    let live = json!({"type": "object", "properties": {"live": {"type": "boolean"}}, "required": ["live"]});
    let mut all = vec![
        Operation::new("get", "/v2", TAG, "The server's name, version and extensions").answers(
            StatusCode::OK,
            "The server.",
            &named("V2Server"),
        ),
        Operation::new("get", "/v2/health/live", TAG, "Whether the server runs").answers(
            StatusCode::OK,
            "It does.",
            &live,
        ),
        Operation::new("get", "/v2/health/ready", TAG, "Whether calls are taken")
            .answers(StatusCode::OK, "They are.", &ready)
            .answers(StatusCode::SERVICE_UNAVAILABLE, "The server shuts down.", &ready),
    ];
    for path in ["/v2/models/{deployment}", "/v2/models/{deployment}/versions/{version}"] {
        let under = |rest: &str| format!("{path}{rest}");
        all.push(
            Operation::new("get", path, TAG, "A model's inputs and outputs")
                .answers(StatusCode::OK, "The metadata.", &named("V2Model"))
                .fails(&NOT_FOUND),
        );
        all.push(
            Operation::new("get", &under("/ready"), TAG, "Whether a model can be called")
                .says("A model that is not in memory is ready: its first call loads it.")
                .answers(StatusCode::OK, "It can.", &named("V2Ready"))
                .fails(&NOT_FOUND)
                .fails(&[(Code::Unavailable, "The server shuts down.")]),
        );
        all.push(infer(&under("/infer")));
        all.push(
            Operation::new("get", &under("/config"), TAG, "A model's configuration, as Triton tells it")
                .answers(StatusCode::OK, "The configuration.", &named("V2Config"))
                .fails(&NOT_FOUND),
        );
        all.push(
            Operation::new("get", &under("/stats"), TAG, "A model's statistics, as Triton tells them")
                .answers(StatusCode::OK, "The statistics.", &named("V2Statistics"))
                .fails(&NOT_FOUND),
        );
    }
    all.push(Operation::new("get", "/v2/models/stats", TAG, "The statistics of all models").answers(
        StatusCode::OK,
        "The statistics.",
        &named("V2Statistics"),
    ));
    all.extend(repository());
    all
}

fn repository() -> Vec<Operation> {
    let one = |rest: &str, summary| {
        let path = format!("/v2/repository/models/{{deployment}}/{rest}");
        let body = json!({"type": "object", "properties": {"parameters": {"type": "object"}}});
        Operation::new("post", &path, TAG, summary).takes_any(false, &[("application/json", body, json!({}))]).fails(&[
            (Code::InvalidArgument, "The body asks for what there is not."),
            (Code::NotFound, "There is no such deployment."),
            (Code::Unavailable, "It cannot be loaded, or the server shuts down."),
        ])
    };
    let query = json!({"type": "object", "properties": {"ready": {"type": "boolean"}}});
    vec![
        Operation::new("post", "/v2/repository/index", TAG, "All models and their states")
            .takes_any(false, &[("application/json", query, json!({"ready": true}))])
            .answers(StatusCode::OK, "The models.", &list_of("V2IndexEntry"))
            .fails(&[(Code::InvalidArgument, "The body is not what is expected.")]),
        one("load", "Load a model").answers_nothing(StatusCode::OK, "It is in memory."),
        one("unload", "Unload a model")
            .answers_nothing(StatusCode::OK, "It is not in memory; its next call loads it again."),
    ]
}

fn infer(path: &str) -> Operation {
    let length = json!({"type": "integer", "minimum": 0});
    let example = json!({
        "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}],
        "outputs": [{"name": "y_pred"}],
    });
    let binary = json!({"type": "string", "contentMediaType": "application/octet-stream"});
    context(Operation::new("post", path, TAG, "Infer"))
        .says(
            "With the binary tensor extension the body is this JSON and, behind it, the tensors' little-endian bytes in their order; the header says how many \
             bytes are JSON. A header of 0 means that the body is the only input as it is.",
        )
        .header("inference-header-content-length", &length, "how many bytes of the body are JSON; all, when absent")
        .takes_any(
            true,
            &[
                ("application/json", named("V2Request"), example),
                ("application/octet-stream", binary.clone(), Value::Null),
            ],
        )
        .answers(StatusCode::OK, "The outputs; in binary, where the request asked for that.", &named("V2Response"))
        .or_as(StatusCode::OK, "application/octet-stream", &binary)
        .with_headers(&COST)
        .fails(&FAILURES)
}
