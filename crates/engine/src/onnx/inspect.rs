//! What is looked at before a file from outside may become a model.

use std::{fs, path::Path};

use prost::Message;
use wattle_core::Signature;

use super::{
    OnnxModel,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto},
};
use crate::{Error, Result};

/// Protobuf cannot hold more.
const MAX_BYTES: u64 = 2 << 30;
/// Graphs inside graphs (loops and branches); real models stay under ten.
const MAX_DEPTH: u32 = 64;

/// Checks that the file is one whole ONNX model that ONNX Runtime loads, and tells its signature.
///
/// Weights in other files are refused: their paths would be the sender's choice of what the server reads.
pub fn inspect(path: &Path) -> Result<Signature> {
    let bytes = fs::metadata(path).map_err(|error| Error::InvalidModel(format!("unreadable model: {error}")))?.len();
    if bytes == 0 {
        return Err(Error::InvalidModel("not a usable ONNX model: the file is empty".into()));
    }
    if bytes > MAX_BYTES {
        return Err(Error::InvalidModel(format!(
            "not a usable ONNX model: {bytes} bytes, and a protobuf file has at most {MAX_BYTES}"
        )));
    }
    let content = fs::read(path).map_err(|error| Error::InvalidModel(format!("unreadable model: {error}")))?;
    let model = ModelProto::decode(content.as_slice())
        .map_err(|error| Error::InvalidModel(format!("not a usable ONNX model: {error}")))?;
    drop(content);
    let graph =
        model.graph.as_ref().ok_or_else(|| Error::InvalidModel("not a usable ONNX model: it has no graph".into()))?;
    check_graph(graph, 0)?;
    for function in &model.functions {
        check_nodes(&function.node, 0)?;
    }
    drop(model);
    Ok(OnnxModel::load(path)?.signature().clone())
}

fn check_graph(graph: &GraphProto, depth: u32) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::InvalidModel(format!("not a usable ONNX model: graphs nest deeper than {MAX_DEPTH}")));
    }
    graph.initializer.iter().try_for_each(check_tensor)?;
    for sparse in &graph.sparse_initializer {
        sparse.values.iter().chain(&sparse.indices).try_for_each(check_tensor)?;
    }
    check_nodes(&graph.node, depth)
}

fn check_nodes(nodes: &[NodeProto], depth: u32) -> Result<()> {
    nodes.iter().flat_map(|node| &node.attribute).try_for_each(|attribute| check_attribute(attribute, depth))
}

fn check_attribute(attribute: &AttributeProto, depth: u32) -> Result<()> {
    attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
    for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
        sparse.values.iter().chain(&sparse.indices).try_for_each(check_tensor)?;
    }
    attribute.g.iter().chain(&attribute.graphs).try_for_each(|graph| check_graph(graph, depth + 1))
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
