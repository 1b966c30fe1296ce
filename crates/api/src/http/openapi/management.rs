//! What has names: data sets, jobs, models, deployments; and the server.

use axum::http::StatusCode;
use serde_json::{Value, json};
use wattle_train::spec::TrainingSpec;

use super::operation::{Operation, list_of, named};
use crate::Code;

const FULL: (Code, &str) = (Code::OutOfSpace, "The disk is full.");
const TOO_LARGE: (Code, &str) = (Code::TooLarge, "The file is larger than the server's limit for uploads.");
const INVALID: (Code, &str) =
    (Code::InvalidArgument, "Something in the request is wrong; the message says what to send.");
const NOT_READY: (Code, &str) = (Code::Unavailable, "The revision cannot be loaded, and the traffic stays as it was.");
const NOT_JSON: (Code, &str) = (Code::Unsupported, "The content type is not `application/json`.");

pub(super) fn operations() -> Vec<Operation> {
    [deployments(), models(), jobs(), datasets(), server()].into_iter().flatten().collect()
}

fn deployments() -> Vec<Operation> {
    const TAG: &str = "deployments";
    let tail = json!({"type": "integer", "minimum": 0});
    let lines = json!({
        "type": "object",
        "description": "an event named `line`, whose data are a line as JSON",
        "properties": {"event": {"const": "line"}, "data": {"type": "string"}},
    });
    let gone = [(Code::NotFound, "There is no such deployment.")];
    let one = |method, rest: &str, summary| {
        Operation::new(method, &format!("/api/v1/deployments/{{name}}{rest}"), TAG, summary)
    };
    vec![
        Operation::new("get", "/api/v1/deployments", TAG, "All deployments and how they fare").answers(
            StatusCode::OK,
            "The deployments.",
            &list_of("DeploymentStatus"),
        ),
        Operation::new("post", "/api/v1/deployments", TAG, "Deploy a version")
            .says("It is loaded first, and nothing changes if it cannot be. A name that is deployed already answers with the new version from then on; calls under way end on the old one. With `canary` it gets a part of the calls, with `shadow` copies of them.")
            .takes(&named("DeploymentRequest"), &json!({"model": "line@champion", "name": "forecast", "default": true}))
            .answers(StatusCode::CREATED, "The deployment.", &named("Deployment"))
            .fails(&[INVALID, (Code::NotFound, "There is no such model or version."), NOT_JSON, FULL])
            .fails(&[(Code::Conflict, "There is nothing to try it beside."), NOT_READY]),
        one("get", "", "One deployment and how it fares")
            .answers(StatusCode::OK, "The deployment.", &named("DeploymentStatus"))
            .fails(&gone),
        one("delete", "", "Take a deployment away")
            .says("The model stays.")
            .answers_nothing(StatusCode::NO_CONTENT, "It is gone.")
            .fails(&gone),
        one("post", "/promote", "Give the canary, or without one the shadow, all calls")
            .answers(StatusCode::OK, "The deployment.", &named("Deployment"))
            .fails(&gone)
            .fails(&[(Code::Conflict, "Nothing is tried."), NOT_READY]),
        one("post", "/rollback", "Go back by one step")
            .says("Ends the canary, or without one the shadow; without either, the revision answers that did before.")
            .answers(StatusCode::OK, "The deployment.", &named("Deployment"))
            .fails(&gone)
            .fails(&[(Code::Conflict, "There is nothing to go back to."), NOT_READY]),
        one("get", "/history", "What happened to a deployment's traffic")
            .says("Also of a deployment that was removed.")
            .answers(StatusCode::OK, "All revisions, and the changes, the oldest first.", &named("DeploymentHistory"))
            .fails(&gone),
        one("get", "/logs", "What was said of a deployment")
            .says("By the server, and by the process or the containers that serve it. Also of one that could not be deployed.")
            .query("tail", &tail, "the last so many lines; 100 when absent")
            .answers(StatusCode::OK, "The lines, the oldest first.", &list_of("LogLine"))
            .fails(&gone),
        one("get", "/logs/events", "Follow what is said of a deployment")
            .says("Server-sent events, each a line, until the server ends; the last lines come first.")
            .query("tail", &tail, "the last so many lines; 100 when absent")
            .answers_as(StatusCode::OK, "The lines.", "text/event-stream", &lines)
            .fails(&gone),
        one("post", "/load", "Load a deployment's model")
            .says("The answer comes when it is in memory.")
            .answers(StatusCode::OK, "The deployment.", &named("DeploymentStatus"))
            .fails(&gone)
            .fails(&[(Code::Unavailable, "It cannot be loaded, or there is no room for it.")]),
        one("post", "/unload", "Unload a deployment's model")
            .says("The next call loads it again.")
            .answers(StatusCode::OK, "The deployment.", &named("DeploymentStatus"))
            .fails(&gone)
            .fails(&[(Code::Unavailable, "The server shuts down.")]),
    ]
}

fn models() -> Vec<Operation> {
    const TAG: &str = "models";
    let model = "/api/v1/models/{name}";
    let gone = [(Code::NotFound, "There is no such model, version or alias.")];
    let used = [(Code::Conflict, "It is deployed.")];
    let file = json!({"type": "string", "contentMediaType": "application/octet-stream"});
    let one = |method, rest: &str, summary| Operation::new(method, &format!("{model}{rest}"), TAG, summary);
    vec![
        Operation::new("get", "/api/v1/models", TAG, "All models").answers(
            StatusCode::OK,
            "The models.",
            &list_of("Model"),
        ),
        one("get", "", "One model").answers(StatusCode::OK, "The model.", &named("Model")).fails(&gone),
        one("delete", "", "Remove a model with all its versions")
            .answers_nothing(StatusCode::NO_CONTENT, "It is gone.")
            .fails(&gone)
            .fails(&used),
        one("post", "/versions", "Import the next version")
            .says(
                "An ONNX file, or a linear model as two NumPy files. The file is first loaded in a process of its own.",
            )
            .takes_any(
                true,
                &[
                    ("application/octet-stream", file.clone(), Value::Null),
                    ("multipart/form-data", named("ModelFiles"), Value::Null),
                ],
            )
            .answers(StatusCode::CREATED, "The version.", &named("ModelVersion"))
            .fails(&[INVALID, TOO_LARGE, (Code::Unsupported, "The content type is none of these."), FULL]),
        one("get", "/versions/{version}", "A version's manifest")
            .answers(StatusCode::OK, "The manifest.", &named("ModelVersion"))
            .fails(&gone),
        one("delete", "/versions/{version}", "Remove a version")
            .answers_nothing(StatusCode::NO_CONTENT, "It is gone; its number is never used again.")
            .fails(&gone)
            .fails(&used),
        one("get", "/versions/{version}/model.onnx", "A version's file")
            .answers_as(StatusCode::OK, "The file.", "application/octet-stream", &file)
            .with_headers(&[("etag", "the file's digest")])
            .fails(&gone),
        one("get", "/aliases", "Where aliases pointed, the oldest first")
            .answers(StatusCode::OK, "The changes.", &list_of("AliasChange"))
            .fails(&gone),
        one("put", "/aliases/{alias}", "Let an alias name a version")
            .takes(&named("AliasTarget"), &json!({"version": 1}))
            .answers(StatusCode::OK, "The model.", &named("Model"))
            .fails(&gone)
            .fails(&[INVALID, NOT_JSON, FULL]),
        one("delete", "/aliases/{alias}", "Remove an alias")
            .answers_nothing(StatusCode::NO_CONTENT, "It is gone.")
            .fails(&gone),
    ]
}

fn jobs() -> Vec<Operation> {
    const TAG: &str = "training jobs";
    let gone = [(Code::NotFound, "There is no such job.")];
    let events = json!({"type": "string", "description": "events named `job`, each with the job as JSON"});
    let keys: Value =
        TrainingSpec::KEYS.iter().map(|key| ((*key).to_owned(), json!({}))).collect::<serde_json::Map<_, _>>().into();
    let spec = json!({
        "type": "object",
        "description": "the keys of a training job, as in docs/train.md",
        "properties": keys,
        "required": ["algorithm", "data", "target"],
        "additionalProperties": false,
    });
    let example = json!({"algorithm": "linear-regression", "data": "line", "target": "y", "name": "line"});
    let one = |method, rest: &str, summary| {
        Operation::new(method, &format!("/api/v1/training-jobs/{{id}}{rest}"), TAG, summary)
    };
    vec![
        Operation::new("get", "/api/v1/training-jobs", TAG, "The latest jobs, the newest first").answers(
            StatusCode::OK,
            "The jobs.",
            &list_of("Job"),
        ),
        Operation::new("post", "/api/v1/training-jobs", TAG, "Train a model")
            .takes(&spec, &example)
            .answers(StatusCode::CREATED, "The job, queued.", &named("Job"))
            .fails(&[
                INVALID,
                (Code::NotFound, "There is no such data set."),
                NOT_JSON,
                (Code::TooMany, "Too many jobs are waiting already."),
                (Code::Unavailable, "The server shuts down."),
                FULL,
            ]),
        one("get", "", "One job").answers(StatusCode::OK, "The job.", &named("Job")).fails(&gone),
        one("delete", "", "Stop a job")
            .answers(StatusCode::OK, "The job, cancelled.", &named("Job"))
            .fails(&gone)
            .fails(&[(Code::Conflict, "It has ended already.")]),
        one("get", "/events", "Watch a job")
            .says("The job now and at each change, as server-sent events; the stream ends with the job.")
            .answers_as(StatusCode::OK, "The events.", "text/event-stream", &events)
            .fails(&gone),
    ]
}

fn datasets() -> Vec<Operation> {
    const TAG: &str = "data sets";
    let path = "/api/v1/datasets/{name}";
    let gone = [(Code::NotFound, "There is no such data set.")];
    let file = json!({"type": "string", "contentMediaType": "application/octet-stream"});
    let text = json!({"type": "string"});
    let conflict = json!({"type": "string", "enum": ["refuse", "replace", "rename"], "default": "refuse"});
    vec![
        Operation::new("get", "/api/v1/datasets", TAG, "All data sets").answers(
            StatusCode::OK,
            "The data sets.",
            &list_of("Dataset"),
        ),
        Operation::new("put", path, TAG, "Add a data set")
            .says("The body is the file, CSV or Parquet, whatever its content type.")
            .query("source", &text, "the file's name, for people")
            .query(
                "overrides",
                &text,
                "what to read otherwise than inferred: JSON with `kinds`, `missing` and `delimiter`",
            )
            .query("conflict", &conflict, "what happens when the name has other data")
            .takes_any(
                true,
                &[
                    ("application/octet-stream", file, Value::Null),
                    ("text/csv", json!({"type": "string"}), json!("x,y\n1.0,3.0\n")),
                ],
            )
            .answers(StatusCode::CREATED, "The data set.", &named("AddedDataset"))
            .fails(&[INVALID, (Code::Conflict, "The name has other data."), TOO_LARGE, FULL]),
        Operation::new("get", path, TAG, "One data set, with its columns")
            .answers(StatusCode::OK, "The data set.", &named("Dataset"))
            .fails(&gone),
        Operation::new("delete", path, TAG, "Remove a data set")
            .answers_nothing(StatusCode::NO_CONTENT, "It is gone.")
            .fails(&gone),
    ]
}

fn server() -> Vec<Operation> {
    const TAG: &str = "server";
    let by = json!({"type": "string", "enum": ["total", "deployment", "model", "day"]});
    let since = json!({"type": "string", "format": "date-time"});
    let any = json!({"type": "object"});
    let text = json!({"type": "string"});
    let part =
        |path, kind, summary| Operation::new("get", path, TAG, summary).answers_as(StatusCode::OK, "It.", kind, &text);
    vec![
        Operation::new("get", "/", TAG, "Where to go from here").answers(StatusCode::OK, "The addresses.", &any),
        Operation::new("get", "/api/v1/server", TAG, "Version, processors and the sensor of energy").answers(
            StatusCode::OK,
            "The server.",
            &named("Server"),
        ),
        Operation::new("get", "/api/v1/usage", TAG, "What was used, summed")
            .query("by", &by, "what to sum by")
            .query("since", &since, "from when")
            .answers(StatusCode::OK, "The sums.", &list_of("UsageLine"))
            .fails(&[INVALID, FULL]),
        Operation::new("post", "/api/v1/gc", TAG, "Remove the files that nothing refers to")
            .answers(StatusCode::OK, "What went.", &named("Collected"))
            .fails(&[FULL]),
        Operation::new("get", "/metrics", TAG, "Counters, histograms and gauges")
            .says("In the text format of Prometheus, or in OpenMetrics where the caller accepts that.")
            .answers_as(StatusCode::OK, "The metrics.", "text/plain", &text)
            .or_as(StatusCode::OK, "application/openmetrics-text", &text),
        Operation::new("get", "/openapi.json", TAG, "This document").answers(StatusCode::OK, "It.", &any),
        part("/docs", "text/html", "This document as a page"),
        part("/docs/page.js", "text/javascript", "The page's script"),
        part("/docs/page.css", "text/css", "The page's style"),
    ]
}
