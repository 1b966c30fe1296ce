//! A trained model as an ONNX file.
//!
//! The graph takes the raw columns by name and does everything that [`Encoder`](crate::encode::Encoder) and
//! [`Predictor`] do, in 64-bit floating point: imputation, scaling, one-hot encoding, the linear functions, the
//! probabilities and the class.

use wattle_core::{Datatype, Signature, TensorSpec};
use wattle_engine::onnx::{graph::GraphBuilder, proto::DataType};

use crate::{
    encode::{Classes, Feature, Target},
    predictor::Predictor,
};

/// The output with the number or the class.
pub const Y_PRED: &str = "y_pred";

/// The output with the probability of each class.
pub const PROBABILITIES: &str = "probabilities";

/// An ONNX file and what it takes and gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its inputs, in the order of the features, and its outputs.
    pub signature: Signature,
}

/// Writes the graph. The same predictor gives the same bytes.
///
/// The metadata holds `producer` (wattle), `algorithm`, `target`, and for classifiers `classes`: a JSON list of their names
/// in the order of the probabilities.
pub fn export(predictor: &Predictor, algorithm: &str, target: &str) -> Exported {
    let signature = signature(predictor);
    let mut graph = GraphBuilder::new(algorithm);
    signature.inputs.iter().for_each(|spec| graph.input(spec));
    signature.outputs.iter().for_each(|spec| graph.output(spec));
    graph.metadata("producer", "wattle");
    graph.metadata("algorithm", algorithm);
    graph.metadata("target", target);

    let mut parts = Vec::new();
    parts.extend(numbers(&mut graph, predictor));
    parts.extend(categories(&mut graph, predictor));
    let row = concatenate(&mut graph, parts);
    match &predictor.target {
        Target::Number => linear(&mut graph, &row, predictor, Some(Y_PRED)),
        Target::Classes(classes) => {
            graph.metadata("classes", &serde_json::Value::from(classes.names()).to_string());
            let scores = linear(&mut graph, &row, predictor, None);
            graph.node_to(PROBABILITIES, "Softmax", &[&scores], &[("axis", 1)]);
            let best = graph.node("ArgMax", &[&scores], &[("axis", 1), ("keepdims", 1)]);
            let names = match classes {
                Classes::Numbers(classes) => graph.numbers("classes", &[classes.len()], classes),
                Classes::Texts(classes) => graph.texts("classes", &[classes.len()], classes),
            };
            graph.node_to(Y_PRED, "Gather", &[&names, &best], &[("axis", 0)]);
            scores
        }
    };
    Exported { bytes: graph.finish(), signature }
}

fn signature(predictor: &Predictor) -> Signature {
    let input = |feature: &Feature| {
        let (datatype, missing) = match feature {
            Feature::Number(feature) => (Datatype::Fp64, feature.missing),
            Feature::Category(feature) => (Datatype::Bytes, feature.missing),
        };
        TensorSpec { name: feature.name().to_owned(), datatype, shape: vec![-1, 1], missing }
    };
    let output = |name: &str, datatype, columns| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: vec![-1, columns],
        missing: false,
    };
    let outputs = match &predictor.target {
        Target::Number => vec![output(Y_PRED, Datatype::Fp64, 1)],
        Target::Classes(classes) => {
            let datatype = match classes {
                Classes::Numbers(_) => Datatype::Fp64,
                Classes::Texts(_) => Datatype::Bytes,
            };
            vec![output(Y_PRED, datatype, 1), output(PROBABILITIES, Datatype::Fp64, classes.len() as i64)]
        }
    };
    Signature { inputs: predictor.encoder.features.iter().map(input).collect(), outputs }
}

/// (x − shift) / scale for all numbers at once, with the mean for NaN.
fn numbers(graph: &mut GraphBuilder, predictor: &Predictor) -> Option<String> {
    let features: Vec<_> = predictor.encoder.numbers().collect();
    if features.is_empty() {
        return None;
    }
    let row = |value: fn(&crate::encode::NumberFeature) -> f64| features.iter().map(|f| value(f)).collect::<Vec<f64>>();
    let shape = [1, features.len()];
    let mut values = concatenate(graph, features.iter().map(|feature| feature.name.clone()).collect());
    if features.iter().any(|feature| feature.missing) {
        let means = graph.numbers("means", &shape, &row(|feature| feature.mean));
        let gaps = graph.node("IsNaN", &[&values], &[]);
        values = graph.node("Where", &[&gaps, &means, &values], &[]);
    }
    let (shifts, scales) = (row(|feature| feature.shift), row(|feature| feature.scale));
    if shifts.iter().any(|shift| *shift != 0.0) {
        let shifts = graph.numbers("shifts", &shape, &shifts);
        values = graph.node("Sub", &[&values, &shifts], &[]);
    }
    if scales.iter().any(|scale| *scale != 1.0) {
        let scales = graph.numbers("scales", &shape, &scales);
        values = graph.node("Div", &[&values, &scales], &[]);
    }
    Some(values)
}

/// For each column of categories, whether each row's text equals each of them, as 0 and 1.
fn categories(graph: &mut GraphBuilder, predictor: &Predictor) -> Vec<String> {
    predictor
        .encoder
        .categories()
        .map(|feature| {
            let known = graph.texts("categories", &[1, feature.categories.len()], &feature.categories);
            let equal = graph.node("Equal", &[&feature.name, &known], &[]);
            graph.node("Cast", &[&equal], &[("to", DataType::Double as i64)])
        })
        .collect()
}

/// The linear functions; of two classes, the first has the score 0, so that softmax is the logistic function of the
/// second's and both probabilities keep their precision near 0.
fn linear(graph: &mut GraphBuilder, row: &str, predictor: &Predictor, output: Option<&str>) -> String {
    let width = predictor.encoder.width();
    let outputs = match &predictor.target {
        Target::Number => 1,
        Target::Classes(classes) => classes.len(),
    };
    let absent = outputs - predictor.intercepts.len();
    let mut weights = vec![0.0; width * outputs];
    for (place, of_output) in predictor.weights.chunks_exact(width).enumerate() {
        for (feature, weight) in of_output.iter().enumerate() {
            weights[feature * outputs + absent + place] = *weight;
        }
    }
    let mut intercepts = vec![0.0; absent];
    intercepts.extend_from_slice(&predictor.intercepts);
    let weights = graph.numbers("weights", &[width, outputs], &weights);
    let intercepts = graph.numbers("intercepts", &[outputs], &intercepts);
    let product = graph.node("MatMul", &[row, &weights], &[]);
    match output {
        Some(output) => {
            graph.node_to(output, "Add", &[&product, &intercepts], &[]);
            output.to_owned()
        }
        None => graph.node("Add", &[&product, &intercepts], &[]),
    }
}

fn concatenate(graph: &mut GraphBuilder, mut parts: Vec<String>) -> String {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    graph.node("Concat", &parts, &[("axis", 1)])
}
