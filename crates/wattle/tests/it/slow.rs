//! What takes its time, for tests of what happens meanwhile.

use wattle_core::{Datatype, TensorSpec};
use wattle_engine::onnx::graph::GraphBuilder;

use crate::support::{Server, file, words};

/// Imports and deploys the model `slow`, which thinks for some tenths of a second about a row and answers with it.
pub(crate) fn deploy_slow_model(server: &Server) {
    const WIDTH: usize = 512;
    const PRODUCTS: usize = 2000;
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp64, shape: vec![-1, 1], missing: true };
    let mut graph = GraphBuilder::new("slow");
    graph.input(&spec("x"));
    graph.output(&spec("y"));
    let spread = graph.numbers("spread", &[1, WIDTH], &[1.0; WIDTH]);
    let mean = graph.numbers("mean", &[WIDTH, WIDTH], &vec![1.0 / WIDTH as f64; WIDTH * WIDTH]);
    let gather = graph.numbers("gather", &[WIDTH, 1], &[1.0 / WIDTH as f64; WIDTH]);
    let mut last = graph.node("MatMul", &["x", &spread], &[]);
    for _ in 0..PRODUCTS {
        last = graph.node("MatMul", &[&last, &mean], &[]);
    }
    graph.node_to("y", "MatMul", &[&last, &gather], &[]);
    let folder = tempfile::tempdir().unwrap();
    server.wattle(&["models", "import", "--name", "slow", &file(&folder, "slow.onnx", graph.finish())]);
    server.wattle(&["deploy", "slow"]);
}

/// Starts a training job that would take hours; its id.
pub(crate) fn start_endless_job(server: &Server) -> String {
    let job = server.json(&words(
        "train --detach --algorithm linear-regression --data examples/diabetes.csv --target target --name endless
         --optimizer gd --learning-rate 1e-12 --iterations 4000000000 --tolerance 0",
    ));
    job["id"].as_str().unwrap().to_owned()
}
