//! Several deployments as one.

use serde_json::json;

use crate::support::{Server, file, post};

fn import(server: &Server, folder: &tempfile::TempDir, name: &str, text: &str) {
    server.wattle(&["models", "import", "--name", name, &file(folder, &format!("{name}.toml"), text)]);
}

#[test]
fn a_sequence_and_an_ensemble_answer_as_their_steps_do() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    server.wattle(&["models", "import", "--name", "twice", "examples/pipelines/twice.toml"]);
    server.wattle(&["deploy", "twice"]);
    let answer = post(&format!("{}/models/twice/predict", server.url), &json!({"x": [1.0, 2.0]}));
    assert_eq!((answer.status, answer.json()), (200, json!({"once": [[3.0], [5.0]], "twice": [[7.0], [11.0]]})));
    assert_eq!(answer.header("x-wattle-model"), "twice:1");
    assert!(answer.header("x-wattle-cpu-seconds").parse::<f64>().unwrap() > 0.0);

    // An ensemble: two pipelines side by side over the same input, one of them a pipeline itself.
    import(
        &server,
        &folder,
        "both",
        "steps = [{ deployment = 'founding' }, { deployment = 'twice' }]
         [outputs]
         line = 'founding.y_pred'
         steeper = 'twice.twice'",
    );
    server.wattle(&["deploy", "both"]);
    let body = json!({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [1.0]}]});
    let answer = post(&format!("{}/v2/models/both/infer", server.url), &body).json();
    let value = |index: usize| (answer["outputs"][index]["name"].clone(), answer["outputs"][index]["data"][0].clone());
    assert_eq!((value(0), value(1)), ((json!("line"), json!(3.0)), (json!("steeper"), json!(7.0))));

    // Each step is paid for under its own deployment.
    let usage = server.json(&["usage", "--by", "deployment"]);
    let requests = |name: &str| {
        let mut lines = usage.as_array().unwrap().iter();
        lines.find(|line| line["key"] == name && line["activity"] == "predict").unwrap()["requests"].clone()
    };
    assert_eq!((requests("founding"), requests("twice"), requests("both")), (json!(5), json!(2), json!(1)));

    let out = folder.path().join("out").to_str().unwrap().to_owned();
    server.wattle(&["models", "export", "twice", &out]);
    let exported = std::fs::read_to_string(format!("{out}/pipeline.toml")).unwrap();
    assert!(exported.contains("[[steps]]"), "{exported}");
}

#[test]
fn a_pipeline_that_cannot_be_wired_is_refused_and_one_that_calls_itself_ends() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let told = |text: &str| server.fails(&["models", "import", "--name", "wrong", &file(&folder, "wrong.toml", text)]);
    let error = told("steps = [{ deployment = 'foundin' }]");
    assert!(error.contains("did you mean founding?"), "{error}");
    let error = told("steps = [{ deployment = 'founding', inputs = { y = 'x' } }]");
    assert!(error.contains("step founding has no input \"y\""), "{error}");
    let error = told("steps = [");
    assert!(error.contains("not a usable pipeline"), "{error}");

    // A name that is taken by a model first and by a pipeline of it later.
    import(&server, &folder, "loop", "steps = [{ deployment = 'founding' }]");
    server.wattle(&["deploy", "loop"]);
    import(&server, &folder, "loop", "steps = [{ deployment = 'loop' }]");
    server.wattle(&["deploy", "loop"]);
    let answer = post(&format!("{}/models/loop/predict", server.url), &json!({"x": [1.0]}));
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("does one call itself?"), "{}", answer.text);

    // What a step needs may be gone.
    import(&server, &folder, "orphan", "steps = [{ deployment = 'founding' }]");
    server.wattle(&["deploy", "orphan"]);
    server.wattle(&["undeploy", "founding"]);
    let answer = post(&format!("{}/models/orphan/predict", server.url), &json!({"x": [1.0]}));
    assert!(answer.status == 503 && answer.text.contains("no deployment founding"), "{}", answer.text);
}
