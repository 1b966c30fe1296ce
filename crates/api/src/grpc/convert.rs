//! Between messages and tensors, both ways, by hand.

use std::{collections::HashMap, fmt::Display};

use bytes::Bytes;
use wattle_core::{Datatype, Name, Signature};
use wattle_engine::{Data, Tensor};
use wattle_serve::Prediction;

use super::proto::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
};
use crate::{
    ApiError, Code, Result,
    answer::{CPU_SECONDS, check_wanted, cost},
};

/// The inputs of a call, all as raw bytes or all as typed contents.
///
/// # Errors
/// A datatype or shape that is none, elements of another number, type or place than they should have.
pub(crate) fn inputs(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<Tensor>> {
    inputs.iter().try_for_each(|input| refuse_shared_memory("input", &input.name, &input.parameters))?;
    if raw.is_empty() {
        return inputs.into_iter().map(typed_input).collect();
    }
    if raw.len() != inputs.len() {
        return Err(ApiError::invalid(format!(
            "raw_input_contents has {} entries for {} inputs: send one for each",
            raw.len(),
            inputs.len()
        )));
    }
    inputs.into_iter().zip(raw).map(|(input, raw)| raw_input(input, raw)).collect()
}

/// The places among the model's outputs of those that a call asks for; all of them when it names none.
pub(super) fn wanted_outputs(signature: &Signature, requested: &[InferRequestedOutputTensor]) -> Result<Vec<usize>> {
    if requested.is_empty() {
        return Ok((0..signature.outputs.len()).collect());
    }
    check_wanted(requested.iter().map(|output| output.name.as_str()))?;
    let wanted = |output: &InferRequestedOutputTensor| {
        let name = &output.name;
        refuse_shared_memory("output", name, &output.parameters)?;
        if output.parameters.contains_key("classification") {
            let message = format!("output {name:?}: classification is not supported: ask for the output as it is");
            return Err(ApiError::new(Code::Unsupported, message));
        }
        signature.outputs.iter().position(|spec| spec.name == *name).ok_or_else(|| {
            let known: Vec<&str> = signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
            ApiError::invalid(format!("unknown output {name:?}: the model has {}", known.join(", ")))
        })
    };
    requested.iter().map(wanted).collect()
}

/// An answer with the wanted outputs as raw bytes, and its cost as parameters.
pub(super) fn response(
    name: &Name,
    id: String,
    wanted: &[usize],
    prediction: Prediction,
) -> Result<ModelInferResponse> {
    let parameters =
        cost(&prediction).into_iter().map(|(name, text)| (name.to_owned(), text_parameter(text.into_owned())));
    let mut response = ModelInferResponse {
        model_name: name.to_string(),
        model_version: prediction.model.version.to_string(),
        id,
        parameters: parameters.collect(),
        ..ModelInferResponse::default()
    };
    let mut computed: Vec<Option<Tensor>> = prediction.outputs.into_iter().map(Some).collect();
    let outputs = wanted.iter().map(|index| {
        let tensor = computed.get_mut(*index).and_then(Option::take);
        tensor.ok_or_else(|| ApiError::internal("an output is absent"))
    });
    add_outputs(&mut response, outputs.collect::<Result<Vec<Tensor>>>()?);
    Ok(response)
}

/// Puts outputs into an answer, as raw bytes.
pub(crate) fn add_outputs(response: &mut ModelInferResponse, outputs: Vec<Tensor>) {
    for Tensor { name, shape, data } in outputs {
        response.outputs.push(InferOutputTensor {
            name,
            datatype: data.datatype().to_string(),
            shape: sizes(&shape),
            ..InferOutputTensor::default()
        });
        response.raw_output_contents.push(data.into_le_bytes());
    }
}

/// A call of a model in a process of its own, which knows which model it has.
pub(crate) fn request(inputs: &[Tensor]) -> ModelInferRequest {
    let mut request = ModelInferRequest::default();
    for tensor in inputs {
        request.inputs.push(InferInputTensor {
            name: tensor.name.clone(),
            datatype: tensor.data.datatype().to_string(),
            shape: sizes(&tensor.shape),
            ..InferInputTensor::default()
        });
        request.raw_input_contents.push(tensor.data.clone().into_le_bytes());
    }
    request
}

/// The outputs in an answer that has them as raw bytes, as every answer of ours.
pub(crate) fn outputs(response: ModelInferResponse) -> Result<Vec<Tensor>> {
    let (outputs, raw) = (response.outputs, response.raw_output_contents);
    if outputs.len() != raw.len() {
        return Err(ApiError::internal("an answer has other outputs than it tells of"));
    }
    let output = |(output, raw): (InferOutputTensor, Bytes)| {
        let shape = shape(&output.name, &output.shape)?;
        Ok(Tensor::new(output.name, shape, Data::from_le_bytes(output.datatype.parse()?, raw)?)?)
    };
    outputs.into_iter().zip(raw).map(output).collect()
}

/// Puts into an answer what it cost.
pub(crate) fn add_cpu_seconds(response: &mut ModelInferResponse, cpu_seconds: f64) {
    response.parameters.insert(CPU_SECONDS.into(), text_parameter(format!("{cpu_seconds:.9}")));
}

/// What an answer cost, if it says so.
pub(crate) fn cpu_seconds(response: &ModelInferResponse) -> Option<f64> {
    match &response.parameters.get(CPU_SECONDS)?.parameter_choice {
        Some(ParameterChoice::StringParam(text)) => text.parse().ok(),
        _ => None,
    }
}

fn raw_input(input: InferInputTensor, raw: Bytes) -> Result<Tensor> {
    if input.contents.is_some_and(|contents| contents != InferTensorContents::default()) {
        let message = format!("input {:?} has contents beside raw_input_contents: send one of them", input.name);
        return Err(ApiError::invalid(message));
    }
    let shape = shape(&input.name, &input.shape)?;
    let data = Data::from_le_bytes(input.datatype.parse()?, raw)
        .map_err(|error| ApiError::invalid(format!("input {:?}: {error}", input.name)))?;
    Ok(Tensor::new(input.name, shape, data)?)
}

fn typed_input(input: InferInputTensor) -> Result<Tensor> {
    let shape = shape(&input.name, &input.shape)?;
    let datatype: Datatype = input.datatype.parse()?;
    let data = typed(&input.name, datatype, input.contents.unwrap_or_default())?;
    if data.is_empty() && !shape.contains(&0) {
        let list = list_of(datatype);
        let message = format!("input {:?} is {datatype}, whose values belong in {list}, which is empty", input.name);
        return Err(ApiError::invalid(message));
    }
    Ok(Tensor::new(input.name, shape, data)?)
}

fn typed(name: &str, datatype: Datatype, contents: InferTensorContents) -> Result<Data> {
    Ok(match datatype {
        Datatype::Bool => Data::Bool(contents.bool_contents),
        Datatype::Int8 => Data::Int8(narrowed(name, datatype, contents.int_contents)?.into()),
        Datatype::Int16 => Data::Int16(narrowed(name, datatype, contents.int_contents)?.into()),
        Datatype::Int32 => Data::Int32(contents.int_contents.into()),
        Datatype::Int64 => Data::Int64(contents.int64_contents.into()),
        Datatype::Uint8 => Data::Uint8(narrowed(name, datatype, contents.uint_contents)?.into()),
        Datatype::Uint16 => Data::Uint16(narrowed(name, datatype, contents.uint_contents)?.into()),
        Datatype::Uint32 => Data::Uint32(contents.uint_contents.into()),
        Datatype::Uint64 => Data::Uint64(contents.uint64_contents.into()),
        Datatype::Fp32 => Data::Fp32(contents.fp32_contents.into()),
        Datatype::Fp64 => Data::Fp64(contents.fp64_contents.into()),
        Datatype::Bytes => Data::Bytes(texts(name, contents.bytes_contents)?),
        Datatype::Fp16 | Datatype::Bf16 => {
            let message = format!("input {name:?} is {datatype}, which has no contents: use raw_input_contents");
            return Err(ApiError::invalid(message));
        }
    })
}

/// Where the protocol has the elements of a type.
fn list_of(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => "raw_input_contents",
    }
}

/// Numbers that travel in a wider type than they are.
fn narrowed<W: Copy + Display, N: TryFrom<W>>(name: &str, datatype: Datatype, wide: Vec<W>) -> Result<Vec<N>> {
    let narrow = |number| {
        N::try_from(number)
            .map_err(|_| ApiError::invalid(format!("input {name:?}: {number} is no {datatype}: send a smaller number")))
    };
    wide.into_iter().map(narrow).collect()
}

fn texts(name: &str, values: Vec<Vec<u8>>) -> Result<Vec<String>> {
    let text = |(position, bytes)| {
        String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(|| {
            ApiError::invalid(format!("input {name:?}: BYTES value {position} is not UTF-8 without NUL: send text"))
        })
    };
    values.into_iter().enumerate().map(text).collect()
}

fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect()
}

fn shape(name: &str, sizes: &[i64]) -> Result<Vec<usize>> {
    let size = |size: &i64| usize::try_from(*size);
    sizes
        .iter()
        .map(size)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| ApiError::invalid(format!("input {name:?} has the shape {sizes:?}: a size cannot be negative")))
}

/// Triton's clients may name a region of its machine's memory in place of values.
fn refuse_shared_memory(what: &str, name: &str, parameters: &HashMap<String, InferParameter>) -> Result<()> {
    match parameters.contains_key("shared_memory_region") {
        true => Err(ApiError::new(
            Code::Unsupported,
            format!("{what} {name:?} is in shared memory, which is not supported: send values in the messages"),
        )),
        false => Ok(()),
    }
}

/// A parameter that every client can read: older contracts know no other types than text, whole numbers and truth.
fn text_parameter(text: String) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text)) }
}

/// A parameter's whole number, whichever type it was sent in.
pub(super) fn whole_number(parameters: &HashMap<String, InferParameter>, name: &str) -> Result<Option<u64>> {
    let Some(parameter) = parameters.get(name) else { return Ok(None) };
    let number = match &parameter.parameter_choice {
        Some(ParameterChoice::Uint64Param(number)) => Some(*number),
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    number.map(Some).ok_or_else(|| ApiError::invalid(format!("parameter {name:?} must be a whole number from 0 on")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn input(datatype: &str, shape: &[i64], contents: InferTensorContents) -> InferInputTensor {
        InferInputTensor {
            name: "x".into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            contents: Some(contents),
            ..InferInputTensor::default()
        }
    }

    fn raw(datatype: &str, shape: &[i64], bytes: &'static [u8]) -> Result<Data> {
        let sent = input(datatype, shape, InferTensorContents::default());
        inputs(vec![sent], vec![Bytes::from_static(bytes)]).map(|mut tensors| tensors.remove(0).data)
    }

    #[test]
    fn every_type_has_its_list() {
        let contents = InferTensorContents {
            bool_contents: vec![true],
            int_contents: vec![-5],
            int64_contents: vec![i64::MIN],
            uint_contents: vec![7],
            uint64_contents: vec![u64::MAX],
            fp32_contents: vec![0.5],
            fp64_contents: vec![0.25],
            bytes_contents: vec!["é".into()],
        };
        let read = |datatype| inputs(vec![input(datatype, &[1], contents.clone())], Vec::new()).unwrap().remove(0).data;
        assert_eq!(read("BOOL"), Data::Bool(vec![true]));
        assert_eq!(read("INT8"), Data::Int8(vec![-5].into()));
        assert_eq!(read("INT16"), Data::Int16(vec![-5].into()));
        assert_eq!(read("INT32"), Data::Int32(vec![-5].into()));
        assert_eq!(read("INT64"), Data::Int64(vec![i64::MIN].into()));
        assert_eq!(read("UINT8"), Data::Uint8(vec![7].into()));
        assert_eq!(read("UINT16"), Data::Uint16(vec![7].into()));
        assert_eq!(read("UINT32"), Data::Uint32(vec![7].into()));
        assert_eq!(read("UINT64"), Data::Uint64(vec![u64::MAX].into()));
        assert_eq!(read("FP32"), Data::Fp32(vec![0.5].into()));
        assert_eq!(read("FP64"), Data::Fp64(vec![0.25].into()));
        assert_eq!(read("BYTES"), Data::Bytes(vec!["é".into()]));
    }

    #[test]
    fn typed_contents_that_do_not_fit_are_told() {
        let refusal = |datatype, shape: &[i64], contents| {
            inputs(vec![input(datatype, shape, contents)], Vec::new()).unwrap_err().message
        };
        let whole = InferTensorContents { int_contents: vec![300], ..Default::default() };
        assert!(refusal("INT8", &[1], whole.clone()).contains("300 is no INT8"));
        assert!(refusal("INT64", &[1], whole.clone()).contains("belong in int64_contents, which is empty"));
        assert!(refusal("INT32", &[-1], whole.clone()).contains("cannot be negative"));
        assert!(refusal("INT32", &[2], whole.clone()).contains("needs 2 values"));
        assert!(refusal("FP16", &[1], whole).contains("use raw_input_contents"));
        let bytes = InferTensorContents { bytes_contents: vec![vec![0xff]], ..Default::default() };
        assert!(refusal("BYTES", &[1], bytes).contains("BYTES value 0 is not UTF-8"));
    }

    #[test]
    fn raw_bytes_are_read_as_their_type() {
        assert_eq!(raw("INT16", &[2], b"\x01\0\xff\xff").unwrap(), Data::Int16(vec![1, -1].into()));
        assert_eq!(raw("BYTES", &[1], b"\x01\0\0\0a").unwrap(), Data::Bytes(vec!["a".into()]));
        assert_eq!(raw("FP16", &[1], b"\0\x3c").unwrap().into_le_bytes(), Bytes::from_static(b"\0\x3c"));
        assert_eq!(raw("BF16", &[1], b"\x80\x3f").unwrap().into_le_bytes(), Bytes::from_static(b"\x80\x3f"));
    }

    #[test]
    fn raw_bytes_that_do_not_fit_are_told() {
        assert!(raw("FP32", &[1], b"\0\0").unwrap_err().message.contains("input \"x\": 2 bytes are no whole number"));
        assert!(raw("FP32", &[2], b"\0\0\0\0").unwrap_err().message.contains("needs 2 values"));
        let both = input("INT32", &[1], InferTensorContents { int_contents: vec![1], ..Default::default() });
        let refusal = inputs(vec![both.clone()], vec![Bytes::from_static(b"\0\0\0\0")]).unwrap_err().message;
        assert!(refusal.contains("beside raw_input_contents"));
        assert!(inputs(vec![both; 2], vec![Bytes::new()]).unwrap_err().message.contains("1 entries for 2 inputs"));
    }

    #[test]
    fn tensors_come_back_from_a_process_as_they_went() {
        let sent = [
            Tensor::new("x", vec![2, 1], Data::Fp64(vec![1.0, f64::NAN].into())).unwrap(),
            Tensor::new("y", vec![1], Data::Bytes(vec!["é".into()])).unwrap(),
            Tensor::new("z", vec![0, 3], Data::Bool(vec![])).unwrap(),
        ];
        let request = request(&sent);
        let received = inputs(request.inputs, request.raw_input_contents).unwrap();
        let mut response = ModelInferResponse::default();
        add_outputs(&mut response, received);
        add_cpu_seconds(&mut response, 0.25);
        assert_eq!(cpu_seconds(&response), Some(0.25));
        let back = outputs(response).unwrap();
        // NaN is not itself.
        assert_eq!(format!("{back:?}"), format!("{sent:?}"));
    }

    #[test]
    fn shared_memory_is_not_supported() {
        let mut region = input("INT32", &[1], InferTensorContents::default());
        region.parameters.insert("shared_memory_region".into(), text_parameter("region".into()));
        let refusal = inputs(vec![region], Vec::new()).unwrap_err();
        assert_eq!(refusal.code, Code::Unsupported);
    }
}
