//! Whole training jobs, from a table to a model's file.

#![allow(clippy::unwrap_used)]

mod common;

use std::{fmt::Write, fs, ops::ControlFlow};

use common::{fitted, spec, table, trained};
use serde_json::{Value, json};
use tempfile::tempdir;
use wattle_core::Datatype;
use wattle_engine::{
    Data, Tensor,
    onnx::{OnnxModel, inspect},
};
use wattle_train::{
    Error,
    events::{Progress, Stage},
    fit::{MODEL_FILE, fit},
};

/// y = 2x + 1, with a noise that a linear model cannot learn.
fn line(rows: usize) -> String {
    let mut csv = "x,y\n".to_owned();
    for row in 0..rows {
        let x = row as f64 / 10.0;
        let noise = [0.01, -0.01, -0.01, 0.01][row % 4];
        writeln!(csv, "{x},{}", 2.0 * x + 1.0 + noise).unwrap();
    }
    csv
}

/// A wide table of several kinds of columns, from a generator that is as good as it must be.
fn penguins(rows: usize) -> String {
    let mut csv = "mass,island,bill,species,chick\n".to_owned();
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    for row in 0..rows {
        let species = row % 3;
        let mass = 3.0 + species as f64 + next();
        let bill = if next() < 0.1 { String::new() } else { format!("{:.3}", 40.0 + 5.0 * next() * species as f64) };
        let island = ["Biscoe", "Dream", "Torgersen", ""][(next() * 4.0) as usize];
        let name = ["Adelie", "Chinstrap", "Gentoo"][species];
        writeln!(csv, "{mass:.4},{island},{bill},{name},{}", u8::from(next() < mass / 8.0)).unwrap();
    }
    csv
}

#[test]
fn the_founding_example_learns_slope_and_intercept() {
    let folder = tempdir().unwrap();
    let table = table(folder.path(), &line(200));
    for optimizer in [
        json!({}),
        json!({"optimizer": "gd", "learning-rate": 0.01, "iterations": 1000}),
        json!({"optimizer": "sgd", "epochs": 200, "batch-size": 16, "schedule": "cosine"}),
    ] {
        let mut keys = json!({"algorithm": "linear-regression", "target": "y"});
        keys.as_object_mut().unwrap().extend(optimizer.as_object().unwrap().clone());
        let artefact = fitted(&table, keys, folder.path()).unwrap();
        let metrics = &artefact.metrics;
        let slope = metrics["coefficients"]["x"].as_f64().unwrap();
        let intercept = metrics["intercept"].as_f64().unwrap();
        assert!((slope - 2.0).abs() < 1e-3 && (intercept - 1.0).abs() < 1e-2, "{optimizer}: {metrics}");
        assert!(metrics["held_out"]["r2"].as_f64().unwrap() > 0.9999, "{optimizer}: {metrics}");
        assert_eq!(metrics["rows"].as_u64().unwrap() + metrics["held_out_rows"].as_u64().unwrap(), 200);

        let model = OnnxModel::load(&folder.path().join(MODEL_FILE), 1).unwrap();
        let outputs = model.run(&[Tensor::new("x", vec![2, 1], Data::Fp64(vec![1.0, -3.0].into())).unwrap()]).unwrap();
        let Data::Fp64(values) = &outputs[0].data else { panic!("{outputs:?}") };
        assert!((values[0] - 3.0).abs() < 0.02 && (values[1] + 5.0).abs() < 0.02, "{values:?}");
    }
}

#[test]
fn a_table_with_categories_and_gaps_becomes_a_classifier() {
    let folder = tempdir().unwrap();
    let table = table(folder.path(), &penguins(600));
    let keys =
        json!({"algorithm": "logistic-regression", "target": "species", "class-weights": "balanced", "l2": 1e-3});
    let artefact = fitted(&table, keys, folder.path()).unwrap();
    let metrics = &artefact.metrics;
    assert_eq!(metrics["classes"], json!(["Adelie", "Chinstrap", "Gentoo"]));
    assert!(metrics["held_out"]["roc_auc"].as_f64().unwrap() > 0.95, "{metrics}");
    assert!(metrics["coefficients"]["Gentoo"]["mass"].as_f64().unwrap() > 0.0);

    // What the file itself says agrees with the signature, but for the gaps, of which a graph says nothing.
    let signature = inspect(&folder.path().join(MODEL_FILE)).unwrap().signature;
    let missing: Vec<bool> = artefact.signature.inputs.iter().map(|spec| spec.missing).collect();
    assert_eq!(missing, [false, true, true, false]);
    let types = |signature: &wattle_core::Signature| -> Vec<(String, Datatype, Vec<i64>)> {
        let specs = signature.inputs.iter().chain(&signature.outputs);
        specs.map(|spec| (spec.name.clone(), spec.datatype, spec.shape.clone())).collect()
    };
    assert_eq!(types(&signature), types(&artefact.signature));
    assert_eq!(artefact.signature.outputs[0].datatype, Datatype::Bytes);
}

#[test]
fn a_target_of_noughts_and_ones_is_binary_and_answers_with_numbers() {
    let folder = tempdir().unwrap();
    let table = table(folder.path(), &penguins(500));
    let keys = json!({"algorithm": "logistic-regression", "target": "chick", "features": ["mass"]});
    let artefact = fitted(&table, keys, folder.path()).unwrap();
    assert_eq!(artefact.metrics["classes"], json!(["0", "1"]));
    assert_eq!(artefact.signature.outputs[0].datatype, Datatype::Fp64);
    assert_eq!(artefact.signature.outputs[1].shape, [-1, 2]);
    let probability = artefact.metrics["coefficients"]["mass"].as_f64().unwrap();
    assert!(probability > 0.0, "{}", artefact.metrics);
}

#[test]
fn threads_and_memory_do_not_change_a_bit_and_the_seed_does() {
    let folder = tempdir().unwrap();
    let table = table(folder.path(), &penguins(12_000));
    let model = |keys: &Value, more: Value| {
        let mut keys = keys.clone();
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fitted(&table, keys, folder.path()).unwrap();
        fs::read(folder.path().join(MODEL_FILE)).unwrap()
    };
    for keys in [
        json!({"algorithm": "logistic-regression", "target": "species", "iterations": 12, "early-stopping": 3}),
        json!({"algorithm": "linear-regression", "target": "mass", "optimizer": "sgd", "epochs": 2, "l1": 1e-3}),
    ] {
        let one = model(&keys, json!({"threads": 1}));
        assert_eq!(one, model(&keys, json!({"threads": 2})), "{keys}");
        assert_eq!(one, model(&keys, json!({"threads": 2, "memory": 0})), "{keys}");
        assert_ne!(one, model(&keys, json!({"seed": 1})), "{keys}");
    }
}

#[test]
fn what_the_data_does_not_allow_is_told() {
    let folder = tempdir().unwrap();
    let refusal = |csv: &str, keys: Value| {
        let mut all = json!({"algorithm": "linear-regression", "target": "y"});
        all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        match fitted(&table(folder.path(), csv), all, folder.path()) {
            Err(error @ (Error::Invalid(_) | Error::Diverged { .. })) => error.to_string(),
            other => panic!("{csv:?}: {other:?}"),
        }
    };
    let logistic = || json!({"algorithm": "logistic-regression"});
    let many: String = (0..2000).fold("x,y\n".into(), |csv, row| format!("{csv}c{row},{row}\n"));
    for (csv, keys, words) in [
        ("x,z\n1,2\n", json!({}), "no column \"y\""),
        ("x,yy\n1,2\n", json!({}), "did you mean \"yy\"?"),
        ("x,y\n1,2\n2,3\n", json!({"features": ["xx"]}), "did you mean \"x\"?"),
        ("y\n1\n2\n", json!({}), "no column but the target"),
        ("x,y\n1,\n2,\n", json!({}), "no value in any row"),
        ("x,y\n1,3\n2,3\n", json!({}), "3 in every row"),
        ("x,y\n1,a\n2,b\n", json!({}), "use logistic-regression"),
        ("x,y\n1,a\n2,a\n", logistic(), "at least two classes"),
        ("x,y\n,1\n,2\n", json!({}), "no column but the target has a value"),
        ("x,y\n,1\n,2\n", json!({"features": ["x"]}), "\"x\" has no value"),
        ("y_pred,y\n1,2\n3,4\n", json!({}), "name of a model's output"),
        (&many, json!({}), "more than 1000 categories"),
        (&many, logistic(), "more than 1000 classes: use linear-regression"),
        ("x,y\n1,1\n1e200,2\n-1e200,3\n", json!({"validation": 0}), "too large"),
        ("x,y\n1,1e200\n2,2\n", json!({}), "beyond 1e150"),
        ("x,y\n1,a\n2,b\n", json!({"algorithm": "logistic-regression", "class-weights": {"c": 2}}), "unknown class"),
        (&line(500), json!({"optimizer": "gd", "standardize": false, "learning-rate": 1e3}), "lower the learning rate"),
    ] {
        let message = refusal(csv, keys.clone());
        assert!(message.contains(words), "{keys}: {message}");
    }
}

#[test]
fn rows_without_a_target_are_skipped_and_columns_without_a_value_dropped() {
    let folder = tempdir().unwrap();
    let csv = "x,nothing,y\n1,,3\n2,,\n3,,7\n4,,9\n5,,\n6,,13\n";
    let table = table(folder.path(), csv);
    let artefact =
        fitted(&table, json!({"algorithm": "linear-regression", "target": "y", "validation": 0}), folder.path())
            .unwrap();
    let metrics = &artefact.metrics;
    assert_eq!(
        (&metrics["rows"], &metrics["held_out_rows"], &metrics["skipped_rows"]),
        (&4.into(), &0.into(), &2.into())
    );
    assert_eq!(metrics["dropped_features"], json!(["nothing"]));
    assert_eq!(metrics["held_out"], Value::Null);
    assert_eq!(artefact.signature.inputs.len(), 1);
    assert!((metrics["coefficients"]["x"].as_f64().unwrap() - 2.0).abs() < 1e-6, "{metrics}");
}

#[test]
fn even_two_rows_are_split_and_no_class_is_held_out_whole() {
    let folder = tempdir().unwrap();
    for seed in 0..20 {
        let rows = table(folder.path(), "x,y\n1,3\n2,5\n");
        let keys = json!({"algorithm": "linear-regression", "target": "y", "validation": 0.5, "seed": seed});
        let metrics = trained(&rows, keys, folder.path()).unwrap().metrics;
        assert_eq!((&metrics["rows"], &metrics["held_out_rows"]), (&1.into(), &1.into()), "seed {seed}");

        let rows = table(folder.path(), "x,y\n1,a\n2,a\n3,a\n4,a\n5,rare\n6,a\n");
        let keys =
            json!({"algorithm": "logistic-regression", "target": "y", "validation": 0.5, "seed": seed, "l2": 0.1});
        let metrics = trained(&rows, keys, folder.path()).unwrap().metrics;
        assert_eq!(metrics["train"]["classes"][1]["support"], 1, "seed {seed}");
    }
}

#[test]
fn a_column_of_numbers_is_not_taken_for_hundreds_of_classes() {
    let folder = tempdir().unwrap();
    let keys = json!({"algorithm": "logistic-regression", "target": "y"});
    let error = trained(&table(folder.path(), &line(200)), keys, folder.path()).unwrap_err().to_string();
    assert!(error.contains("200 different values in 200 rows") && error.contains("linear-regression"), "{error}");
}

#[test]
fn a_model_without_an_intercept_goes_through_the_origin() {
    let folder = tempdir().unwrap();
    let rows: String = (1..=100).fold("x,same,y\n".into(), |csv, x| format!("{csv}{x},0,{}\n", 2 * x));
    for standardize in [true, false] {
        let keys =
            json!({"algorithm": "linear-regression", "target": "y", "intercept": false, "standardize": standardize});
        let metrics = trained(&table(folder.path(), &rows), keys, folder.path()).unwrap().metrics;
        let slope = metrics["coefficients"]["x"].as_f64().unwrap();
        assert!((slope - 2.0).abs() < 1e-6, "{metrics}");
        assert_eq!(metrics["intercept"].as_f64(), Some(0.0), "{metrics}");
    }
}

#[test]
fn a_constant_column_has_no_say() {
    let folder = tempdir().unwrap();
    let rows: String = (0..50).fold("x,same,y\n".into(), |csv, x| format!("{csv}{x},0.1,{}\n", 2 * x + 1));
    let trained =
        trained(&table(folder.path(), &rows), json!({"algorithm": "linear-regression", "target": "y"}), folder.path())
            .unwrap();
    assert_eq!(trained.metrics["coefficients"]["same"], 0.0);
}

#[test]
fn the_observer_sees_the_stages_in_order_and_may_break_off() {
    let folder = tempdir().unwrap();
    let table = table(folder.path(), &penguins(300));
    let spec = spec(json!({"algorithm": "logistic-regression", "target": "species"}));
    let mut seen: Vec<Progress> = Vec::new();
    fit(&table, &spec, folder.path(), &mut |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    let mut stages: Vec<Stage> = seen.iter().map(|progress| progress.stage).collect();
    stages.dedup();
    assert_eq!(stages, [Stage::Reading, Stage::Fitting, Stage::Evaluating, Stage::Writing]);
    assert!(seen.iter().all(|progress| progress.iteration <= progress.of));
    let last_read = seen.iter().rfind(|progress| progress.stage == Stage::Reading).unwrap();
    assert_eq!((last_read.iteration, last_read.of), (900, 900));

    for stage in stages {
        fs::remove_file(folder.path().join(MODEL_FILE)).ok();
        let outcome = fit(&table, &spec, folder.path(), &mut |progress| {
            if progress.stage == stage { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(outcome, Err(Error::Cancelled)), "{stage:?}");
        assert!(!folder.path().join(MODEL_FILE).exists());
    }
}
