//! `wattle models`.

use std::fs;

use serde_json::json;

use crate::{
    rollout::import_lookup,
    support::{Server, command, file, words},
};

#[test]
fn versions_are_numbered_and_shown() {
    let server = Server::start();
    assert!(server.wattle(&["models", "list"]).contains("wattle train"));
    server.import_founding();
    server.wattle(&words(
        "train --algorithm linear-regression --data examples/line.csv --target y --name founding
             --parent founding:1",
    ));
    let models = server.json(&["models", "list"]);
    assert_eq!(
        (&models[0]["name"], &models[0]["versions"], &models[0]["latest"]),
        (&json!("founding"), &json!([1, 2]), &json!(2))
    );
    let (first, second) =
        (server.json(&["models", "show", "founding:1"]), server.json(&["models", "show", "founding"]));
    assert_eq!((&first["version"], &first["algorithm"]), (&json!(1), &json!(null)));
    assert_eq!((&second["version"], &second["algorithm"]), (&json!(2), &json!("linear-regression")));
    assert_eq!(second["parent"], json!({"model": "founding", "version": 1}));
    assert_eq!((&second["data"]["name"], &second["data"]["rows"]), (&json!("line"), &json!(200)));
    assert_eq!(second["data"]["digest"], server.json(&["data", "show", "line"])["digest"]);
    let training = &second["training"];
    assert!(training["wall_seconds"].as_f64().unwrap() > 0.0 && training["cpu_seconds"].as_f64().unwrap() > 0.0);
    assert!(training["energy"]["joules"].as_f64().unwrap() > 0.0, "{training}");
    let shown = server.wattle(&["models", "show", "founding"]);
    assert!(shown.contains("founding:2") && shown.contains("rmse"), "{shown}");
    assert!(server.fails(&["models", "show", "founding:3"]).contains("its latest is founding:2"));
    assert!(server.fails(&["models", "show", "founding@champion"]).contains("champion"));
    assert!(server.fails(&["models", "show", "fonding"]).contains("founding"));
}

#[test]
fn an_alias_moves_and_leaves_its_history() {
    let server = Server::start();
    server.import_founding();
    server.import_founding();
    assert!(server.wattle(&["models", "alias", "founding"]).contains("no aliases"));
    server.wattle(&["models", "alias", "founding:1", "champion"]);
    let set = server.json(&["models", "alias", "founding:2", "challenger"]);
    assert_eq!(set["aliases"], json!({"challenger": 2, "champion": 1}));
    assert_eq!(server.json(&["models", "show", "founding@champion"])["version"], 1);
    server.wattle(&["models", "alias", "founding@challenger", "champion"]);
    assert_eq!(server.json(&["models", "show", "founding@champion"])["version"], 2);
    server.wattle(&["models", "alias", "founding", "challenger", "--remove"]);
    let history = server.json(&["models", "alias", "founding"]);
    let moves: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["alias"].as_str().unwrap(), &change["from"], &change["to"]))
        .collect();
    let (none, one, two) = (json!(null), json!(1), json!(2));
    assert_eq!(
        moves,
        [("champion", &none, &one), ("challenger", &none, &two), ("champion", &one, &two), ("challenger", &two, &none)]
    );
    assert!(server.fails(&["models", "alias", "founding:7", "champion"]).contains("its latest is founding:2"));
    assert!(server.fails(&["models", "rm", "founding@champion"]).contains("--remove"));
}

#[test]
fn what_is_exported_comes_in_again_as_the_same_model() {
    let server = Server::start();
    server.furnish();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a/new/folder");
    let told = server.json(&["models", "export", "penguins:1", target.to_str().unwrap()]);
    assert_eq!(told["model"], target.join("model.onnx").to_str().unwrap());
    let mut files: Vec<_> =
        fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["manifest.json", "model.onnx"]);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(target.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, server.json(&["models", "show", "penguins"]));

    let model = target.join("model.onnx");
    let again = server.json(&["models", "import", "--name", "again", model.to_str().unwrap()]);
    assert_eq!(again["digest"], manifest["digest"]);
    // What may be missing is part of it.
    assert_eq!(again["signature"], manifest["signature"]);
    server.wattle(&["deploy", "again"]);
    let row = r#"{"island": "Biscoe", "body_mass_g": null, "sex": "female"}"#;
    let answer = |name: &str| server.json(&["predict", name, "--json", row])["outputs"].clone();
    assert_eq!(answer("again"), answer("penguins"));
    // An export over an export leaves the new one.
    server.wattle(&["models", "export", "founding", target.to_str().unwrap()]);
    assert_eq!(
        fs::metadata(&model).unwrap().len(),
        server.json(&["models", "show", "founding"])["bytes"].as_u64().unwrap()
    );
    assert!(server.fails(&["models", "export", "nothing", target.to_str().unwrap()]).contains("nothing"));
    assert!(
        server.fails(&["models", "export", "founding", model.to_str().unwrap()]).contains("cannot make the folder")
    );
}

#[test]
fn a_model_in_use_is_not_removed_and_a_removed_number_is_not_used_again() {
    let server = Server::start();
    for _ in 0..3 {
        server.import_founding();
    }
    server.wattle(&["deploy", "founding:2"]);
    assert!(server.fails(&["models", "rm", "founding:2"]).contains("founding"));
    assert!(server.fails(&["models", "rm", "founding"]).contains("founding"));
    server.wattle(&["models", "rm", "founding:3"]);
    assert_eq!(server.json(&["models", "list"])[0]["versions"], json!([1, 2]));
    server.import_founding();
    assert_eq!(server.json(&["models", "list"])[0]["versions"], json!([1, 2, 4]));
    server.wattle(&["undeploy", "founding"]);
    server.wattle(&["models", "rm", "founding"]);
    assert_eq!(server.json(&["models", "list"]), json!([]));
    assert_eq!(server.json(&["gc"])["blobs"], 1);
    assert_eq!(server.json(&["gc"]), json!({"blobs": 0, "bytes": 0}));
}

#[test]
fn a_file_that_is_no_model_is_refused_and_leaves_nothing() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let text = file(&folder, "model.onnx", "this is not a model");
    assert!(server.fails(&["models", "import", "--name", "m", &text]).contains("not a usable ONNX model"));
    assert!(server.fails(&["models", "import", "--name", "m", "--coef", &text]).contains("not a usable NumPy file"));
    assert!(server.fails(&["models", "import", "--name", "m", "nowhere.onnx"]).contains("cannot open nowhere.onnx"));
    assert_eq!(server.json(&["models", "list"]), json!([]));
    assert_eq!(server.json(&["gc"])["blobs"], 0);
}

#[test]
fn without_onnx_runtime_the_error_tells_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let server = Server::start_in(&data_dir, &[]);
    server.furnish();
    import_lookup(&server, &[1.0, 2.0]);
    server.wattle(&["deploy", "lookup"]);
    server.terminate();
    let missing = folder.path().join("libonnxruntime.so");
    let mut launcher = command();
    launcher.env("ORT_DYLIB_PATH", &missing);
    let server = Server::spawn(launcher, &data_dir, &[]);
    let call = |model: &str, body| crate::support::post(&format!("{}/models/{model}/predict", server.url), &body);
    let answer = call("lookup", json!({"index": [1]}));
    assert_eq!(answer.status, 503, "{}", answer.text);
    for told in [answer.text, server.fails(&words("models import --name m --coef examples/model.npy"))] {
        assert!(told.contains(missing.to_str().unwrap()) && told.contains("ORT_DYLIB_PATH"), "{told}");
    }
    // A linear model is trained and called without it.
    server.wattle(&words("train --algorithm linear-regression --data examples/line.csv --target y"));
    assert_eq!(call("founding", json!({"x": [1.0]})).json(), json!({"y_pred": [[3.0]]}));
}
