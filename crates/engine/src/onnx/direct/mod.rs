//! Linear models as Wattle writes them, computed without ONNX Runtime.
//!
//! A run of ONNX Runtime takes ten microseconds and more, whatever the graph; a linear function of a few columns takes
//! nanoseconds. A small graph of nothing but the operators in [`Step`], over tables of 64-bit numbers and texts, is
//! therefore compiled into steps of our own. They have ONNX's meaning, row by row, so that a row's answer does not depend
//! on the rows beside it; every other graph is ONNX Runtime's.

mod compile;
mod step;

use wattle_core::{Signature, TensorSpec};

use self::step::{Step, Value};
use crate::{Data, Error, Result, Tensor};

/// A compiled graph. It has no state: any number of threads may run it at once.
#[derive(Debug)]
pub(super) struct Direct {
    signature: Signature,
    /// Each reads values by their places and adds one: first come the inputs, then the steps' own.
    steps: Vec<Step>,
    /// The place of each output.
    outputs: Vec<usize>,
}

impl Direct {
    /// The graph's inputs and outputs, as ONNX Runtime would tell them.
    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What it holds in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let specs = self.signature.inputs.iter().chain(&self.signature.outputs);
        let specs: usize = specs.map(|spec| size_of_val(spec) + spec.name.len() + size_of_val(&spec.shape[..])).sum();
        size_of_val(self) + specs + self.steps.iter().map(Step::bytes).sum::<usize>()
    }

    /// Computes all outputs from inputs that [`in_order`](crate::in_order) gave back.
    pub(super) fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let rows = inputs.first().map_or(0, Tensor::rows);
        let mut values = Vec::with_capacity(inputs.len() + self.steps.len());
        for input in inputs {
            if input.rows() != rows {
                return Err(Error::Run(format!("{:?} has {} rows and others have {rows}", input.name, input.rows())));
            }
            values.push(match &input.data {
                Data::Fp64(numbers) => Value::from(&numbers[..]),
                Data::Bytes(texts) => Value::from(&texts[..]),
                other => return Err(Error::Run(format!("{:?} is {}", input.name, other.datatype()))),
            });
        }
        for step in &self.steps {
            values.push(step.compute(&values, rows));
        }
        let output = |(spec, place): (&TensorSpec, &usize)| {
            let data = values[*place].to_data();
            let width = spec.shape.get(1).and_then(|width| usize::try_from(*width).ok()).unwrap_or(1);
            Tensor::new(spec.name.as_str(), vec![rows, width], data)
        };
        self.signature.outputs.iter().zip(&self.outputs).map(output).collect()
    }
}
