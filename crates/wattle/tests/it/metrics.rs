//! `GET /metrics`: what it tells is what happened, and the documents know all of it and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::TcpStream,
};

use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Value, json};

use crate::{
    grpc::{Client, calls, founding},
    language_models,
    raw::Connection,
    support::{Answer, PATIENCE, Server, post, root, send, wait_for, words},
};

/// What a server tells at one moment.
pub(crate) struct Scrape(Vec<(String, BTreeMap<String, String>, f64)>);

impl Scrape {
    pub(crate) fn of(url: &str) -> Scrape {
        let answer = send(|client| client.get(format!("{url}/metrics")));
        assert_eq!(answer.status, 200, "{}", answer.text);
        Scrape(answer.text.lines().filter(|line| !line.starts_with('#')).map(sample).collect())
    }

    /// The sum of the samples of this name that have these labels; `None` where there is none.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |has: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| has.get(*label).is_some_and(|has| has == value))
        };
        let found = self.0.iter().filter(|(its_name, has, _)| its_name == name && wanted(has));
        found.map(|(_, _, value)| *value).reduce(|sum, value| sum + value)
    }

    fn at(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?}"))
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|(name, _, _)| name.as_str()).collect()
    }
}

#[test]
fn what_is_told_is_what_happened() {
    let server = Server::start_furnished();
    let url = |path: &str| format!("{}{path}", server.url);
    let before = Scrape::of(&server.url);
    assert_eq!(before.get("wattle_requests_total", &[]), None);
    assert_eq!(before.at("wattle_model_loaded", &[("deployment", "founding")]), 1.0);

    let infer = json!({"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1.0, 2.0]}]});
    let mut answers: Vec<Answer> =
        (0..3).map(|_| post(&url("/models/founding/predict"), &json!({"x": [1.0, 2.0, 3.0]}))).collect();
    answers.extend((0..2).map(|_| post(&url("/v2/models/founding/infer"), &infer)));
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(post(&url("/models/founding/predict"), &json!({"z": [1.0]})).status, 400);
    assert_eq!(post(&url("/models/nobody/predict"), &json!({})).status, 404);

    let told = Scrape::of(&server.url);
    let founding = ("deployment", "founding");
    let revision = [founding, ("model", "founding"), ("version", "1")];
    let requests = |protocol, code| {
        told.get("wattle_requests_total", &[revision.as_slice(), &[("protocol", protocol), ("code", code)]].concat())
    };
    assert_eq!((requests("predict", "200"), requests("predict", "400")), (Some(3.0), Some(1.0)));
    assert_eq!((requests("v2", "200"), requests("v2", "400")), (Some(2.0), None));
    assert_eq!(told.at("wattle_requests_total", &[]), 6.0, "a deployment that is not there counts nowhere");
    assert!(told.at("wattle_http_responses_total", &[("class", "4xx")]) >= 2.0);

    let duration = |suffix: &str, labels: &[(&str, &str)]| {
        told.at(&format!("wattle_request_duration_seconds_{suffix}"), &[&[founding], labels].concat())
    };
    assert_eq!(duration("count", &[("protocol", "predict")]), 3.0, "what was refused has no latency");
    assert_eq!(duration("bucket", &[("protocol", "predict"), ("le", "+Inf")]), 3.0);
    assert_eq!(duration("bucket", &[("protocol", "v2"), ("le", "120.0")]), 2.0);
    let phases = ["read", "queue", "batch", "compute", "reply"].map(|phase| {
        assert_eq!(told.at("wattle_request_phase_duration_seconds_count", &[founding, ("phase", phase)]), 5.0);
        told.at("wattle_request_phase_duration_seconds_sum", &[founding, ("phase", phase)])
    });
    let (whole, sum) = (duration("sum", &[]), phases.iter().sum::<f64>());
    assert!((whole - sum).abs() < 1e-6 && phases[3] > 0.0, "{whole} s in all, {phases:?} s in phases");
    assert_eq!(told.at("wattle_requests_in_flight", &[founding]), 0.0);
    assert_eq!(told.at("wattle_requests_queued", &[founding]), 0.0);

    assert_eq!(told.at("wattle_batch_rows_sum", &[founding]), 3.0 * 3.0 + 2.0 * 2.0);
    assert_eq!(told.at("wattle_batch_requests_sum", &[founding]), 5.0);
    assert_eq!(told.at("wattle_model_load_duration_seconds_count", &[founding]), 1.0);
    assert_eq!(told.at("wattle_model_loaded", &[founding]), 1.0);
    assert_eq!(told.at("wattle_model_load_duration_seconds_count", &[("deployment", "penguins")]), 1.0);

    // The headers round to nanojoules.
    let header = |name: &str| -> f64 { answers.iter().map(|answer| answer.header(name).parse::<f64>().unwrap()).sum() };
    let label = answers[0].header("x-wattle-energy-label");
    let joules = told.at("wattle_energy_joules_total", &[founding, ("component", "predict"), ("label", label)]);
    assert!((joules - header("x-wattle-energy-joules")).abs() < 1e-8 && joules > 0.0, "{joules} J");
    let seconds = told.at("wattle_cpu_seconds_total", &[founding, ("component", "predict")]);
    assert!((seconds - header("x-wattle-cpu-seconds")).abs() < 1e-8, "{seconds} s");
    assert!(told.at("wattle_energy_joules_total", &[("component", "train")]) > 0.0);

    assert!(told.at("process_resident_memory_bytes", &[]) > 1e6);
    assert!(told.at("process_start_time_seconds", &[]) > 1.7e9);
    assert_eq!(told.at("wattle_ready", &[]), 1.0);
}

#[test]
fn each_protocol_has_its_own_codes() {
    let server = Server::start_furnished();
    calls(&server, async |channel| {
        let mut client = Client::new(channel);
        client.model_infer(founding("1", &[1.0, 2.0])).await.unwrap();
        let mut wrong = founding("2", &[1.0]);
        wrong.inputs[0].name = "z".into();
        client.model_infer(wrong).await.unwrap_err();
    });
    let url = format!("{}/models/founding/invocations", server.url);
    assert_eq!(post(&url, &json!({"inputs": {"x": [1.0]}})).status, 200);
    assert_eq!(post(&url, &json!({"outputs": []})).status, 400);
    let told = Scrape::of(&server.url);
    for (protocol, code) in [("grpc", "OK"), ("grpc", "INVALID_ARGUMENT"), ("mlflow", "200"), ("mlflow", "400")] {
        assert_eq!(
            told.at("wattle_requests_total", &[("protocol", protocol), ("code", code)]),
            1.0,
            "{protocol} {code}"
        );
    }
    assert_eq!(told.at("wattle_request_duration_seconds_count", &[("protocol", "grpc")]), 1.0);
    assert_eq!(told.at("wattle_request_phase_duration_seconds_count", &[("phase", "compute")]), 2.0);
    assert_eq!(told.at("wattle_requests_in_flight", &[("deployment", "founding")]), 0.0);
}

#[test]
fn the_form_is_the_one_that_is_asked_for() {
    let server = Server::start();
    let plain = send(|client| client.get(format!("{}/metrics", server.url)));
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.text.contains("\n# TYPE wattle_http_responses_total counter\n"), "{}", plain.text);
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let open = send(|client| client.get(format!("{}/metrics", server.url)).header("accept", accept));
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.contains("\n# TYPE wattle_http_responses counter\n") && open.text.ends_with("# EOF\n"));
}

#[test]
fn a_caller_who_leaves_is_counted_as_cancelled() {
    let server = Server::start_furnished();
    let founding = [("deployment", "founding")];
    let in_flight = || Scrape::of(&server.url).at("wattle_requests_in_flight", &founding);
    let mut caller = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller
        .write_all(b"POST /models/founding/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        .unwrap();
    wait_for("the call", || (in_flight() == 1.0).then_some(()));
    drop(caller);
    wait_for("its end", || (in_flight() == 0.0).then_some(()));
    let told = Scrape::of(&server.url);
    // Whether the connection is seen to be gone, or the body to be cut short, is a race that either may win.
    let ended = told.at("wattle_requests_cancelled_total", &founding)
        + told.get("wattle_requests_total", &[("deployment", "founding"), ("code", "400")]).unwrap_or(0.0);
    assert_eq!(ended, 1.0);
}

#[test]
fn a_deployment_that_is_gone_is_told_no_more() {
    let server = Server::start_furnished();
    post(&format!("{}/models/founding/predict", server.url), &json!({"x": [1.0]}));
    assert!(Scrape::of(&server.url).get("wattle_requests_total", &[("deployment", "founding")]).is_some());
    server.wattle(&["undeploy", "founding"]);
    let told = Scrape::of(&server.url);
    assert!(told.0.iter().all(|(_, labels, _)| labels.get("deployment").is_none_or(|name| name != "founding")));
    assert!(told.get("wattle_requests_in_flight", &[("deployment", "penguins")]).is_some());
}

/// The labels of a version of the founding pair.
fn version(version: &str) -> [(&str, &str); 2] {
    [("deployment", "founding"), ("version", version)]
}

#[test]
fn a_new_version_leaves_the_old_ones_figures_in_place() {
    let server = Server::start();
    for round in 1..=6 {
        server.import_founding();
        server.wattle(&["deploy", "founding"]);
        post(&format!("{}/predict", server.url), &json!({"x": [1.0]}));
        assert_eq!(Scrape::of(&server.url).at("wattle_requests_total", &version(&round.to_string())), 1.0);
    }
    let told = Scrape::of(&server.url);
    assert_eq!(told.get("wattle_requests_total", &version("1")), None, "what is told has a bound");
    assert_eq!(told.at("wattle_requests_total", &version("2")), 1.0);
    assert_eq!(
        told.at("wattle_model_evictions_total", &[version("2").as_slice(), &[("reason", "replaced")]].concat()),
        1.0
    );
    assert_eq!(told.at("wattle_model_loaded", &[]), 1.0);
}

#[test]
fn a_model_that_cannot_be_loaded_shows() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let unload = format!("{}/api/v1/deployments/founding/unload", server.url);
    assert_eq!(post(&unload, &json!({})).status, 200);
    let digest = server.json(&["models", "show", "founding"])["digest"].as_str().unwrap().to_owned();
    let blob = data_dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, "no model").unwrap();
    assert_eq!(post(&format!("{}/predict", server.url), &json!({"x": [1.0]})).status, 503);
    let told = Scrape::of(&server.url);
    assert_eq!(told.at("wattle_model_load_failures_total", &[("deployment", "founding")]), 1.0);
    assert_eq!(told.at("wattle_requests_total", &[("code", "503")]), 1.0);
}

#[test]
fn the_dashboard_the_alerts_and_the_table_name_what_is_told() {
    let server = Server::start_furnished();
    busy(&server);
    let told = Scrape::of(&server.url);
    let told = told.names();
    assert!(told.len() > 30, "{told:?}");
    let page = fs::read_to_string(root().join("docs/observe.md")).unwrap();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(root().join("docs/grafana/wattle.json")).unwrap()).unwrap();
    let alerts = fs::read_to_string(root().join("docs/alerts.yaml")).unwrap();

    let mut queries = Vec::new();
    collect(&dashboard, &["expr", "definition"], &mut queries);
    assert!(queries.len() > 20, "{queries:?}");
    let alerts = Yaml::load_from_str(&alerts).unwrap();
    let rules: Vec<&Yaml> =
        alerts[0]["groups"].as_vec().unwrap().iter().flat_map(|group| group["rules"].as_vec().unwrap()).collect();
    assert!(rules.len() > 5);
    for rule in rules {
        let text = |key: &str| rule[key].as_str().unwrap_or_else(|| panic!("no {key} in {rule:?}"));
        assert!(text("alert").starts_with("Wattle"), "{rule:?}");
        assert!(rule["labels"]["severity"].as_str().is_some() && rule["annotations"]["summary"].as_str().is_some());
        queries.push(text("expr").to_owned());
    }
    for query in &queries {
        let named = metric_names(query);
        assert!(!named.is_empty() || query.starts_with("up{"), "no metric in {query}");
        let unknown: Vec<&&str> = named.iter().filter(|name| !told.contains(*name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {query} are not told by a server");
    }

    // The table has families: a histogram once, without its samples' endings.
    let family = |name: &str| -> String {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending));
        bare.filter(|bare| told.contains(format!("{bare}_bucket").as_str())).unwrap_or(name).to_owned()
    };
    let families: BTreeSet<String> = told.iter().map(|name| family(name)).collect();
    let rows =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name.to_owned());
    let described: BTreeSet<String> = rows.filter(|name| is_ours(name)).collect();
    assert_eq!(families, described, "the table of docs/observe.md and what a server tells differ");
}

/// Has a server do something of all that it counts.
fn busy(server: &Server) {
    let mut connection = Connection::open(&server.url).unwrap();
    for _ in 0..3 {
        assert_eq!(connection.post("/models/founding/predict", r#"{"x": [1.0]}"#).unwrap().status, 200);
    }
    server.wattle(&words("predict penguins --csv examples/penguins.csv"));
    let file = tempfile::NamedTempFile::new().unwrap();
    language_models::Decoder::SMALL.write(file.path());
    server.wattle(&["models", "import", "--name", "tiny", file.path().to_str().unwrap()]);
    server.wattle(&words("deploy tiny --threads 1"));
    let completion = json!({"model": "tiny", "prompt": "once", "max_tokens": 4, "ignore_eos": true});
    let answer = post(&format!("{}/v1/completions", server.url), &completion);
    assert_eq!(answer.status, 200, "{}", answer.text);
    wait_for("what the language model counts", || {
        Scrape::of(&server.url).get("wattle_inter_token_latency_seconds_count", &[]).map(drop)
    });
    wait_for("the idle energy", || {
        Scrape::of(&server.url).get("wattle_energy_joules_total", &[("component", "idle")]).map(drop)
    });
}

/// All texts under these keys, at any depth.
fn collect(value: &Value, keys: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text.to_owned()),
                    _ => collect(value, keys, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, keys, found)),
        _ => {}
    }
}

/// The metrics of ours that a query names.
fn metric_names(query: &str) -> Vec<&str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| is_ours(word)).collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with("wattle_") || name.starts_with("process_")
}

/// `name{label="value"} 1`.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
    let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
    let pairs = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
    let labels = pairs.map(|pair| {
        let (label, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{line:?} has a label without a value"));
        (label.to_owned(), value.trim_end_matches('"').to_owned())
    });
    (name.to_owned(), labels.collect(), value.parse().unwrap_or_else(|_| panic!("{line:?} has no value")))
}
