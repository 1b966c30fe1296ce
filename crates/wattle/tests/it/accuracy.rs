//! What is learnt from the tables in `examples/`, against what must come out.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::support::{Server, example, root, words};

#[test]
fn linear_regression_is_least_squares() {
    let server = Server::start();
    server.wattle(&words(
        "train --algorithm linear-regression --data examples/diabetes.csv --target target --validation 0
             --name diabetes",
    ));
    let table = Table::read("diabetes.csv", "target");
    let expected = table.least_squares();
    let metrics = &server.json(&["models", "show", "diabetes"])["metrics"];
    let near = |name: &str, value: &Value, expected: f64| {
        let value = value.as_f64().unwrap();
        assert!((value - expected).abs() <= 1e-4 * expected.abs(), "{name}: {value}, and least squares say {expected}");
    };
    near("intercept", &metrics["intercept"], expected[0]);
    assert_eq!(metrics["coefficients"].as_object().unwrap().len(), table.names.len());
    for (name, expected) in table.names.iter().zip(&expected[1..]) {
        near(name, &metrics["coefficients"][name], *expected);
    }

    // What is served is what was learnt.
    server.wattle(&["deploy", "diabetes"]);
    let csv = server.wattle(&["predict", "diabetes", "--csv", &example("diabetes.csv")]);
    let served: Vec<f64> = csv.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    assert_eq!(served.len(), table.rows.len());
    for (row, served) in table.rows.iter().zip(served) {
        let expected = expected[0] + row.iter().zip(&expected[1..]).map(|(value, weight)| value * weight).sum::<f64>();
        assert!((served - expected).abs() <= 1e-4 * expected.abs(), "{served}, and least squares say {expected}");
    }
}

#[test]
fn every_optimiser_finds_the_founding_line() {
    let server = Server::start();
    let table = Table::read("line.csv", "y");
    let expected = table.least_squares();
    for settings in [
        "--optimizer lbfgs",
        "--optimizer gd --learning-rate 0.1 --iterations 2000",
        "--optimizer sgd --learning-rate 0.1 --epochs 200 --schedule cosine --momentum 0.5",
    ] {
        let train =
            "train --algorithm linear-regression --data examples/line.csv --target y --validation 0 --name line";
        server.wattle(&words(&format!("{train} {settings}")));
        let metrics = &server.json(&["models", "show", "line"])["metrics"];
        let (intercept, slope) =
            (metrics["intercept"].as_f64().unwrap(), metrics["coefficients"]["x"].as_f64().unwrap());
        assert!(
            (slope - expected[1]).abs() < 2e-3 && (intercept - expected[0]).abs() < 2e-3,
            "{settings}: {intercept} + {slope} x"
        );
    }
}

#[test]
fn breast_cancer_is_told_apart_on_rows_that_were_held_out() {
    let server = Server::start();
    server.wattle(&["data", "add", "breast_cancer", &example("breast_cancer.csv")]);
    let held_out = |seed: &str| {
        let job = root().join("examples/jobs/breast_cancer.toml");
        server.wattle(&["train", job.to_str().unwrap(), "--seed", seed]);
        let held_out = server.json(&["models", "show", "breast-cancer"])["metrics"]["held_out"].clone();
        assert!(held_out["rows"].as_u64().unwrap() >= 100, "{held_out}");
        // Each row of the confusion matrix is a class, with as many rows as that class has.
        let confusion: Vec<Vec<u64>> = serde_json::from_value(held_out["confusion"].clone()).unwrap();
        for (row, class) in confusion.iter().zip(held_out["classes"].as_array().unwrap()) {
            assert_eq!(row.iter().sum::<u64>(), class["support"].as_u64().unwrap());
        }
        held_out["roc_auc"].as_f64().unwrap()
    };
    // The seed of the example, and the mean over others: a single split of so few rows may be an unlucky one.
    let shown = held_out("1");
    assert!(shown >= 0.99, "{shown}");
    let others: Vec<f64> = ["2", "3", "4", "5", "6"].map(held_out).into();
    assert!(others.iter().sum::<f64>() / others.len() as f64 >= 0.99, "{others:?}");
}

#[test]
fn penguins_with_gaps_and_categories_go_the_whole_way() {
    let server = Server::start();
    server.wattle(&words(
        "train --algorithm logistic-regression --data examples/penguins.csv --target species --l2 0.001
             --name penguins",
    ));
    let shown = server.json(&["models", "show", "penguins"]);
    let inputs: BTreeMap<&str, (&str, bool)> = shown["signature"]["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| {
            (
                input["name"].as_str().unwrap(),
                (input["datatype"].as_str().unwrap(), input["missing"].as_bool().unwrap()),
            )
        })
        .collect();
    assert_eq!(
        (inputs["island"], inputs["sex"], inputs["year"], inputs["body_mass_g"]),
        (("BYTES", false), ("BYTES", true), ("FP64", false), ("FP64", true))
    );
    server.wattle(&["deploy", "penguins"]);
    let csv = server.wattle(&["predict", "penguins", "--csv", &example("penguins.csv")]);
    let table = fs::read_to_string(example("penguins.csv")).unwrap();
    let species =
        |text: &str| text.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect::<Vec<_>>();
    let (answers, truth) = (species(&csv), species(&table));
    let right = answers.iter().zip(&truth).filter(|(answer, truth)| answer == truth).count();
    assert!(right * 100 >= 98 * truth.len(), "{right} of {}", truth.len());
    for line in csv.lines().skip(1) {
        let sum: f64 = line.split(',').skip(1).map(|text| text.parse::<f64>().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{line}");
    }
}

#[test]
fn the_same_seed_makes_the_same_model_whatever_the_number_of_threads() {
    let server = Server::start();
    server.wattle(&["data", "add", "cancer", &example("breast_cancer.csv")]);
    let digest = |optimizer: &str, seed: &str, threads: &str| {
        let job = server.json(&words(&format!(
            "train --algorithm logistic-regression --data cancer --target diagnosis --name cancer --l2 0.001
             --optimizer {optimizer} --seed {seed} --threads {threads}"
        )));
        server.json(&["models", "show", &format!("cancer:{}", job["result"]["version"])])["digest"].clone()
    };
    for optimizer in ["lbfgs", "sgd"] {
        let digests = ["1", "2", "7"].map(|threads| digest(optimizer, "3", threads));
        assert!(digests.iter().all(|one| *one == digests[0]), "{optimizer}: {digests:?}");
        assert_ne!(digest(optimizer, "4", "1"), digests[0], "{optimizer}: the seed changes nothing");
    }
}

/// A table of numbers.
struct Table {
    names: Vec<String>,
    rows: Vec<Vec<f64>>,
    target: Vec<f64>,
}

impl Table {
    fn read(name: &str, target: &str) -> Table {
        let text = fs::read_to_string(example(name)).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let head = lines.next().unwrap();
        let at = head.iter().position(|name| *name == target).unwrap();
        let mut table =
            Table { names: head.iter().map(|name| (*name).to_owned()).collect(), rows: vec![], target: vec![] };
        table.names.remove(at);
        for line in lines {
            let mut row: Vec<f64> = line.iter().map(|text| text.parse().unwrap()).collect();
            table.target.push(row.remove(at));
            table.rows.push(row);
        }
        table
    }

    /// Intercept and coefficients by the normal equations, `XᵀX b = Xᵀy`, of columns that were centred and scaled first,
    /// so that the equations are well conditioned.
    fn least_squares(&self) -> Vec<f64> {
        let (count, width) = (self.rows.len() as f64, self.names.len());
        let mean = |column: usize| self.rows.iter().map(|row| row[column]).sum::<f64>() / count;
        let means: Vec<f64> = (0..width).map(mean).collect();
        let scale = |column: usize| {
            (self.rows.iter().map(|row| (row[column] - means[column]).powi(2)).sum::<f64>() / count).sqrt()
        };
        let scales: Vec<f64> = (0..width).map(scale).collect();
        let target_mean = self.target.iter().sum::<f64>() / count;
        let mut system = vec![vec![0.0; width + 1]; width];
        for (row, target) in self.rows.iter().zip(&self.target) {
            let scaled: Vec<f64> = (0..width).map(|column| (row[column] - means[column]) / scales[column]).collect();
            for (equation, first) in system.iter_mut().zip(&scaled) {
                for (cell, second) in equation.iter_mut().zip(scaled.iter().chain([&(target - target_mean)])) {
                    *cell += first * second;
                }
            }
        }
        let scaled = solve(system);
        let coefficients: Vec<f64> = scaled.iter().zip(&scales).map(|(value, scale)| value / scale).collect();
        let intercept = target_mean - coefficients.iter().zip(&means).map(|(value, mean)| value * mean).sum::<f64>();
        [vec![intercept], coefficients].concat()
    }
}

/// Gaussian elimination with the greatest pivot; the last column is the right-hand side.
fn solve(mut system: Vec<Vec<f64>>) -> Vec<f64> {
    let width = system.len();
    for column in 0..width {
        let pivot =
            (column..width).max_by(|a, b| system[*a][column].abs().total_cmp(&system[*b][column].abs())).unwrap();
        system.swap(column, pivot);
        let pivot = system[column].clone();
        for (index, equation) in system.iter_mut().enumerate() {
            if index != column {
                let factor = equation[column] / pivot[column];
                equation.iter_mut().zip(&pivot).for_each(|(cell, pivot)| *cell -= factor * pivot);
            }
        }
    }
    (0..width).map(|row| system[row][width] / system[row][row]).collect()
}
