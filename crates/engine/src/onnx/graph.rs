//! Writing an ONNX graph.

use std::collections::HashSet;

use prost::Message;
use wattle_core::{Datatype, TensorSpec};

use super::proto::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionValue, GraphProto, IR_VERSION, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorType, TypeProto, TypeValue,
    ValueInfoProto,
};

/// The set of operators that the graphs are written in; the first whose `Equal` compares texts is 19.
pub const OPSET_VERSION: i64 = 19;

/// The metadata's key of a JSON list of the inputs and outputs whose values may not be missing.
pub(super) const COMPLETE: &str = "complete";

/// A graph in the making. The same calls give the same bytes.
///
/// Declare the inputs and outputs first: the names that the builder makes up for everything else then differ from them.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: GraphProto,
    metadata: Vec<StringStringEntryProto>,
    names: HashSet<String>,
    /// The inputs and outputs without missing values.
    complete: Vec<String>,
}

impl GraphBuilder {
    /// An empty graph of this name.
    pub fn new(name: &str) -> GraphBuilder {
        let graph = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        GraphBuilder { graph, metadata: Vec::new(), names: HashSet::new(), complete: Vec::new() }
    }

    /// Declares an input of the graph.
    pub fn input(&mut self, spec: &TensorSpec) {
        self.declare(spec);
        self.graph.input.push(value_info(spec));
    }

    /// Declares an output of the graph, which a later call of [`GraphBuilder::node_to`] must compute.
    pub fn output(&mut self, spec: &TensorSpec) {
        self.declare(spec);
        self.graph.output.push(value_info(spec));
    }

    /// Adds an entry to the model's metadata.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.metadata.push(StringStringEntryProto { key: key.to_owned(), value: value.to_owned() });
    }

    /// Adds a constant of 64-bit floating-point numbers, in row-major order, and gives its name: `hint` or like it.
    pub fn numbers(&mut self, hint: &str, shape: &[usize], values: &[f64]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(hint, shape, values.len(), DataType::Double, |tensor| tensor.raw_data = Some(raw_data))
    }

    /// Adds a constant of texts, in row-major order, and gives its name: `hint` or like it.
    pub fn texts<T: AsRef<str>>(&mut self, hint: &str, shape: &[usize], values: &[T]) -> String {
        let string_data = values.iter().map(|value| value.as_ref().as_bytes().to_vec()).collect();
        self.constant(hint, shape, values.len(), DataType::String, |tensor| tensor.string_data = string_data)
    }

    /// Adds a node with one output, and gives that output's name, which is like the operator's. Attributes are whole numbers.
    pub fn node(&mut self, operator: &str, inputs: &[&str], attributes: &[(&str, i64)]) -> String {
        let output = self.unused(&operator.to_lowercase());
        self.node_to(&output, operator, inputs, attributes);
        output
    }

    /// Adds a node whose one output has this name.
    pub fn node_to(&mut self, output: &str, operator: &str, inputs: &[&str], attributes: &[(&str, i64)]) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: format!("{}_{}", operator.to_lowercase(), self.graph.node.len()),
            op_type: operator.to_owned(),
            attribute: attributes.iter().map(|&(name, value)| attribute(name, value)).collect(),
            ..NodeProto::default()
        });
    }

    /// The file's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        if !self.complete.is_empty() {
            let names = serde_json::Value::from(std::mem::take(&mut self.complete));
            self.metadata(COMPLETE, &names.to_string());
        }
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "wattle".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET_VERSION }],
            metadata_props: self.metadata,
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    /// That no value may be missing, which ONNX has no words for, goes into the model's metadata.
    fn declare(&mut self, spec: &TensorSpec) {
        self.names.insert(spec.name.clone());
        if !spec.missing {
            self.complete.push(spec.name.clone());
        }
    }

    fn constant(
        &mut self,
        hint: &str,
        shape: &[usize],
        length: usize,
        data_type: DataType,
        fill: impl FnOnce(&mut TensorProto),
    ) -> String {
        assert_eq!(
            shape.iter().product::<usize>(),
            length,
            "constant {hint:?} does not have the elements of its shape"
        );
        let name = self.unused(hint);
        let mut tensor = TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: data_type.into(),
            name: name.clone(),
            ..TensorProto::default()
        };
        fill(&mut tensor);
        self.graph.initializer.push(tensor);
        name
    }

    fn unused(&mut self, hint: &str) -> String {
        let mut name = hint.to_owned();
        for number in 2.. {
            if self.names.insert(name.clone()) {
                break;
            }
            name = format!("{hint}_{number}");
        }
        name
    }
}

/// ONNX's name of an element type.
pub fn data_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bool => DataType::Bool,
        Datatype::Uint8 => DataType::Uint8,
        Datatype::Uint16 => DataType::Uint16,
        Datatype::Uint32 => DataType::Uint32,
        Datatype::Uint64 => DataType::Uint64,
        Datatype::Int8 => DataType::Int8,
        Datatype::Int16 => DataType::Int16,
        Datatype::Int32 => DataType::Int32,
        Datatype::Int64 => DataType::Int64,
        Datatype::Fp16 => DataType::Float16,
        Datatype::Bf16 => DataType::Bfloat16,
        Datatype::Fp32 => DataType::Float,
        Datatype::Fp64 => DataType::Double,
        Datatype::Bytes => DataType::String,
    }
}

fn value_info(spec: &TensorSpec) -> ValueInfoProto {
    // The sizes that a caller may choose have names; the first is the same in every tensor: the rows.
    let dimension = |(axis, &size): (usize, &i64)| {
        let value = match (size, axis) {
            (0.., _) => DimensionValue::Value(size),
            (_, 0) => DimensionValue::Parameter("rows".into()),
            (_, axis) => DimensionValue::Parameter(format!("{}_{axis}", spec.name)),
        };
        Dimension { value: Some(value), denotation: String::new() }
    };
    let shape = TensorShapeProto { dim: spec.shape.iter().enumerate().map(dimension).collect() };
    let tensor = TensorType { elem_type: data_type(spec.datatype).into(), shape: Some(shape) };
    let value = TypeProto { value: Some(TypeValue::Tensor(tensor)), denotation: String::new() };
    ValueInfoProto { name: spec.name.clone(), r#type: Some(value), ..ValueInfoProto::default() }
}

fn attribute(name: &str, value: i64) -> AttributeProto {
    let kind = AttributeType::Int.into();
    AttributeProto { name: name.to_owned(), i: Some(value), r#type: kind, ..AttributeProto::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn spec(name: &str) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: Datatype::Fp64, shape: vec![-1, 1], missing: false }
    }

    fn doubling() -> Vec<u8> {
        let mut graph = GraphBuilder::new("doubling");
        graph.input(&spec("two"));
        graph.output(&spec("y"));
        graph.metadata("key", "value");
        let two = graph.numbers("two", &[1], &[2.0]);
        let product = graph.node("Mul", &["two", &two], &[]);
        graph.node_to("y", "Concat", &[&product], &[("axis", 0)]);
        graph.finish()
    }

    #[test]
    fn a_graph_reads_back_as_written_and_made_up_names_differ_from_the_inputs() {
        let bytes = doubling();
        assert_eq!(bytes, doubling());
        let model = ModelProto::decode(bytes.as_slice()).unwrap();
        assert_eq!(model.metadata()["key"], "value");
        assert_eq!((model.ir_version, model.opset_import[0].version), (IR_VERSION, OPSET_VERSION));
        let graph = model.graph.unwrap();
        assert_eq!(graph.initializer[0].name, "two_2");
        assert_eq!(graph.initializer[0].raw_data.as_deref(), Some(2f64.to_le_bytes().as_slice()));
        assert_eq!(graph.node[0].input, ["two", "two_2"]);
        // A zero must be written: readers tell an absent attribute from a zero.
        assert_eq!(graph.node[1].attribute[0].i, Some(0));
        let Some(TypeValue::Tensor(tensor)) = graph.input[0].r#type.clone().unwrap().value else { panic!("no tensor") };
        let sizes: Vec<_> = tensor.shape.unwrap().dim.into_iter().map(|dimension| dimension.value.unwrap()).collect();
        assert_eq!(sizes, [DimensionValue::Parameter("rows".into()), DimensionValue::Value(1)]);
    }

    #[test]
    fn bytes_that_are_not_a_model_are_an_error() {
        for length in 1..doubling().len() {
            // Any outcome but a panic will do: some prefixes are whole messages.
            let _ = ModelProto::decode(&doubling()[..length]);
        }
        assert!(ModelProto::decode(b"\xff\xff\xff\xff".as_slice()).is_err());
    }
}
