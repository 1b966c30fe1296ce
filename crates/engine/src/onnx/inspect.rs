//! What is looked at before a file from outside may become a model.

use std::{collections::HashSet, fs, path::Path};

use prost::Message;
use wattle_core::Signature;

use super::{
    OnnxModel,
    graph::COMPLETE,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeValue},
    runtime,
};
use crate::{Error, Result, memory::heap_bytes};

/// Protobuf cannot hold more.
const MAX_BYTES: u64 = 2 << 30;
/// Graphs inside graphs (loops and branches); real models stay under ten.
const MAX_DEPTH: u32 = 64;

/// What a look at a model's file tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    /// The model's inputs and outputs.
    pub signature: Signature,
    /// What loading it added to the heap, in bytes. It is exact where nothing else allocates meanwhile, as in a process of
    /// its own.
    pub resident_bytes: u64,
}

/// Checks that the file is one whole ONNX model that ONNX Runtime loads, and tells its signature.
///
/// Weights in other files are refused: their paths would be the sender's choice of what the server reads. An input that
/// declares no shape is refused too: nobody could tell how to call the model.
///
/// # Errors
/// [`Error::InvalidModel`] says why it cannot be used; [`Error::RuntimeMissing`] when there is no ONNX Runtime;
/// [`Error::Io`] when the system cannot read the file.
pub fn inspect(path: &Path) -> Result<Inspected> {
    let bytes = fs::metadata(path)?.len();
    if bytes == 0 {
        return Err(Error::InvalidModel("not a usable ONNX model: the file is empty".into()));
    }
    if bytes > MAX_BYTES {
        return Err(Error::InvalidModel(format!(
            "not a usable ONNX model: {bytes} bytes, and a protobuf file has at most {MAX_BYTES}"
        )));
    }
    let content = fs::read(path)?;
    let model = ModelProto::decode(content.as_slice())
        .map_err(|error| Error::InvalidModel(format!("not a usable ONNX model: {error}")))?;
    drop(content);
    let graph =
        model.graph.as_ref().ok_or_else(|| Error::InvalidModel("not a usable ONNX model: it has no graph".into()))?;
    check_graph(graph, 0)?;
    for function in &model.functions {
        function.attribute_proto.iter().try_for_each(|attribute| check_attribute(attribute, 0))?;
        check_nodes(&function.node, 0)?;
    }
    for info in &model.training_info {
        info.initialization.iter().chain(&info.algorithm).try_for_each(|graph| check_graph(graph, 0))?;
    }
    let unknown_rank = inputs_without_shape(graph);
    // Only our own models have the entry; in a foreign one, other words under this key say nothing.
    let complete = model.metadata().get(COMPLETE).map(|names| serde_json::from_str(names).unwrap_or_default());
    let complete: Vec<String> = complete.unwrap_or_default();
    drop(model);
    // The library itself is no part of the model.
    runtime::environment()?;
    let before = heap_bytes();
    // Whoever computes it here: it is an ONNX model for everybody.
    let loaded = OnnxModel::load_in_runtime(path, 1)?;
    let added = heap_bytes().saturating_sub(before);
    let resident_bytes = OnnxModel::load(path, 1)?.known_bytes().unwrap_or(added);
    let mut signature = loaded.signature().clone();
    for spec in signature.inputs.iter_mut().chain(&mut signature.outputs) {
        spec.missing &= !complete.contains(&spec.name);
    }
    // The signature leaves out inputs that have a default, which are never sent.
    match signature.inputs.iter().find(|input| unknown_rank.contains(&input.name)) {
        Some(input) => Err(Error::InvalidModel(format!(
            "input {:?} declares no shape: export the model with one, as in [None, 4], where None stands for any number of rows",
            input.name
        ))),
        None => Ok(Inspected { signature, resident_bytes }),
    }
}

/// ONNX Runtime shows these like scalars; only the file knows the difference.
fn inputs_without_shape(graph: &GraphProto) -> HashSet<String> {
    let without = graph.input.iter().filter(|input| {
        let value = input.r#type.as_ref().and_then(|kind| kind.value.as_ref());
        matches!(value, Some(TypeValue::Tensor(tensor)) if tensor.shape.is_none())
    });
    without.map(|input| input.name.clone()).collect()
}

fn check_graph(graph: &GraphProto, depth: u32) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::InvalidModel(format!("not a usable ONNX model: graphs nest deeper than {MAX_DEPTH}")));
    }
    graph.initializer.iter().try_for_each(check_tensor)?;
    graph.sparse_initializer.iter().try_for_each(check_sparse)?;
    check_nodes(&graph.node, depth)
}

fn check_nodes(nodes: &[NodeProto], depth: u32) -> Result<()> {
    nodes.iter().flat_map(|node| &node.attribute).try_for_each(|attribute| check_attribute(attribute, depth))
}

fn check_attribute(attribute: &AttributeProto, depth: u32) -> Result<()> {
    attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
    attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors).try_for_each(check_sparse)?;
    attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| check_graph(graph, depth + 1))
}

fn check_sparse(sparse: &SparseTensorProto) -> Result<()> {
    sparse.values.iter().chain(&sparse.indices).try_for_each(check_tensor)
}

fn check_tensor(tensor: &TensorProto) -> Result<()> {
    let external = 1;
    if tensor.data_location == Some(external) || !tensor.external_data.is_empty() {
        return Err(Error::InvalidModel(format!(
            "the weights {:?} are in another file: save the model as one file (onnx.save with save_as_external_data=False)",
            tensor.name
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::onnx::{
        graph::GraphBuilder,
        proto::{FunctionProto, StringStringEntryProto, TensorShapeProto, TrainingInfoProto},
    };
    use wattle_core::{Datatype, TensorSpec};

    fn identity() -> ModelProto {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp64, shape: vec![-1, 1], missing: true };
        let mut graph = GraphBuilder::new("identity");
        graph.input(&spec("x"));
        graph.output(&spec("y"));
        graph.node_to("y", "Identity", &["x"], &[]);
        ModelProto::decode(graph.finish().as_slice()).unwrap()
    }

    fn inspected(change: impl FnOnce(&mut ModelProto)) -> Result<Inspected> {
        let mut model = identity();
        change(&mut model);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), model.encode_to_vec()).unwrap();
        inspect(file.path())
    }

    fn elsewhere() -> TensorProto {
        let location = StringStringEntryProto { key: "location".into(), value: "/etc/passwd".into() };
        TensorProto {
            name: "elsewhere".into(),
            data_location: Some(1),
            external_data: vec![location],
            ..Default::default()
        }
    }

    fn graph_elsewhere() -> GraphProto {
        GraphProto { initializer: vec![elsewhere()], ..Default::default() }
    }

    fn attribute_elsewhere() -> AttributeProto {
        AttributeProto { t: Some(elsewhere()), ..Default::default() }
    }

    fn sparse_elsewhere() -> SparseTensorProto {
        SparseTensorProto { indices: Some(elsewhere()), ..Default::default() }
    }

    #[test]
    fn weights_in_another_file_are_found_wherever_they_are_named() {
        assert!(inspected(|_| {}).is_ok());
        let graph = |model: &mut ModelProto, change: fn(&mut GraphProto)| change(model.graph.as_mut().unwrap());
        let attribute = |model: &mut ModelProto, attribute: AttributeProto| {
            model.graph.as_mut().unwrap().node[0].attribute.push(attribute);
        };
        let training = |model: &mut ModelProto, info: TrainingInfoProto| model.training_info.push(info);
        let function = |model: &mut ModelProto, function: FunctionProto| model.functions.push(function);
        type Change<'a> = Box<dyn Fn(&mut ModelProto) + 'a>;
        let changes: Vec<(&str, Change<'_>)> = vec![
            ("initializer", Box::new(|model| graph(model, |graph| graph.initializer.push(elsewhere())))),
            ("sparse", Box::new(|model| graph(model, |graph| graph.sparse_initializer.push(sparse_elsewhere())))),
            ("attribute", Box::new(|model| attribute(model, attribute_elsewhere()))),
            (
                "attribute's tensors",
                Box::new(|model| {
                    attribute(model, AttributeProto { tensors: vec![elsewhere()], ..Default::default() });
                }),
            ),
            (
                "attribute's sparse tensor",
                Box::new(|model| {
                    let sparse = AttributeProto { sparse_tensor: Some(sparse_elsewhere()), ..Default::default() };
                    attribute(model, sparse);
                }),
            ),
            (
                "attribute's sparse tensors",
                Box::new(|model| {
                    let sparse = AttributeProto { sparse_tensors: vec![sparse_elsewhere()], ..Default::default() };
                    attribute(model, sparse);
                }),
            ),
            (
                "graph in a graph",
                Box::new(|model| {
                    let inner = NodeProto {
                        attribute: vec![AttributeProto { graphs: vec![graph_elsewhere()], ..Default::default() }],
                        ..Default::default()
                    };
                    let outer = GraphProto { node: vec![inner], ..Default::default() };
                    attribute(model, AttributeProto { g: Some(outer), ..Default::default() });
                }),
            ),
            (
                "function's node",
                Box::new(|model| {
                    let node = NodeProto { attribute: vec![attribute_elsewhere()], ..Default::default() };
                    function(model, FunctionProto { node: vec![node], ..Default::default() });
                }),
            ),
            (
                "function's default",
                Box::new(|model| {
                    function(
                        model,
                        FunctionProto { attribute_proto: vec![attribute_elsewhere()], ..Default::default() },
                    );
                }),
            ),
            (
                "training's initialization",
                Box::new(|model| {
                    training(
                        model,
                        TrainingInfoProto { initialization: Some(graph_elsewhere()), ..Default::default() },
                    );
                }),
            ),
            (
                "training's algorithm",
                Box::new(|model| {
                    training(model, TrainingInfoProto { algorithm: Some(graph_elsewhere()), ..Default::default() });
                }),
            ),
        ];
        for (place, change) in changes {
            let error = inspected(change).unwrap_err().to_string();
            assert!(error.contains("\"elsewhere\" are in another file"), "{place}: {error}");
        }
    }

    #[test]
    fn graphs_that_nest_too_deep_are_refused() {
        let mut graph = GraphProto::default();
        for _ in 0..=MAX_DEPTH {
            let attribute = AttributeProto { g: Some(graph), ..Default::default() };
            let node = NodeProto { attribute: vec![attribute], ..Default::default() };
            graph = GraphProto { node: vec![node], ..Default::default() };
        }
        assert!(matches!(check_graph(&graph, 0), Err(Error::InvalidModel(_))));
    }

    #[test]
    fn an_input_without_a_shape_is_no_scalar() {
        let with_shape = |shape: Option<TensorShapeProto>| {
            inspected(|model| {
                let graph = model.graph.as_mut().unwrap();
                for value in graph.input.iter_mut().chain(&mut graph.output) {
                    let Some(TypeValue::Tensor(tensor)) = &mut value.r#type.as_mut().unwrap().value else {
                        panic!("not a tensor")
                    };
                    tensor.shape.clone_from(&shape);
                }
            })
        };
        let error = with_shape(None).unwrap_err().to_string();
        assert!(error.contains("input \"x\" declares no shape: export"), "{error}");
        assert!(with_shape(Some(TensorShapeProto::default())).unwrap().signature.inputs[0].shape.is_empty());
    }

    #[test]
    fn a_file_that_is_not_there_is_not_a_bad_model() {
        assert!(matches!(inspect(Path::new("nowhere/model.onnx")), Err(Error::Io(_))));
    }
}
