//! Linear models that are computed without ONNX Runtime answer as ONNX Runtime does.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use wattle_core::{Datatype, TensorSpec};
use wattle_engine::{
    Data, Tensor,
    onnx::{OnnxModel, graph::GraphBuilder, proto::DataType},
};

fn spec(name: &str, datatype: Datatype, width: i64) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: vec![-1, width], missing: true }
}

fn saved(graph: GraphBuilder) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), graph.finish()).unwrap();
    file
}

fn numbers(name: &str, width: usize, values: Vec<f64>) -> Tensor {
    Tensor::new(name, vec![values.len() / width, width], Data::Fp64(values.into())).unwrap()
}

/// A classifier of two columns of numbers (one with gaps) and one of texts, as training writes it.
fn classifier(weights: &[f64], texts: bool) -> tempfile::NamedTempFile {
    let mut graph = GraphBuilder::new("classifier");
    graph.input(&spec("a", Datatype::Fp64, 1));
    graph.input(&spec("b", Datatype::Fp64, 1));
    graph.input(&spec("colour", Datatype::Bytes, 1));
    graph.output(&spec("y_pred", if texts { Datatype::Bytes } else { Datatype::Fp64 }, 1));
    graph.output(&spec("probabilities", Datatype::Fp64, 3));
    let all = graph.node("Concat", &["a", "b"], &[("axis", 1)]);
    let means = graph.numbers("means", &[1, 2], &[0.5, -2.0]);
    let gaps = graph.node("IsNaN", &[&all], &[]);
    let filled = graph.node("Where", &[&gaps, &means, &all], &[]);
    let shifts = graph.numbers("shifts", &[1, 2], &[1.0, 3.0]);
    let shifted = graph.node("Sub", &[&filled, &shifts], &[]);
    let scales = graph.numbers("scales", &[1, 2], &[2.0, 0.25]);
    let scaled = graph.node("Div", &[&shifted, &scales], &[]);
    let colours = graph.texts("colours", &[1, 2], &["red", "grün"]);
    let equal = graph.node("Equal", &["colour", &colours], &[]);
    let hot = graph.node("Cast", &[&equal], &[("to", DataType::Double as i64)]);
    let row = graph.node("Concat", &[&scaled, &hot], &[("axis", 1)]);
    let weights = graph.numbers("weights", &[4, 3], weights);
    let product = graph.node("MatMul", &[&row, &weights], &[]);
    let intercepts = graph.numbers("intercepts", &[3], &[0.0, 0.25, -0.5]);
    let scores = graph.node("Add", &[&product, &intercepts], &[]);
    graph.node_to("probabilities", "Softmax", &[&scores], &[("axis", 1)]);
    let best = graph.node("ArgMax", &[&scores], &[("axis", 1), ("keepdims", 1)]);
    let classes = match texts {
        true => graph.texts("classes", &[3], &["one", "two", "three"]),
        false => graph.numbers("classes", &[3], &[1.0, 2.0, 3.0]),
    };
    graph.node_to("y_pred", "Gather", &[&classes, &best], &[("axis", 0)]);
    saved(graph)
}

fn both(path: &Path) -> (OnnxModel, OnnxModel) {
    let direct = OnnxModel::load(path, 1).unwrap();
    assert!(direct.is_reentrant(), "the graph was not compiled");
    let runtime = OnnxModel::load_in_runtime(path, 1).unwrap();
    assert!(!runtime.is_reentrant());
    assert_eq!(direct.signature(), runtime.signature());
    (direct, runtime)
}

/// Halves, so that every sum is exact in whatever order, and gaps.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![4 => (-100..100).prop_map(|halves| f64::from(halves) / 2.0), 1 => Just(f64::NAN)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_classifier_answers_as_in_onnx_runtime_and_each_row_as_alone(
        rows in prop::collection::vec((number(), number(), prop_oneof![Just("red"), Just("grün"), Just("blue"), Just("")]), 1..20),
        weights in prop::collection::vec((-8..8).prop_map(|quarters| f64::from(quarters) / 4.0), 12),
        texts: bool,
    ) {
        let file = classifier(&weights, texts);
        let (direct, runtime) = both(file.path());
        let inputs = |rows: &[(f64, f64, &str)]| {
            let colours = rows.iter().map(|(_, _, colour)| (*colour).to_owned()).collect();
            [
                numbers("a", 1, rows.iter().map(|row| row.0).collect()),
                numbers("b", 1, rows.iter().map(|row| row.1).collect()),
                Tensor::new("colour", vec![rows.len(), 1], Data::Bytes(colours)).unwrap(),
            ]
        };
        let answers = direct.run(&inputs(&rows)).unwrap();
        let expected = runtime.run(&inputs(&rows)).unwrap();
        for (answer, expected) in answers.iter().zip(&expected) {
            prop_assert!(answer.is_close_to(expected, 1e-12), "{answer:?} is not {expected:?}");
        }
        for (place, row) in rows.iter().enumerate() {
            let alone = direct.run(&inputs(std::slice::from_ref(row))).unwrap();
            let among: Vec<Tensor> = answers.iter().map(|answer| answer.rows_from(place, 1)).collect();
            prop_assert_eq!(alone, among);
        }
    }

    #[test]
    fn a_linear_function_answers_as_in_onnx_runtime(
        width in 1_usize..40,
        outputs in 1_usize..6,
        rows in 1_usize..5,
        seed in prop::collection::vec(-1e3_f64..1e3, 64),
    ) {
        let value = |place: usize| seed[place % 64] * (1.0 + (place / 64) as f64);
        let mut graph = GraphBuilder::new("linear");
        graph.input(&spec("x", Datatype::Fp64, width as i64));
        graph.output(&spec("y", Datatype::Fp64, outputs as i64));
        let weights: Vec<f64> = (0..width * outputs).map(value).collect();
        let weights = graph.numbers("weights", &[width, outputs], &weights);
        let from = graph.numbers("from", &[outputs], &(0..outputs).map(|place| value(place + 7)).collect::<Vec<f64>>());
        graph.node_to("y", "Gemm", &["x", &weights, &from], &[]);
        let file = saved(graph);
        let (direct, runtime) = both(file.path());
        let x = [numbers("x", width, (0..rows * width).map(|place| value(3 * place + 1)).collect())];
        let (answer, expected) = (direct.run(&x).unwrap(), runtime.run(&x).unwrap());
        let Data::Fp64(answer) = &answer[0].data else { panic!("not numbers") };
        let Data::Fp64(expected) = &expected[0].data else { panic!("not numbers") };
        // Sums in another order differ by roundings of their terms, forty at most and none above 1e8.
        for (answer, expected) in answer.iter().zip(expected.iter()) {
            prop_assert!((answer - expected).abs() <= 1e-5, "{answer} is not {expected}");
        }
    }
}

#[test]
fn what_is_not_of_these_operators_is_left_to_onnx_runtime() {
    type Change = fn(&mut GraphBuilder, &str) -> String;
    let changes: [(&str, Change); 6] = [
        ("another operator", |graph, x| graph.node("Exp", &[x], &[])),
        ("another axis", |graph, x| graph.node("Softmax", &[x], &[("axis", 0)])),
        ("one number for all columns", |graph, x| {
            let one = graph.numbers("one", &[1], &[1.0]);
            graph.node("Add", &[x, &one], &[])
        }),
        ("a difference of columns", |graph, x| graph.node("Sub", &[x, x], &[])),
        ("columns that double and double, for nothing", |graph, x| {
            let mut wide = x.to_owned();
            for _ in 0..20 {
                wide = graph.node("Concat", &[&wide, &wide], &[("axis", 1)]);
            }
            let halves = graph.numbers("halves", &[2], &[0.5; 2]);
            graph.node("Sub", &[x, &halves], &[])
        }),
        ("many weights", |graph, x| {
            let wide = graph.numbers("wide", &[2, 1 << 14], &vec![0.5; 1 << 15]);
            let wide = graph.node("MatMul", &[x, &wide], &[]);
            let back = graph.numbers("back", &[1 << 14, 2], &vec![0.5; 1 << 15]);
            graph.node("MatMul", &[&wide, &back], &[])
        }),
    ];
    for (name, change) in changes {
        let mut graph = GraphBuilder::new("other");
        graph.input(&spec("x", Datatype::Fp64, 2));
        graph.output(&spec("y", Datatype::Fp64, 2));
        let changed = change(&mut graph, "x");
        let row = graph.numbers("row", &[2], &[1.0, 2.0]);
        graph.node_to("y", "Add", &[&changed, &row], &[]);
        let file = saved(graph);
        let model = OnnxModel::load(file.path(), 1).unwrap();
        assert!(!model.is_reentrant(), "{name}");
        assert_eq!(model.run(&[numbers("x", 2, vec![1.0, 2.0])]).unwrap()[0].shape, [1, 2], "{name}");
    }
}

#[test]
fn inputs_with_different_numbers_of_rows_are_an_error() {
    let file = classifier(&[0.0; 12], true);
    let (direct, runtime) = both(file.path());
    let colour = Tensor::new("colour", vec![2, 1], Data::Bytes(vec!["red".into(), "red".into()])).unwrap();
    let inputs = [numbers("a", 1, vec![1.0]), numbers("b", 1, vec![1.0, 2.0]), colour];
    assert!(matches!(direct.run(&inputs), Err(wattle_engine::Error::Run(_))));
    assert!(matches!(runtime.run(&inputs), Err(wattle_engine::Error::Run(_))));
}
