//! `wattle data`.

use serde_json::{Value, json};

use crate::support::{Server, example, file, root, words};

#[test]
fn a_table_is_added_listed_shown_and_removed() {
    let server = Server::start();
    assert_eq!(server.json(&["data", "list"]), json!([]));
    assert!(server.wattle(&["data", "list"]).contains("wattle data add"));
    let added = server.json(&["data", "add", "penguins", &example("penguins.csv")]);
    assert_eq!((&added["rows"], &added["source"]), (&json!(344), &json!("penguins.csv")));
    let column = |name: &str| {
        let columns = added["schema"]["columns"].as_array().unwrap();
        columns.iter().find(|column| column["name"] == name).unwrap().clone()
    };
    assert_eq!(column("body_mass_g")["kind"], "number");
    assert_eq!(
        (&column("body_mass_g")["missing"], &column("body_mass_g")["range"]),
        (&json!(2), &json!([2700., 6300.]))
    );
    assert_eq!((&column("sex")["kind"], &column("sex")["missing"]), (&json!("category"), &json!(11)));
    assert_eq!(column("island")["distinct"], 3);

    assert_eq!(server.json(&["data", "show", "penguins"]), added);
    assert_eq!(server.json(&["data", "list"]), json!([added]));
    let shown = server.wattle(&["data", "show", "penguins"]);
    let line = shown.lines().find(|line| line.starts_with("body_mass_g")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["body_mass_g", "number", "2", "2700", "to", "6300"]);
    server.wattle(&["data", "rm", "penguins"]);
    assert_eq!(server.json(&["data", "list"]), json!([]));
    assert!(server.fails(&["data", "show", "penguins"]).contains("there is none yet"));
}

#[test]
fn the_same_table_has_the_same_digest_whatever_its_format() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(example("penguins.csv")).unwrap();
    let digest = |name: &str, file: &str| server.json(&["data", "add", name, file])["digest"].clone();
    let expected = digest("comma", &example("penguins.csv"));
    let semicolons = text.replace(',', ";");
    let lines = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    assert_eq!(digest("semicolon", &file(&folder, "semicolon.csv", semicolons)), expected);
    assert_eq!(digest("bom", &file(&folder, "bom.csv", lines)), expected);
    // What the store made of it is a Parquet file, which comes in again as itself.
    let hex = expected.as_str().unwrap().trim_start_matches("sha256:");
    let blob = server.data_dir().join("blobs/sha256").join(hex);
    assert_eq!(digest("parquet", blob.to_str().unwrap()), expected);
}

#[test]
fn a_name_that_is_taken_is_kept_unless_it_is_to_be_replaced() {
    let server = Server::start();
    let first = server.json(&["data", "add", "table", &example("line.csv")]);
    assert_eq!(server.json(&["data", "add", "table", &example("line.csv")])["digest"], first["digest"]);
    let refusal = server.fails(&["data", "add", "table", &example("diabetes.csv")]);
    assert!(refusal.contains("is taken by other data (line.csv, 200 rows)"), "{refusal}");
    assert!(refusal.contains("--replace"), "{refusal}");
    assert_eq!(server.json(&["data", "show", "table"]), first);
    let second = server.json(&["data", "add", "table", &example("diabetes.csv"), "--replace"]);
    assert_eq!((&second["rows"], server.json(&["data", "show", "table"])), (&json!(442), second.clone()));
    // The first one's bytes go, and only those.
    assert_eq!(server.json(&["gc"])["blobs"], 1);
    assert_eq!(server.json(&["gc"])["blobs"], 0);
    server.wattle(&["train", "--algorithm", "linear-regression", "--data", "table", "--target", "target"]);
}

#[test]
fn a_person_may_know_better_than_the_inference() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let table = file(&folder, "shops.csv", "zip|price|size\n01234|1.5|-999\n99999|oops|3\n");
    let added = server.json(&words(&format!(
        "data add shops {table} --column zip=category --missing -999 --missing oops --delimiter |"
    )));
    let kinds: Vec<(&Value, &Value)> = added["schema"]["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (&column["kind"], &column["missing"]))
        .collect();
    let (category, number) = (json!("category"), json!("number"));
    assert_eq!(kinds, [(&category, &json!(0)), (&number, &json!(1)), (&number, &json!(1))]);
    let refusal = server.fails(&["data", "add", "other", &table, "--column", "zipp=category"]);
    assert!(refusal.contains("did you mean \"zip\"?"), "{refusal}");
    let refusal = server.fails(&["data", "add", "other", &table, "--column", "zip=text"]);
    assert!(refusal.contains("a column is a number or a category"), "{refusal}");
    let refusal = server.fails(&["data", "add", "other", &table, "--column", "price=number"]);
    assert!(refusal.contains("line 3") && refusal.contains("\"oops\""), "{refusal}");
}

#[test]
fn a_bad_cell_in_a_column_of_numbers_is_told_and_the_data_is_added() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let table = file(&folder, "slip.csv", format!("a,b\n1,2..5\n{}", "3,4.5\n".repeat(20)));
    let output = server.run(&["data", "add", "slip", &table, "-o", "json"]);
    let added: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("warning: column \"b\": 20 of 21 values are numbers, but line 2 has \"2..5\""), "{told}");
    assert_eq!(added["warnings"].as_array().unwrap().len(), 1);
    // They are about the file, not about the data set.
    assert_eq!(server.json(&["data", "show", "slip"])["warnings"], Value::Null);
    let meant = server.json(&["data", "add", "meant", &table, "--column", "b=category"]);
    assert_eq!((&meant["warnings"], &meant["digest"]), (&Value::Null, &added["digest"]));
}

#[test]
fn the_standard_input_is_a_file_too() {
    let server = Server::start();
    let table = std::fs::read(example("line.csv")).unwrap();
    let output = server.run_with_input(&["data", "add", "piped", "-", "-o", "json"], &table);
    let added: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(added["rows"], 200);
    assert_eq!(server.json(&["data", "add", "line", &example("line.csv")])["digest"], added["digest"]);
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let server = Server::start();
    assert!(server.fails(&["data", "add", "x", "nowhere.csv"]).contains("cannot open nowhere.csv"));
    assert!(server.fails(&["data", "add", "x", root().to_str().unwrap()]).contains("is a folder"));
    assert!(server.fails(&["data", "add", "../x", &example("line.csv")]).contains("invalid name"));
    let error: Value = serde_json::from_str(&server.fails(&["data", "show", "x", "-o", "json"])).unwrap();
    assert!(error["error"].as_str().unwrap().contains("x"), "{error}");
}
