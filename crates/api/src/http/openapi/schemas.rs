//! What bodies and answers look like.

use serde_json::{Map, Value, json};

use super::operation::{list_of, named};

/// Every schema by its name.
pub(super) fn all() -> Map<String, Value> {
    let groups = [
        names(),
        deployments(),
        rollout(),
        models(),
        training(),
        tables(),
        usage(),
        open_inference(),
        mlflow(),
        openai(),
        anthropic(),
    ];
    groups.into_iter().flatten().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn openai() -> Schemas {
    let error = object(&[
        ("message", described(of("string"), "what is wrong and what to do next")),
        ("type", of("string")),
        ("param", described(or_null("string"), "the field that is wrong")),
        ("code", described(or_null("string"), "`model_not_found`, `rate_limit_exceeded` and others")),
    ]);
    let model = object(&[
        ("id", named("Name")),
        ("object", json!({"const": "model"})),
        ("created", described(of("integer"), "when it was deployed, in seconds since 1970")),
        ("owned_by", json!({"const": "wattle"})),
        ("max_model_len", described(of("integer"), "the tokens that it was trained to see at once")),
    ]);
    vec![("OpenAiError", object(&[("error", error)])), ("OpenAiModel", model)]
}

fn anthropic() -> Schemas {
    let error = object(&[
        ("type", described(of("string"), "`invalid_request_error`, `overloaded_error` and others")),
        ("message", described(of("string"), "what is wrong and what to do next")),
    ]);
    vec![("AnthropicError", object(&[("type", json!({"const": "error"})), ("error", error)]))]
}

type Schemas = Vec<(&'static str, Value)>;

/// An object with these keys, of which those marked `?` may be absent. It may have more.
fn object(keys: &[(&str, Value)]) -> Value {
    let required: Vec<&str> = keys.iter().filter(|(key, _)| !key.ends_with('?')).map(|(key, _)| *key).collect();
    let properties: Map<String, Value> =
        keys.iter().map(|(key, schema)| (key.trim_end_matches('?').to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// The same with all keys of another schema.
fn extends(name: &str, keys: &[(&str, Value)]) -> Value {
    json!({"allOf": [named(name), object(keys)]})
}

fn of(kind: &str) -> Value {
    json!({"type": kind})
}

fn or_null(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn or_none(name: &str) -> Value {
    json!({"oneOf": [named(name), {"type": "null"}]})
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn names() -> Schemas {
    vec![
        (
            "Error",
            object(&[
                ("error", described(of("string"), "what is wrong and what to do next")),
                ("error_code?", described(of("string"), "MLflow's name of the reason, of `invocations` alone")),
                ("message?", described(of("string"), "the same as `error`, of `invocations` alone")),
            ]),
        ),
        ("Name", json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "examples": ["line"]})),
        (
            "Reference",
            json!({"type": "string", "description": "a model, a version of it, or an alias: `line`, `line:3`, `line@champion`", "examples": ["line"]}),
        ),
        ("Digest", json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})),
    ]
}

fn deployments() -> Schemas {
    let deployment = object(&[
        ("name", named("Name")),
        ("model", named("Name")),
        ("version", count()),
        ("reference", described(named("Reference"), "what was asked for")),
        ("default", described(of("boolean"), "whether calls that name no deployment go here")),
        ("created_at", time()),
        ("settings", named("Settings")),
        ("traffic", named("Traffic")),
        ("revisions", described(list_of("Revision"), "those that the traffic names, in its order")),
    ]);
    let model_status = object(&[
        ("loaded", described(of("boolean"), "whether the model is in memory; otherwise the first call loads it")),
        ("error?", described(of("string"), "why it cannot be loaded")),
        ("requests", count()),
        ("failures", count()),
        ("in_flight", count()),
        ("mean_compute_ms", or_null("number")),
        ("load_ms", or_null("number")),
        ("resident_bytes", count()),
        ("isolation", json!({"type": "string", "enum": ["thread", "process", "container"]})),
        ("limited_by?", of("string")),
        ("instances?", list_of("InstanceStatus")),
    ]);
    let instance_status = object(&[
        ("name", described(of("string"), "what it is called where it runs")),
        ("state", json!({"type": "string", "enum": ["ready", "ejected", "leaving"]})),
        ("in_flight", count()),
    ]);
    let log_line = object(&[
        ("number", described(count(), "its place among all lines of the server")),
        ("at", json!({"type": "string", "format": "date-time"})),
        ("from", described(of("string"), "who said it: the server, or what an instance is called where it runs")),
        ("text", of("string")),
    ]);
    let compared = object(&["same", "different", "failed", "dropped"].map(|key| (key, count())));
    let revision_status = extends(
        "ModelStatus",
        &[
            ("revision", count()),
            ("compared?", described(named("Compared"), "how a shadow's answers compare with those that are given")),
        ],
    );
    let mut status = extends("Deployment", &[("replicas", list_of("RevisionStatus"))]);
    if let Some(parts) = status["allOf"].as_array_mut() {
        parts.push(named("ModelStatus"));
    }
    let mut request = object(&[
        ("model", named("Reference")),
        ("name?", described(named("Name"), "the model's, when absent")),
        ("default?", described(of("boolean"), "whether calls that name no deployment go here")),
        ("canary?", described(percent(1, 99), "the share of the calls that it gets; all, when absent")),
        ("shadow?", described(of("boolean"), "whether it gets copies of the calls and never answers")),
        ("settings?", described(named("Settings"), "where they differ from those of the deployment")),
        (
            "reset_settings?",
            described(of("boolean"), "whether what the settings leave open is the server's to decide again"),
        ),
    ]);
    request["additionalProperties"] = false.into();
    vec![
        ("Deployment", deployment),
        ("DeploymentStatus", status),
        ("DeploymentRequest", request),
        ("ModelStatus", model_status),
        ("InstanceStatus", instance_status),
        ("LogLine", log_line),
        ("RevisionStatus", revision_status),
        ("Compared", compared),
    ]
}

fn rollout() -> Schemas {
    let mut settings = object(&[
        ("max_batch_size?", json!({"type": "integer", "minimum": 1})),
        ("max_queue_delay_ms?", json!({"type": "number", "minimum": 0})),
        ("context_tokens?", json!({"type": "integer", "minimum": 16})),
        ("kv_cells?", json!({"type": "integer", "minimum": 256})),
        ("max_inter_token_ms?", json!({"type": "number", "minimum": 1})),
        ("speculate?", json!({"type": "boolean"})),
        ("isolation?", json!({"type": "string", "enum": ["thread", "process", "container"]})),
        ("replicas?", json!({"type": "integer", "minimum": 1, "maximum": 64})),
        ("threads?", json!({"type": "integer", "minimum": 1})),
        ("keep_alive_seconds?", count()),
        ("pin?", of("boolean")),
        ("memory_limit_bytes?", count()),
        ("cpu_limit?", of("number")),
        ("gate_max_error_percent?", json!({"type": "number", "minimum": 0, "maximum": 100})),
        ("gate_min_calls?", json!({"type": "integer", "minimum": 1})),
    ]);
    settings["additionalProperties"] = false.into();
    let revision = object(&[
        ("revision", count()),
        ("model", named("Name")),
        ("version", count()),
        ("reference", named("Reference")),
        ("settings", named("Settings")),
        ("created_at", time()),
    ]);
    let traffic = object(&[
        ("shares", described(list_of("Share"), "the stable revision first, then its canary")),
        ("shadow?", described(count(), "the revision that gets copies")),
    ]);
    let kinds = wattle_store::Change::ALL.map(wattle_store::Change::as_str);
    let change = object(&[
        ("what", json!({"type": "string", "enum": kinds})),
        ("revision", or_null("integer")),
        ("from", named("Traffic")),
        ("to", named("Traffic")),
        ("reason?", of("string")),
        ("at", time()),
    ]);
    vec![
        ("Settings", described(settings, "what is absent is the server's to decide")),
        ("Revision", revision),
        ("Traffic", traffic),
        ("Share", object(&[("revision", count()), ("percent", percent(1, 100))])),
        ("TrafficChange", change),
        ("DeploymentHistory", object(&[("revisions", list_of("Revision")), ("changes", list_of("TrafficChange"))])),
    ]
}

fn percent(least: u8, most: u8) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

fn models() -> Schemas {
    let file = || json!({"type": "string", "contentMediaType": "application/octet-stream"});
    let datatypes = [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
        "FP64", "BYTES",
    ];
    let model = object(&[
        ("name", named("Name")),
        ("created_at", time()),
        ("latest", count()),
        ("versions", json!({"type": "array", "items": count()})),
        ("aliases", json!({"type": "object", "additionalProperties": count()})),
    ]);
    let version = object(&[
        ("model", named("Name")),
        ("version", count()),
        ("format", of("string")),
        ("digest", named("Digest")),
        ("bytes", count()),
        ("signature", named("Signature")),
        ("resident_bytes?", count()),
        ("algorithm", or_null("string")),
        ("parameters", json!({"description": "as they were resolved"})),
        ("data", json!({"type": ["object", "null"], "description": "what it was trained on"})),
        ("metrics", json!({})),
        ("software", of("string")),
        ("training", json!({"type": ["object", "null"], "description": "what its training cost"})),
        ("parent", or_none("VersionId")),
        ("created_at", time()),
    ]);
    let change =
        object(&[("alias", named("Name")), ("from", or_null("integer")), ("to", or_null("integer")), ("at", time())]);
    vec![
        ("Model", model),
        ("ModelVersion", version),
        ("VersionId", object(&[("model", named("Name")), ("version", count())])),
        ("Signature", object(&[("inputs", list_of("TensorSpec")), ("outputs", list_of("TensorSpec"))])),
        (
            "TensorSpec",
            object(&[
                ("name", of("string")),
                ("datatype", named("Datatype")),
                (
                    "shape",
                    described(json!({"type": "array", "items": {"type": "integer"}}), "-1 where any size will do"),
                ),
                ("missing?", described(of("boolean"), "whether a value may be missing")),
            ]),
        ),
        ("Datatype", json!({"type": "string", "enum": datatypes})),
        ("ModelFiles", object(&[("model?", file()), ("coef?", file()), ("intercept?", file())])),
        (
            "AliasTarget",
            json!({"type": "object", "properties": {"version": {"type": "integer", "minimum": 1, "maximum": 4_294_967_295_u64}}, "required": ["version"], "additionalProperties": false}),
        ),
        ("AliasChange", change),
    ]
}

fn training() -> Schemas {
    let states = ["queued", "running", "succeeded", "failed", "cancelled", "interrupted"];
    let job = object(&[
        ("id", json!({"type": "string", "format": "uuid"})),
        ("spec", of("object")),
        ("model", named("Name")),
        ("state", json!({"type": "string", "enum": states})),
        (
            "progress",
            json!({"type": ["object", "null"], "description": "stage, iteration, loss, rows a second, seconds left"}),
        ),
        ("error", or_null("string")),
        ("result", or_none("VersionId")),
        ("cpu_seconds", of("number")),
        ("energy", or_none("Energy")),
        ("created_at", time()),
        ("started_at", json!({"type": ["string", "null"], "format": "date-time"})),
        ("finished_at", json!({"type": ["string", "null"], "format": "date-time"})),
    ]);
    vec![("Job", job)]
}

fn tables() -> Schemas {
    let dataset = object(&[
        ("name", named("Name")),
        ("digest", named("Digest")),
        ("rows", count()),
        ("bytes", count()),
        ("source", of("string")),
        ("reading?", described(of("object"), "how its file was read otherwise than inferred")),
        ("created_at", time()),
        ("schema", object(&[("columns", list_of("Column"))])),
    ]);
    let column = object(&[
        ("name", of("string")),
        ("kind", json!({"type": "string", "enum": ["number", "category"]})),
        ("missing", count()),
        ("distinct?", count()),
        ("range?", json!({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2})),
    ]);
    let warnings =
        described(json!({"type": "array", "items": {"type": "string"}}), "what looks like a slip in the file");
    vec![("Dataset", dataset), ("Column", column), ("AddedDataset", extends("Dataset", &[("warnings?", warnings)]))]
}

fn usage() -> Schemas {
    let energy = object(&[
        ("joules_low", of("number")),
        ("joules", of("number")),
        ("joules_high", of("number")),
        ("label", named("Label")),
        ("source", of("string")),
    ]);
    let range = || described(json!({}), "low, likely, high");
    let sensor = object(&[
        ("source", of("string")),
        ("label", named("Label")),
        ("static_watts", range()),
        ("dynamic_watts_per_cpu", range()),
    ]);
    let server = object(&[("name", of("string")), ("version", of("string")), ("sensor", sensor), ("cpus", count())]);
    let line = object(&[
        ("key", or_null("string")),
        ("activity", described(of("string"), "what it was used for")),
        ("requests", count()),
        ("rows", count()),
        ("cpu_seconds", of("number")),
        ("energy", named("Energy")),
    ]);
    vec![
        ("Energy", energy),
        (
            "Label",
            json!({"type": "string", "description": "where joules come from", "examples": ["measured", "estimated"]}),
        ),
        ("Server", server),
        ("UsageLine", line),
        ("Collected", object(&[("blobs", count()), ("bytes", count())])),
    ]
}

fn open_inference() -> Schemas {
    let parameters = || described(of("object"), "what else is said of it");
    let shape = || json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    let tensor = object(&[
        ("name", of("string")),
        ("shape", shape()),
        ("datatype", named("Datatype")),
        ("parameters?", parameters()),
        (
            "data?",
            described(of("array"), "the elements in row-major order, flat or nested as the shape; absent in binary"),
        ),
    ]);
    let request = object(&[
        ("id?", or_null("string")),
        ("parameters?", parameters()),
        ("inputs", list_of("Tensor")),
        ("outputs?", list_of("RequestedOutput")),
    ]);
    let response = object(&[
        ("model_name", named("Name")),
        ("model_version", of("string")),
        ("id?", of("string")),
        ("parameters?", parameters()),
        ("outputs", list_of("Tensor")),
    ]);
    let model = object(&[
        ("name", named("Name")),
        ("versions", json!({"type": "array", "items": {"type": "string"}})),
        ("platform", of("string")),
        ("inputs", list_of("TensorSpec")),
        ("outputs", list_of("TensorSpec")),
    ]);
    let config = object(&[
        ("name", named("Name")),
        ("platform", of("string")),
        ("backend", of("string")),
        ("version_policy", of("object")),
        ("max_batch_size", count()),
        ("input", json!({"type": "array", "items": of("object")})),
        ("output", json!({"type": "array", "items": of("object")})),
        ("instance_group", of("array")),
        ("default_model_filename", of("string")),
        ("dynamic_batching?", of("object")),
        ("parameters", of("object")),
        ("model_transaction_policy", of("object")),
    ]);
    let times = || object(&[("count", count()), ("ns", count())]);
    let phases = object(&[
        ("success", times()),
        ("fail", times()),
        ("queue", times()),
        ("compute_input", times()),
        ("compute_infer", times()),
        ("compute_output", times()),
    ]);
    let statistics = object(&[
        ("name", named("Name")),
        ("version", of("string")),
        ("last_inference", described(count(), "in milliseconds since 1970")),
        ("inference_count", described(count(), "rows")),
        ("execution_count", described(count(), "runs of the model")),
        ("inference_stats", phases),
        ("memory_usage", of("array")),
    ]);
    let entry = object(&[
        ("name", named("Name")),
        ("version", of("string")),
        ("state", of("string")),
        ("reason", of("string")),
    ]);
    let extensions = json!({"type": "array", "items": {"type": "string"}});
    vec![
        ("Tensor", tensor),
        ("RequestedOutput", object(&[("name", of("string")), ("parameters?", parameters())])),
        ("V2Request", request),
        ("V2Response", response),
        ("V2Model", model),
        ("V2Config", config),
        ("V2Statistics", object(&[("model_stats", json!({"type": "array", "items": statistics}))])),
        ("V2IndexEntry", entry),
        ("V2Ready", object(&[("name", named("Name")), ("ready", of("boolean"))])),
        ("V2Server", object(&[("name", of("string")), ("version", of("string")), ("extensions", extensions)])),
    ]
}

fn mlflow() -> Schemas {
    let split = object(&[("columns?", of("array")), ("data", of("array")), ("index?", json!({}))]);
    let form = |key: &str, schema: Value, description: &str| described(object(&[(key, schema)]), description);
    let records = json!({"type": "array", "items": {"type": "object"}});
    let inputs = json!({"type": ["object", "array"]});
    let invocation = json!({"oneOf": [
        form("dataframe_split", split, "a table as pandas writes it"),
        form("dataframe_records", records, "a table, row by row"),
        form("instances", of("array"), "rows"),
        form("inputs", inputs, "an array, or arrays by their names")
    ]});
    vec![("Invocation", invocation), ("Predictions", object(&[("predictions", json!({}))]))]
}
