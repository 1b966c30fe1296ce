use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ParseError, nearest};

/// The type of a tensor's elements, named as in the Open Inference Protocol v2.
#[allow(missing_docs, reason = "the names are the protocol's own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    const ALL: [Datatype; 14] = [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Bf16,
        Datatype::Fp32,
        Datatype::Fp64,
        Datatype::Bytes,
    ];

    /// The protocol's name of the type.
    pub fn as_str(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Bf16 => "BF16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Bytes => "BYTES",
        }
    }

    /// Bytes of one element; `None` for BYTES, whose elements differ.
    pub fn size(self) -> Option<usize> {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => Some(1),
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => Some(2),
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => Some(4),
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => Some(8),
            Datatype::Bytes => None,
        }
    }
}

impl FromStr for Datatype {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Datatype, ParseError> {
        Datatype::ALL.into_iter().find(|datatype| datatype.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = Datatype::ALL.into_iter().map(Datatype::as_str).collect();
            ParseError(format!("unknown datatype {text:?}: use one of {}", known.join(", ")))
        })
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One named input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The tensor's name in the graph.
    pub name: String,
    /// The type of its elements.
    pub datatype: Datatype,
    /// Its dimensions; -1 where any size will do, which is usually the first: the rows.
    pub shape: Vec<i64>,
    /// Whether a value may be missing: NaN for a number, an empty text for a category.
    ///
    /// True for imported models, whose graphs say nothing of it, and for a trained column that had gaps.
    #[serde(default = "yes")]
    pub missing: bool,
}

fn yes() -> bool {
    true
}

/// The named inputs and outputs of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The inputs, in the graph's order.
    pub inputs: Vec<TensorSpec>,
    /// The outputs, in the graph's order.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// The input of this name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|spec| spec.name == name)
    }

    /// The name of the input that is spelt most like `name`, for error messages.
    pub fn nearest_input(&self, name: &str) -> Option<&str> {
        nearest(name, self.inputs.iter().map(|spec| spec.name.as_str()))
    }
}
