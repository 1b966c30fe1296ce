use std::collections::HashMap;

use wattle_core::{Datatype, Signature, TensorSpec};

use super::{Direct, step::Step};
use crate::onnx::{
    graph::OPSET_VERSION,
    proto::{
        AttributeProto, DataType, DimensionValue, GraphProto, ModelProto, NodeProto, TensorProto, TypeValue,
        ValueInfoProto,
    },
};

/// Numbers that a row's answer may take, constants and results together. A graph that takes more is computed by ONNX
/// Runtime, to whose faster products its way is short.
const MAX_WORK: usize = 1 << 14;

/// A constant of the graph.
enum Constant {
    Numbers(Vec<usize>, Vec<f64>),
    Texts(Vec<usize>, Vec<String>),
}

/// What is known of a value before there are rows.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// So many columns of numbers.
    Numbers(usize),
    /// A column of texts.
    Texts,
    /// A column of indices below this bound.
    Indices(usize),
}

/// A value that only the next operator can use, with which it becomes one step.
enum Half {
    IsNan(usize),
    /// The place of the texts, and the name of the constant.
    Equal(usize, String),
}

#[derive(Default)]
struct Compiler {
    constants: HashMap<String, Constant>,
    /// The values that have a place.
    places: HashMap<String, usize>,
    kinds: Vec<Kind>,
    halves: HashMap<String, Half>,
    steps: Vec<Step>,
    /// Numbers that the steps so far take for a row.
    work: usize,
}

impl Direct {
    /// The model in steps; `None` for one that is ONNX Runtime's.
    pub(in crate::onnx) fn compile(model: &ModelProto) -> Option<Direct> {
        let [opset] = &model.opset_import[..] else { return None };
        if !opset.domain.is_empty() || opset.version != OPSET_VERSION || !model.functions.is_empty() {
            return None;
        }
        let graph = model.graph.as_ref()?;
        let signature = signature(graph)?;
        let mut compiler = Compiler::default();
        for tensor in &graph.initializer {
            compiler.constants.insert(tensor.name.clone(), constant(tensor)?);
        }
        for spec in &signature.inputs {
            let kind = match (spec.datatype, spec.shape.as_slice()) {
                (Datatype::Fp64, [-1, width]) if *width > 0 => Kind::Numbers(usize::try_from(*width).ok()?),
                (Datatype::Bytes, [-1, 1]) => Kind::Texts,
                _ => return None,
            };
            compiler.name(&spec.name, kind)?;
        }
        for node in &graph.node {
            compiler.node(node)?;
        }
        let mut outputs = Vec::new();
        for spec in &signature.outputs {
            let place = *compiler.places.get(&spec.name)?;
            let is_as_declared = match (compiler.kinds[place], spec.datatype, spec.shape.as_slice()) {
                (Kind::Numbers(width), Datatype::Fp64, [-1, declared]) => usize::try_from(*declared) == Ok(width),
                (Kind::Texts, Datatype::Bytes, [-1, 1]) => true,
                _ => false,
            };
            // An output that is an input would be a copy of it; nobody writes that.
            if !is_as_declared || place < signature.inputs.len() {
                return None;
            }
            outputs.push(place);
        }
        Some(Direct { signature, steps: compiler.steps, outputs })
    }
}

impl Compiler {
    /// Gives the next value its place and its name, which must be a new one.
    fn name(&mut self, name: &str, kind: Kind) -> Option<()> {
        let is_new = !self.constants.contains_key(name) && !self.halves.contains_key(name);
        self.kinds.push(kind);
        (is_new && self.places.insert(name.to_owned(), self.kinds.len() - 1).is_none()).then_some(())
    }

    fn node(&mut self, node: &NodeProto) -> Option<()> {
        let [output] = &node.output[..] else { return None };
        if !node.domain.is_empty() {
            return None;
        }
        let inputs: Vec<&str> = node.input.iter().map(String::as_str).collect();
        let has = |wanted: &[(&str, i64)]| {
            let is = |(attribute, wanted): (&AttributeProto, &(&str, i64))| {
                attribute.name == wanted.0 && attribute.i == Some(wanted.1)
            };
            node.attribute.len() == wanted.len() && node.attribute.iter().zip(wanted).all(is)
        };
        let (step, kind) = match (node.op_type.as_str(), &inputs[..]) {
            ("Concat", parts) if has(&[("axis", 1)]) => {
                let parts: Option<Vec<(usize, usize)>> = parts.iter().map(|part| self.numbers(part)).collect();
                let parts = parts.filter(|parts| !parts.is_empty())?;
                let width = parts.iter().map(|(_, width)| width).sum();
                (Step::Concat(parts), Kind::Numbers(width))
            }
            ("IsNaN", [values]) if has(&[]) => {
                let (values, _) = self.numbers(values)?;
                return self.half(output, Half::IsNan(values));
            }
            ("Where", [gaps, with, otherwise]) if has(&[]) => {
                let (values, width) = self.numbers(otherwise)?;
                matches!(self.halves.get(*gaps)?, Half::IsNan(of) if *of == values).then_some(())?;
                (Step::Fill { values, with: self.row(with, width)? }, Kind::Numbers(width))
            }
            ("Sub", [values, row]) if has(&[]) => {
                let (values, width) = self.numbers(values)?;
                (Step::Subtract { values, row: self.row(row, width)? }, Kind::Numbers(width))
            }
            ("Div", [values, row]) if has(&[]) => {
                let (values, width) = self.numbers(values)?;
                (Step::Divide { values, row: self.row(row, width)? }, Kind::Numbers(width))
            }
            ("Add", [values, row]) if has(&[]) => {
                let (values, width) = self.numbers(values)?;
                (Step::Add { values, row: self.row(row, width)? }, Kind::Numbers(width))
            }
            ("Equal", [texts, known]) if has(&[]) => {
                let texts = self.place(texts, Kind::Texts)?;
                return self.half(output, Half::Equal(texts, (*known).to_owned()));
            }
            ("Cast", [equal]) if has(&[("to", DataType::Double as i64)]) => {
                let Half::Equal(texts, known) = self.halves.get(*equal)? else { return None };
                let known = match self.constants.get(known)? {
                    Constant::Texts(shape, known) if matches!(shape.as_slice(), [_] | [1, _]) => known.clone(),
                    _ => return None,
                };
                let width = known.len();
                (Step::OneHot { texts: *texts, known }, Kind::Numbers(width))
            }
            ("MatMul", [values, weights]) if has(&[]) => {
                let (values, width) = self.numbers(values)?;
                let (weights, outputs) = self.matrix(weights, width)?;
                (Step::Product { values, weights, from: vec![0.0; outputs] }, Kind::Numbers(outputs))
            }
            ("Gemm", [values, weights, from]) if has(&[]) => {
                let (values, width) = self.numbers(values)?;
                let (weights, outputs) = self.matrix(weights, width)?;
                (Step::Product { values, weights, from: self.row(from, outputs)? }, Kind::Numbers(outputs))
            }
            ("Softmax", [values]) if has(&[("axis", 1)]) => {
                let (values, width) = self.numbers(values)?;
                (Step::Softmax { values, width }, Kind::Numbers(width))
            }
            ("ArgMax", [values]) if has(&[("axis", 1), ("keepdims", 1)]) => {
                let (values, width) = self.numbers(values)?;
                (Step::ArgMax { values, width }, Kind::Indices(width))
            }
            ("Gather", [of, indices]) if has(&[("axis", 0)]) => match self.constants.get(*of)? {
                Constant::Numbers(shape, of) if shape.len() == 1 => {
                    let indices = self.place(indices, Kind::Indices(of.len()))?;
                    (Step::Numbers { indices, of: of.clone() }, Kind::Numbers(1))
                }
                Constant::Texts(shape, of) if shape.len() == 1 => {
                    let indices = self.place(indices, Kind::Indices(of.len()))?;
                    (Step::Texts { indices, of: of.clone() }, Kind::Texts)
                }
                Constant::Numbers(..) | Constant::Texts(..) => return None,
            },
            _ => return None,
        };
        let width = match kind {
            Kind::Numbers(width) => width,
            Kind::Texts | Kind::Indices(_) => 1,
        };
        // Constants are copied into their steps, and widths add up: a small file must not make much of either.
        self.work = self.work.checked_add(width)?.checked_add(step.bytes() / size_of::<f64>())?;
        self.steps.push(step);
        (self.work <= MAX_WORK).then_some(())?;
        self.name(output, kind)
    }

    fn half(&mut self, output: &str, half: Half) -> Option<()> {
        let is_new = !self.constants.contains_key(output) && !self.places.contains_key(output);
        (is_new && self.halves.insert(output.to_owned(), half).is_none()).then_some(())
    }

    /// The place of a value of this kind.
    fn place(&self, name: &str, kind: Kind) -> Option<usize> {
        self.places.get(name).copied().filter(|place| self.kinds[*place] == kind)
    }

    /// The place of numbers, and their width.
    fn numbers(&self, name: &str) -> Option<(usize, usize)> {
        let place = *self.places.get(name)?;
        match self.kinds[place] {
            Kind::Numbers(width) => Some((place, width)),
            _ => None,
        }
    }

    /// A constant with one number for each column.
    fn row(&self, name: &str, width: usize) -> Option<Vec<f64>> {
        match self.constants.get(name)? {
            Constant::Numbers(shape, numbers) if *shape == [width] || *shape == [1, width] => Some(numbers.clone()),
            _ => None,
        }
    }

    /// A constant with a row for each column, and the length of its rows.
    fn matrix(&self, name: &str, width: usize) -> Option<(Vec<f64>, usize)> {
        match self.constants.get(name)? {
            Constant::Numbers(shape, numbers) => match shape.as_slice() {
                [rows, outputs] if *rows == width && *outputs > 0 => Some((numbers.clone(), *outputs)),
                _ => None,
            },
            Constant::Texts(..) => None,
        }
    }
}

/// Numbers of 64 bits, or texts; `None` for others.
fn constant(tensor: &TensorProto) -> Option<Constant> {
    let shape: Vec<usize> = tensor.dims.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<_>>()?;
    let count = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size))?;
    match DataType::try_from(tensor.data_type).ok()? {
        DataType::Double => {
            let raw = tensor.raw_data.as_ref().filter(|_| tensor.double_data.is_empty())?;
            let (numbers, rest) = raw.as_chunks::<8>();
            let numbers: Vec<f64> = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
            (rest.is_empty() && numbers.len() == count && count > 0).then_some(Constant::Numbers(shape, numbers))
        }
        DataType::String => {
            let texts = tensor.string_data.iter().map(|text| String::from_utf8(text.clone()).ok());
            let texts = texts.collect::<Option<Vec<String>>>()?;
            (texts.len() == count && count > 0).then_some(Constant::Texts(shape, texts))
        }
        _ => None,
    }
}

fn signature(graph: &GraphProto) -> Option<Signature> {
    let specs = |values: &[ValueInfoProto]| values.iter().map(spec).collect::<Option<Vec<TensorSpec>>>();
    let signature = Signature { inputs: specs(&graph.input)?, outputs: specs(&graph.output)? };
    (!signature.inputs.is_empty() && !signature.outputs.is_empty()).then_some(signature)
}

fn spec(value: &ValueInfoProto) -> Option<TensorSpec> {
    let Some(TypeValue::Tensor(tensor)) = &value.r#type.as_ref()?.value else { return None };
    let datatype = match DataType::try_from(tensor.elem_type).ok()? {
        DataType::Double => Datatype::Fp64,
        DataType::String => Datatype::Bytes,
        _ => return None,
    };
    let size = |dimension: &crate::onnx::proto::Dimension| match dimension.value.as_ref()? {
        DimensionValue::Value(size) => Some(*size),
        DimensionValue::Parameter(_) => Some(-1),
    };
    let shape = tensor.shape.as_ref()?.dim.iter().map(size).collect::<Option<Vec<i64>>>()?;
    Some(TensorSpec { name: value.name.clone(), datatype, shape, missing: true })
}
