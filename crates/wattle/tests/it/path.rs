//! The whole path: a table goes in, a service with an address comes out, and each call says what it cost.

use serde_json::json;

use crate::support::{Server, example, post, words};

#[test]
fn the_founding_example_trains_with_its_own_settings_and_answers_three() {
    let server = Server::start();
    server.wattle(&words(
        "train --algorithm linear-regression --data examples/line.csv --target y --name line --optimizer
             gd --learning-rate 0.01 --iterations 1000",
    ));
    server.wattle(&["deploy", "line"]);
    let answer = post(&format!("{}/predict", server.url), &json!({ "x": [1.0] }));
    assert_eq!(answer.status, 200, "{}", answer.text);
    let y = answer.json()["y_pred"][0][0].as_f64().unwrap();
    assert!((y - 3.0).abs() < 0.05, "{y}");
    assert!(answer.header("x-wattle-energy-joules").parse::<f64>().unwrap() > 0.0);
    assert!(["measured", "estimated"].contains(&answer.header("x-wattle-energy-label")));
}

#[test]
fn the_founding_pair_of_numpy_files_answers_exactly_three() {
    let server = Server::start();
    let (coef, intercept) = (example("model.npy"), example("intercept.npy"));
    server.wattle(&["models", "import", "--name", "line", "--coef", &coef, "--intercept", &intercept]);
    server.wattle(&["deploy", "line"]);
    let answer = post(&format!("{}/predict", server.url), &json!({ "x": [1.0] }));
    assert_eq!(answer.json(), json!({ "y_pred": [[3.0]] }));
}
