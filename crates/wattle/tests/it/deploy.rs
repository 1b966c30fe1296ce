//! `wattle deploy`, `wattle ps`, `wattle undeploy`, `wattle predict`, and a server that is not there.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Server, command, example, nobody, post};

#[test]
fn a_deployment_keeps_its_version_until_it_is_deployed_again() {
    let server = Server::start();
    server.import_founding();
    let (coef, name) = (example("model.npy"), "founding");
    server.wattle(&["models", "import", "--name", name, "--coef", &coef]);
    server.wattle(&["models", "alias", "founding:1", "champion"]);
    let deployed = server.json(&["deploy", "founding@champion", "--name", "line"]);
    assert_eq!((&deployed["version"], &deployed["reference"]), (&json!(1), &json!("founding@champion")));
    let answer = || post(&format!("{}/predict", server.url), &json!({"x": [1.0]}));
    assert_eq!(
        (answer().json(), answer().header("x-wattle-model").to_owned()),
        (json!({"y_pred": [[3.0]]}), "founding:1".into())
    );
    server.wattle(&["models", "alias", "founding:2", "champion"]);
    assert_eq!(answer().json(), json!({"y_pred": [[3.0]]}));
    server.wattle(&["deploy", "founding@champion", "--name", "line"]);
    assert_eq!(
        (answer().json(), answer().header("x-wattle-model").to_owned()),
        (json!({"y_pred": [[2.0]]}), "founding:2".into())
    );

    let listed = server.json(&["ps"]);
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["name"], &listed[0]["loaded"]),
        (1, &json!("line"), &json!(true))
    );
    // The version that answers now has answered two.
    assert_eq!(listed[0]["requests"], 2);
    assert!(server.wattle(&["ps"]).contains("founding:2"));
    server.wattle(&["undeploy", "line"]);
    assert!(server.wattle(&["ps"]).contains("nothing is deployed"));
    assert_eq!(answer().status, 404);
    assert!(server.fails(&["undeploy", "line"]).contains("line"));
    assert!(server.fails(&["deploy", "fonding"]).contains("founding"));
}

#[test]
fn deployments_survive_a_restart_and_load_on_first_use() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_in(&folder.path().join("data"), &[]);
    server.furnish();
    server.wattle(&["deploy", "diabetes", "--name", "second", "--default"]);
    let before: Vec<Value> = server
        .json(&["ps"])
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["name"], one["model"], one["version"], one["default"], one["created_at"]]))
        .collect();
    server.terminate();
    let server = Server::start_in(&folder.path().join("data"), &[]);
    let listed = server.json(&["ps"]);
    let after: Vec<Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| json!([one["name"], one["model"], one["version"], one["default"], one["created_at"]]))
        .collect();
    assert_eq!(after, before);
    assert!(listed.as_array().unwrap().iter().all(|one| one["loaded"] == false));
    let row = json!({"bmi": 30.5, "bp": 93.0, "s5": 4.6});
    let answers =
        ["/predict", "/models/diabetes/predict"].map(|path| post(&format!("{}{path}", server.url), &row).json());
    assert_eq!(answers[0], answers[1]);
    let loaded: Vec<Value> = server.json(&["ps"]).as_array().unwrap().iter().map(|one| one["loaded"].clone()).collect();
    assert_eq!(loaded, [true, false, false, true].map(Value::from));
}

#[test]
fn predict_takes_json_files_the_standard_input_and_tables() {
    let server = Server::start_furnished();
    let folder = tempfile::tempdir().unwrap();
    let body = r#"{"x": [1.0, 2.0]}"#;
    let expected = json!({"y_pred": [[3.0], [5.0]]});
    let told = server.json(&["predict", "founding", "--json", body]);
    assert_eq!((&told["outputs"], &told["cost"]["calls"]), (&expected, &json!(1)));
    let cost = |key: &str| told["cost"][key].as_f64().unwrap();
    assert!(cost("cpu_seconds") > 0.0 && cost("energy_joules_low") <= cost("energy_joules"), "{told}");
    assert!(cost("energy_joules") <= cost("energy_joules_high") && told["cost"]["energy_label"].is_string(), "{told}");
    let path = crate::support::file(&folder, "body.json", body);
    assert_eq!(server.json(&["predict", "founding", "--json", &path])["outputs"], expected);
    let piped = server.run_with_input(&["predict", "founding", "--json", "-"], body.as_bytes());
    assert_eq!(serde_json::from_slice::<Value>(&piped.stdout).unwrap(), expected);
    let note = String::from_utf8(piped.stderr).unwrap();
    assert!(note.contains("1 call:") && note.contains("J ("), "{note}");

    // A table may have columns that the model does not take, and gaps.
    let csv = server.wattle(&["predict", "penguins", "--csv", &example("penguins.csv")]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!((lines[0], lines.len()), ("y_pred,probabilities_0,probabilities_1,probabilities_2", 345));
    assert!(lines[1].starts_with("Adelie,"), "{}", lines[1]);
    let piped =
        server.run_with_input(&["predict", "penguins", "--csv", "-"], &fs::read(example("penguins.csv")).unwrap());
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), csv);
    let output = server.run(&["predict", "penguins", "--csv", &example("penguins.csv"), "-o", "json"]);
    let objects = String::from_utf8(output.stdout).unwrap();
    let first: Value = serde_json::from_str(objects.lines().next().unwrap()).unwrap();
    assert_eq!((&first["y_pred"][0], objects.lines().count()), (&json!("Adelie"), 344));
    let cost: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(cost["cost"]["calls"], 1);

    assert!(server.fails(&["predict", "founding", "--json", "{\"y\": [1]}"]).contains("unknown column \"y\""));
    assert!(server.fails(&["predict", "founding", "--json", "{"]).contains("not JSON"));
    assert!(server.fails(&["predict", "founding", "--json", "nowhere.json"]).contains("cannot open nowhere.json"));
    assert!(server.fails(&["predict", "fonding", "--json", body]).contains("did you mean founding?"));
    for table in ["penguins.csv", "line.csv"] {
        let refusal = server.fails(&["predict", "diabetes", "--csv", &example(table)]);
        assert!(refusal.contains(&format!("{table}: there is no column \"bmi\"")), "{refusal}");
    }
    assert!(server.fails(&["predict", "diabetes", "--csv", "nowhere.csv"]).contains("cannot open nowhere.csv"));
    assert!(server.fails(&["predict", "diabetes", "--csv", "."]).contains("it is a folder"));
}

#[test]
fn a_table_is_answered_as_the_table_of_the_training_was_read() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    // The target is the same whether the number is missing or not, but for the category.
    let rows: String = (0..200)
        .map(|i| {
            let size = if i % 5 == 0 { "-999".to_owned() } else { format!("{}", i % 7) };
            let zip = ["0123", "-999", "77"][i % 3];
            format!("{size};{zip};{}\n", if i % 5 == 0 { 3.0 } else { (i % 7) as f64 })
        })
        .collect();
    let table = crate::support::file(&folder, "shops.csv", format!("size;zip;price\n{rows}"));
    let added = server.json(&["data", "add", "shops", &table, "--column", "zip=category", "--missing=-999"]);
    assert_eq!(added["reading"]["missing"], json!(["-999"]));
    assert!(server.wattle(&["data", "show", "shops"]).contains("--column zip=category --missing -999"));
    server.wattle(&["train", "--algorithm=linear-regression", "--data=shops", "--target=price", "--name=shops"]);
    let version = server.json(&["models", "show", "shops"]);
    assert_eq!(version["data"]["reading"], added["reading"]);
    server.wattle(&["deploy", "shops"]);

    let asked = json!({"size": [3.5, null, null], "zip": ["0123", null, "77"]});
    let expected = post(&format!("{}/predict", server.url), &asked).json()["y_pred"].clone();
    let answers = |text: &str, further: &[&str]| -> Vec<f64> {
        let table = crate::support::file(&folder, "asked.csv", text);
        let csv = server.wattle(&[&["predict", "shops", "--csv", &table], further].concat());
        csv.lines().skip(1).map(|line| line.parse().unwrap()).collect()
    };
    let expected: Vec<f64> = expected.as_array().unwrap().iter().map(|row| row[0].as_f64().unwrap()).collect();
    assert!(expected.iter().all(|price| (0.0..10.0).contains(price)), "{expected:?}");
    assert_eq!(answers("zip;size\n0123;3.5\n-999;-999\n77;\n", &[]), expected);
    assert_eq!(answers("zip|size\n0123|3.5\n-|-\n77|-999\n", &["--missing", "-"]), expected);
    let odd = "zip,size,note\n0123,3.5,a|b|c|d|e\n,-999,\n77,?,\n";
    assert_eq!(answers(odd, &["--delimiter", ","]), expected);
    // A Parquet file has its own way to say so, and the marks beside it.
    let parquet = server.data_dir().join("blobs/sha256").join(added["digest"].as_str().unwrap().replace("sha256:", ""));
    let all = server.wattle(&["predict", "shops", "--csv", parquet.to_str().unwrap()]);
    assert_eq!(all, server.wattle(&["predict", "shops", "--csv", &table]));
    assert_eq!(all.lines().count(), 201);
}

#[test]
fn what_is_removed_is_told_to_scripts_too() {
    let server = Server::start_furnished();
    server.wattle(&["models", "alias", "founding:1", "champion"]);
    assert!(server.wattle(&["models", "show", "founding"]).contains("@champion=1"));
    for (arguments, removed) in [
        (&["models", "alias", "founding", "champion", "--remove"][..], "founding@champion"),
        (&["undeploy", "founding"], "founding"),
        (&["models", "rm", "founding:1"], "founding:1"),
        (&["data", "rm", "penguins"], "penguins"),
    ] {
        assert_eq!(server.json(arguments), json!({ "removed": removed }));
    }
}

#[test]
fn limits_that_no_machine_has_are_refused() {
    for (flag, value) in [
        ("--max-waiting", "18446744073709551615"),
        ("--max-computing", "0"),
        ("--max-training", "0"),
        ("--max-body-bytes", "18446744073709551615"),
        ("--max-upload-bytes", "18446744073709551615"),
        ("--grace-seconds", "18446744073709551615"),
    ] {
        let output = command().args(["serve", flag, value]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(&format!("'{flag}")), "{error}");
    }
}

#[test]
fn a_body_over_the_limit_is_told_to_the_caller() {
    let server = Server::start_with(&["--max-body-bytes", "100000"]);
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let folder = tempfile::tempdir().unwrap();
    let body = json!({"x": vec![1.25; 1_000_000]}).to_string();
    let refusal = server.fails(&["predict", "founding", "--json", &crate::support::file(&folder, "body.json", body)]);
    assert!(refusal.contains("--max-body-bytes"), "{refusal}");
}

#[test]
fn an_upload_over_the_limit_is_told_to_the_caller() {
    let server = Server::start_with(&["--max-upload-bytes", "100000"]);
    let folder = tempfile::tempdir().unwrap();
    let table = crate::support::file(&folder, "table.csv", format!("a,b\n{}", "1,2\n".repeat(2_000_000)));
    for arguments in [["data", "add", "table", &table], ["models", "import", "--name=table", &table]] {
        let refusal = server.fails(&arguments);
        assert!(refusal.contains("--max-upload-bytes"), "{refusal}");
    }
}

#[test]
fn without_a_server_every_command_says_how_to_start_one() {
    let url = nobody();
    let data = example("line.csv");
    let commands: [&[&str]; 7] = [
        &["ps"],
        &["data", "list"],
        &["data", "add", "line", &data],
        &["train", "--algorithm", "linear-regression", "--data", &data, "--target", "y"],
        &["deploy", "line"],
        &["predict", "line", "--json", "{\"x\": [1]}"],
        &["usage"],
    ];
    for arguments in commands {
        let output = command().env("WATTLE_URL", &url).args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let expected = format!("error: no server answers at {url}: start one with `wattle serve`");
        assert!(error.starts_with(&expected), "{arguments:?}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    }
    let output = command().args(["ps", "--url", "ftp://127.0.0.1", "-o", "json"]).output().unwrap();
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("http://"), "{error}");
}
