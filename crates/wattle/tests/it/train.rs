//! `wattle train`.

use std::fs;

use serde_json::json;

use crate::support::{Server, example, file, root, words};

#[test]
fn flags_a_job_file_and_the_api_ask_for_the_same() {
    let server = Server::start();
    let flags = server.json(&words(
        "train --algorithm logistic-regression --data examples/penguins.csv --target species --features
             island,body_mass_g,sex --name penguins --optimizer sgd --learning-rate 0.05 --momentum 0.5
             --schedule cosine --batch-size 16 --epochs 7 --l2 0.001 --class-weights Adelie=1,Gentoo=2
             --validation 0.25 --seed 5 --threads 1 --memory 64MiB",
    ));
    assert_eq!((&flags["state"], &flags["result"]), (&json!("succeeded"), &json!({"model": "penguins", "version": 1})));
    let folder = tempfile::tempdir().unwrap();
    let job = r#"
        algorithm = "logistic-regression"
        data = "penguins"
        target = "species"
        features = ["island", "body_mass_g", "sex"]
        name = "penguins"
        optimizer = "sgd"
        learning-rate = 0.05
        momentum = 0.5
        schedule = "cosine"
        batch-size = 16
        epochs = 9
        l2 = 0.001
        validation = 0.25
        seed = 5
        threads = 1
        memory = "64MiB"
        [class-weights]
        Adelie = 1
        Gentoo = 2
    "#;
    // A flag that is given as well wins.
    let from_file = server.json(&["train", &file(&folder, "job.toml", job), "--epochs", "7"]);
    assert_eq!(from_file["result"]["version"], 2);
    let posted = crate::support::post(&format!("{}/api/v1/training-jobs", server.url), &from_file["spec"]);
    assert_eq!(posted.status, 201, "{}", posted.text);
    server.json(&["jobs", "follow", posted.json()["id"].as_str().unwrap()]);
    let versions = [1, 2, 3].map(|version| server.json(&["models", "show", &format!("penguins:{version}")]));
    assert_eq!(versions[0]["digest"], versions[1]["digest"]);
    assert_eq!(versions[0]["digest"], versions[2]["digest"]);
    assert_eq!(versions[0]["parameters"], versions[1]["parameters"]);
    assert_eq!(versions[0]["parameters"]["optimizer"]["sgd"]["epochs"], 7, "{}", versions[0]["parameters"]);
}

#[test]
fn a_file_is_added_on_the_way_under_its_own_name() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let train =
        |path: &str| server.json(&["train", "--algorithm", "linear-regression", "--data", path, "--target", "y"]);
    let table = file(&folder, "my table (1).csv", fs::read(example("line.csv")).unwrap());
    let job = train(&table);
    assert_eq!((&job["spec"]["data"], &job["model"]), (&json!("my-table--1"), &json!("my-table--1-linear-regression")));
    // The same again is the same data set; other rows under the name get another name.
    assert_eq!(train(&table)["spec"]["data"], "my-table--1");
    fs::write(&table, "x,y\n1,2\n2,4.5\n3,6\n4,8\n5,10\n").unwrap();
    let other = train(&table)["spec"]["data"].as_str().unwrap().to_owned();
    assert!(other.starts_with("my-table--1-"), "{other}");
    assert_eq!(server.json(&["data", "list"]).as_array().unwrap().len(), 2);
    // A name that is a data set means it, wherever the command runs.
    assert_eq!(train("my-table--1")["data"], json!(null));
    assert!(
        server
            .fails(&["train", "--algorithm", "linear-regression", "--data", "nowhere.csv", "--target", "y"])
            .contains("there is no file nowhere.csv")
    );
}

#[test]
fn the_jobs_in_examples_run_as_they_say() {
    let server = Server::start();
    for table in ["line", "diabetes", "breast_cancer", "penguins"] {
        server.wattle(&["data", "add", table, &example(&format!("{table}.csv"))]);
    }
    let mut count = 0;
    for entry in fs::read_dir(root().join("examples/jobs")).unwrap() {
        let path = entry.unwrap().path();
        let job = server.json(&["train", path.to_str().unwrap()]);
        assert_eq!(job["state"], "succeeded", "{}: {job}", path.display());
        count += 1;
    }
    assert!(count >= 4);
    let held_out = &server.json(&["models", "show", "penguins"])["metrics"]["held_out"];
    assert!(held_out["accuracy"].as_f64().unwrap() > 0.95, "{held_out}");
}

#[test]
fn slips_are_told_before_anything_is_queued() {
    let server = Server::start();
    server.wattle(&["data", "add", "penguins", &example("penguins.csv")]);
    let base = ["train", "--data", "penguins"];
    let refusal = |more: &[&str]| server.fails(&[&base, more].concat());
    let linear = ["--algorithm", "linear-regression"];
    assert!(refusal(&linear).contains("--target is needed"));
    assert!(refusal(&["--target", "species"]).contains("--algorithm is needed"));
    let told = refusal(&[&linear[..], &["--target", "body_mass"]].concat());
    assert!(told.contains("did you mean \"body_mass_g\"?"), "{told}");
    let told = refusal(&[&linear[..], &["--target", "body_mass_g", "--features", "ilsand"]].concat());
    assert!(told.contains("did you mean \"island\"?"), "{told}");
    let told = refusal(&[&linear[..], &["--target", "body_mass_g", "--epochs", "3"]].concat());
    assert!(told.contains("\"epochs\" belongs to sgd"), "{told}");
    let told = refusal(&["--algorithm", "forest", "--target", "species"]);
    assert!(told.contains("linear-regression"), "{told}");
    let told = refusal(&["--algorithm", "logistic-regression", "--target", "species", "--class-weights", "Adelie"]);
    assert!(told.contains("CLASS=WEIGHT"), "{told}");
    for flag in ["--l2=nan", "--tolerance=inf", "--class-weights=Adelie=nan"] {
        let told = refusal(&["--algorithm", "logistic-regression", "--target", "species", flag]);
        assert!(told.contains("finite") || told.contains("CLASS=WEIGHT"), "{told}");
    }
    let nulls = json!({"algorithm": "linear-regression", "data": "penguins", "target": "body_mass_g", "l2": null});
    let told = crate::support::post(&format!("{}/api/v1/training-jobs", server.url), &nulls);
    assert_eq!(told.status, 400, "{}", told.text);
    assert!(told.text.contains("invalid \\\"l2\\\""), "{}", told.text);
    let folder = tempfile::tempdir().unwrap();
    let job = file(
        &folder,
        "job.toml",
        "algorithm = \"linear-regression\"\ndata = \"penguins\"\ntarget = \"year\"\nlearning_rate = 1\n",
    );
    let told = server.fails(&["train", &job]);
    assert!(told.contains("did you mean \"learning-rate\"?"), "{told}");
    // A slip in a key is told first: it may be why another is absent.
    let job = |text: &str| server.fails(&["train", &file(&folder, "job.toml", text)]);
    let told = job("algoritm = \"linear-regression\"\ndata = \"penguins\"\ntarget = \"year\"\n");
    assert!(told.contains("unknown key \"algoritm\": did you mean \"algorithm\"?"), "{told}");
    let right = "algorithm = \"linear-regression\"\ndata = \"penguins\"\ntarget = \"year\"\n";
    let told = job(&format!("{right}seed = \"one\"\n"));
    assert!(told.contains("seed must be a whole number, as in seed = 1"), "{told}");
    let told = job(&format!("{right}iterations = -1\n"));
    assert!(told.contains("iterations must be a whole number that is not negative, as in"), "{told}");
    let told = job(&format!("{right}l2 = nan\n"));
    assert!(told.contains("finite"), "{told}");
    let job = file(&folder, "broken.toml", "algorithm = ");
    let told = server.fails(&["train", &job]);
    assert!(told.contains("broken.toml is not a job file"), "{told}");
    assert_eq!(server.json(&["jobs", "list"]), json!([]));
}

#[test]
fn the_table_for_people_shows_what_was_learnt_and_what_it_cost() {
    let server = Server::start();
    let shown =
        server.wattle(&words("train --algorithm linear-regression --data examples/line.csv --target y --name line"));
    for words in ["line:1", "rmse", "held-out".to_uppercase().as_str(), "estimated", " x\n"] {
        let known = shown.contains(words) || (words == "estimated" && shown.contains("measured"));
        assert!(known, "no {words:?} in {shown}");
    }
}

#[test]
fn a_fit_that_ran_out_of_iterations_says_so() {
    let server = Server::start();
    let train = "train --algorithm linear-regression --data examples/diabetes.csv --target target --name sugar";
    let hint = |more: &str| {
        let shown = server.wattle(&words(&format!("{train} {more}")));
        let metrics = &server.json(&["models", "show", "sugar"])["metrics"];
        assert_eq!(shown.contains("not converged"), metrics["converged"] == json!(false), "{shown}{metrics}");
        shown.lines().find_map(|line| line.strip_prefix("warning").map(|hint| hint.trim().to_owned()))
    };
    assert_eq!(hint(""), None);
    assert_eq!(
        hint("--standardize false --iterations 3").as_deref(),
        Some("not converged within 3 iterations: raise --iterations, or standardise")
    );
    assert_eq!(hint("--iterations 3").as_deref(), Some("not converged within 3 iterations: raise --iterations"));
    // Left alone, raw columns of unlike scale come to the same minimum as standardised ones.
    assert_eq!(hint("--standardize false"), None);
    let r2 = |version: &str| {
        let shown = server.json(&["models", "show", &format!("sugar:{version}")]);
        shown["metrics"]["held_out"]["r2"].as_f64().unwrap()
    };
    assert!((r2("1") - r2("4")).abs() < 1e-6, "{} {}", r2("1"), r2("4"));
}
