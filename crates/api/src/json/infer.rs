//! An inference request of the Open Inference Protocol out of JSON, its tensors straight in their own type.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use wattle_core::Datatype;
use wattle_engine::{Data, Tensor};

use super::column::{Column, Failure, parse};
use crate::{ApiError, Result};

/// What a request says, tensors apart that stand behind the JSON.
#[derive(Debug, Default)]
pub struct InferRequest {
    /// The caller's own name of the request, which comes back.
    pub id: Option<String>,
    /// What else the caller asks for.
    pub parameters: Map<String, Value>,
    /// The inputs.
    pub inputs: Vec<InferInput>,
    /// The wanted outputs; all when there is none.
    pub outputs: Vec<RequestedOutput>,
}

/// One input.
#[derive(Debug)]
pub struct InferInput {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// The type of its elements.
    pub datatype: Datatype,
    /// What else is said of it.
    pub parameters: Map<String, Value>,
    /// Its elements; absent when they stand behind the JSON.
    pub data: Option<Data>,
}

/// One output that the caller wants.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// How it is wanted.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

impl InferRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// JSON that is no such request; values of another type than the input says; data that is neither flat nor nested as
    /// the shape says.
    pub fn from_json(json: &[u8]) -> Result<InferRequest> {
        parse(json, |failure, deserializer| Request { failure }.deserialize(deserializer))
    }
}

impl InferInput {
    /// The tensor.
    ///
    /// # Errors
    /// An input without data; a number of elements that is not its shape's.
    pub fn into_tensor(self) -> Result<Tensor> {
        let InferInput { name, shape, data, .. } = self;
        let data = data.ok_or_else(|| ApiError::invalid(format!("input {name:?} has no data: send it too")))?;
        Ok(Tensor::new(name, shape, data)?)
    }
}

struct Request<'a> {
    failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Request<'_> {
    type Value = InferRequest;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InferRequest, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Request<'_> {
    type Value = InferRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an inference request with inputs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<InferRequest, A::Error> {
        let mut request = InferRequest::default();
        let mut inputs = None;
        while let Some(key) = pairs.next_key::<Cow<'de, str>>()? {
            match &*key {
                "id" => request.id = pairs.next_value()?,
                "parameters" => request.parameters = pairs.next_value::<Option<_>>()?.unwrap_or_default(),
                "inputs" => inputs = Some(pairs.next_value_seed(Inputs { failure: self.failure })?),
                "outputs" => request.outputs = pairs.next_value::<Option<_>>()?.unwrap_or_default(),
                _ => {
                    pairs.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        request.inputs = inputs.ok_or_else(|| A::Error::missing_field("inputs"))?;
        Ok(request)
    }
}

struct Inputs<'a> {
    failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Inputs<'_> {
    type Value = Vec<InferInput>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_> {
    type Value = Vec<InferInput>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut inputs = Vec::new();
        while let Some(input) = items.next_element_seed(Input { failure: self.failure })? {
            inputs.push(input);
        }
        Ok(inputs)
    }
}

struct Input<'a> {
    failure: &'a Failure,
}

impl<'de> DeserializeSeed<'de> for Input<'_> {
    type Value = InferInput;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InferInput, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Input<'_> {
    type Value = InferInput;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input with name, shape, datatype and data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<InferInput, A::Error> {
        let (mut name, mut shape, mut datatype) = (None::<String>, None::<Vec<usize>>, None::<Datatype>);
        let (mut parameters, mut read, mut raw) = (Map::new(), None, None::<Value>);
        while let Some(key) = pairs.next_key::<Cow<'de, str>>()? {
            match &*key {
                "name" => name = Some(pairs.next_value()?),
                "shape" => shape = Some(pairs.next_value()?),
                "datatype" => {
                    let text: Cow<'de, str> = pairs.next_value()?;
                    datatype = Some(
                        text.parse()
                            .map_err(|error: wattle_core::ParseError| self.failure.set::<A::Error>(error.into()))?,
                    );
                }
                "parameters" => parameters = pairs.next_value::<Option<_>>()?.unwrap_or_default(),
                // Written after the type, as most clients do, the data is read on the spot; before it, it is kept as a value.
                "data" => match datatype {
                    Some(datatype) => {
                        let mut column = Column::new(name.as_deref().unwrap_or_default(), datatype, self.failure);
                        pairs.next_value_seed(column.value())?;
                        read = Some(column.into_parts());
                    }
                    None => raw = Some(pairs.next_value()?),
                },
                _ => {
                    pairs.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        let name = name.ok_or_else(|| A::Error::missing_field("name"))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let datatype = datatype.ok_or_else(|| A::Error::missing_field("datatype"))?;
        if let Some(raw) = raw {
            let mut column = Column::new(&name, datatype, self.failure);
            column.value().deserialize(raw).map_err(A::Error::custom)?;
            read = Some(column.into_parts());
        }
        let data = match read {
            // Data may be nested as the shape says, or flat.
            Some((nested, data)) if nested.len() == 1 || nested == shape => Some(data),
            Some(_) => {
                return Err(self.failure.set(ApiError::invalid(format!(
                    "input {name:?}: the data is neither flat nor nested as its shape {shape:?} says"
                ))));
            }
            None => None,
        };
        Ok(InferInput { name, shape, datatype, parameters, data })
    }
}
