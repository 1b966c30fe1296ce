//! The scenarios of `tests/rest`: requests as data, with what must be answered. After each the server must be untouched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    raw,
    support::{Answer, Server, example},
};

/// A file of `tests/rest`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// What it shows, for people.
    about: String,
    /// Further arguments of `wattle serve`.
    #[serde(default)]
    serve: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// As in `POST /predict`; the path is sent as it is written.
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Body,
    status: u16,
    /// Words that the answer's `error` holds.
    error: Option<String>,
    /// What the answer holds; it may hold more keys.
    answer: Option<Value>,
    /// The whole answer, if it is no JSON.
    text: Option<String>,
}

/// How a body is written.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum Body {
    #[default]
    None,
    /// Sent as `application/json`.
    Json(Value),
    /// Text as it is, without a content type.
    Text(String),
    /// The Latin-1 bytes of this text.
    Latin1(String),
    /// The UTF-16 bytes of this text with a byte-order mark.
    Utf16(String),
    /// A file of `tests/rest/files`.
    File(String),
    /// A file of `examples`.
    Example(String),
    /// So many arrays, one in the other.
    Nested(usize),
    /// So many bytes.
    Long(usize),
    /// A form of files, by the names of its fields.
    Form(BTreeMap<String, Body>),
}

#[test]
fn scenarios() {
    // The threads draw from one pile.
    let pile = Mutex::new(scenarios_in_folder());
    assert!(pile.lock().unwrap().len() >= 20, "the scenarios are not where they should be");
    let faults = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, scenario)) = { pile.lock().unwrap().pop() } {
                    let found = play(&scenario);
                    let about = &scenario.about;
                    faults.lock().unwrap().extend(found.into_iter().map(|fault| format!("{name} ({about}): {fault}")));
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rest")
}

fn scenarios_in_folder() -> Vec<(String, Scenario)> {
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let scenario = serde_json::from_slice(&fs::read(&path).unwrap());
            scenarios.push((name.clone(), scenario.unwrap_or_else(|error| panic!("{name}: {error}"))));
        }
    }
    scenarios
}

/// What went otherwise than the scenario says.
fn play(scenario: &Scenario) -> Vec<String> {
    let server = Server::start();
    server.furnish();
    // Models are made under the usual limits, whatever those of the scenario are.
    let (data_dir, arguments) = (server.data_dir().to_owned(), scenario.serve.iter().map(String::as_str));
    let arguments: Vec<&str> = arguments.collect();
    let (server, _folder) = match arguments.is_empty() {
        true => (server, None),
        false => {
            let folder = server.terminate();
            (Server::start_in(&data_dir, &arguments), folder)
        }
    };
    let before = state(&server.url);
    let mut faults = Vec::new();
    let mut changes = false;
    for step in &scenario.steps {
        let (answer, fault) = take(&server.url, step);
        faults.extend(fault.map(|fault| format!("{}: {fault}: {} {}", step.request, answer.status, answer.text)));
        changes |= (200..300).contains(&answer.status) && !step.request.starts_with("GET");
    }
    let good = raw::call(&server.url, "POST", "/models/founding/predict", &[], br#"{"x":[1.0]}"#);
    if (good.status, good.text.as_str()) != (200, r#"{"y_pred":[[3.0]]}"#) {
        faults.push(format!("a good call afterwards: {} {}", good.status, good.text));
    }
    if !changes && state(&server.url) != before {
        faults.push("what the server holds has changed".into());
    }
    let left = fs::read_dir(data_dir.join("staging")).unwrap().count();
    if left > 0 {
        faults.push(format!("{left} files are left in staging"));
    }
    faults
}

/// Everything that a refused request must not change.
fn state(url: &str) -> Vec<Value> {
    let mut state: Vec<Value> =
        ["/api/v1/datasets", "/api/v1/models"].map(|path| raw::get(url, path).json()).into_iter().collect();
    let deployments = raw::get(url, "/api/v1/deployments").json();
    state.extend(deployments.as_array().unwrap().iter().map(|one| one["name"].clone()));
    state
}

fn take(url: &str, step: &Step) -> (Answer, Option<String>) {
    let (method, path) = step.request.split_once(' ').unwrap();
    let (body, content_type) = step.body.bytes();
    let mut headers: Vec<(&str, &str)> = step.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    if let Some(content_type) = &content_type
        && !step.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        headers.push(("Content-Type", content_type));
    }
    let answer = raw::call(url, method, path, &headers, &body);
    let fault = fault(step, &answer);
    (answer, fault)
}

fn fault(step: &Step, answer: &Answer) -> Option<String> {
    if answer.status != step.status {
        return Some(format!("expected {}", step.status));
    }
    let told = serde_json::from_str::<Value>(&answer.text).unwrap_or_default();
    if let Some(words) = &step.error {
        let error = told["error"].as_str().unwrap_or_default();
        if !error.contains(words.as_str()) {
            return Some(format!("expected an error with {words:?}"));
        }
        // The words of a library that was not asked nicely begin with a capital or end with a stop.
        if error.starts_with(|first: char| first.is_ascii_uppercase()) || error.ends_with('.') {
            return Some("the error is not in the house's style".into());
        }
    }
    if step.text.as_ref().is_some_and(|text| *text != answer.text) {
        return Some("expected another text".into());
    }
    match &step.answer {
        Some(expected) if !holds(&told, expected) => Some(format!("expected {expected}")),
        _ => None,
    }
}

/// Whether `value` is `expected`, but for further keys and rounding.
fn holds(value: &Value, expected: &Value) -> bool {
    match (value, expected) {
        (Value::Object(value), Value::Object(expected)) => {
            expected.iter().all(|(key, expected)| value.get(key).is_some_and(|value| holds(value, expected)))
        }
        (Value::Array(value), Value::Array(expected)) => {
            value.len() == expected.len() && value.iter().zip(expected).all(|(value, expected)| holds(value, expected))
        }
        (Value::Number(value), Value::Number(expected)) => {
            let (value, expected) = (value.as_f64().unwrap(), expected.as_f64().unwrap());
            (value - expected).abs() <= 1e-6 * expected.abs().max(1e-6)
        }
        _ => value == expected,
    }
}

impl Body {
    fn bytes(&self) -> (Vec<u8>, Option<String>) {
        let read = |path: PathBuf| fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        match self {
            Body::None => (Vec::new(), None),
            Body::Json(value) => (value.to_string().into_bytes(), Some("application/json".into())),
            Body::Text(text) => (text.clone().into_bytes(), None),
            Body::Latin1(text) => (text.chars().map(|character| u8::try_from(character).unwrap()).collect(), None),
            Body::Utf16(text) => {
                ([0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect(), None)
            }
            Body::File(name) => (read(folder().join("files").join(name)), None),
            Body::Example(name) => (read(example(name).into()), None),
            Body::Nested(depth) => (["[".repeat(*depth), "]".repeat(*depth)].concat().into_bytes(), None),
            Body::Long(length) => (vec![b' '; *length], None),
            Body::Form(fields) => {
                const BOUNDARY: &str = "the-boundary-of-a-form";
                let mut form = Vec::new();
                for (name, body) in fields {
                    let head = format!(
                        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n"
                    );
                    form.extend_from_slice(head.as_bytes());
                    form.extend(body.bytes().0);
                    form.extend_from_slice(b"\r\n");
                }
                form.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
                (form, Some(format!("multipart/form-data; boundary={BOUNDARY}")))
            }
        }
    }
}
