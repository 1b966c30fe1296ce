use std::{
    borrow::Cow,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use ort::{
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{TensorElementType, ValueType},
};
use prost::Message;
use wattle_core::{Datatype, Signature, TensorSpec};

use super::{
    direct::Direct,
    proto::ModelProto,
    runtime,
    threads::Pool,
    value::{from_value, to_value},
};
use crate::{Error, Result, Tensor, in_order};

/// A file of a linear model of a few thousand weights is smaller, and only such files are read for it.
const MAX_DIRECT_BYTES: u64 = 1 << 20;

/// A loaded ONNX model.
///
/// A batch is computed on the caller's own thread and those of its pool, so that these threads' clocks are the batch's
/// processor time.
pub struct OnnxModel(Form);

/// Who computes it.
enum Form {
    Direct(Direct),
    Runtime(Runtime),
}

/// A session of ONNX Runtime, which is not to be entered twice at once.
struct Runtime {
    session: Mutex<Session>,
    signature: Signature,
    threads: usize,
    pool: Pool,
}

impl OnnxModel {
    /// Loads the model in this file, to compute on so many threads, the caller's own among them. A linear model as Wattle
    /// writes them needs one thread, and no ONNX Runtime.
    ///
    /// # Errors
    /// [`Error::InvalidModel`] when ONNX Runtime refuses the file or a type of its inputs or outputs is not served;
    /// [`Error::RuntimeMissing`] when there is no ONNX Runtime; [`Error::Io`] when the system cannot read the file.
    pub fn load(path: &Path, threads: usize) -> Result<OnnxModel> {
        match direct(path)? {
            Some(direct) => Ok(OnnxModel(Form::Direct(direct))),
            None => OnnxModel::load_in_runtime(path, threads),
        }
    }

    /// Loads the model for ONNX Runtime to compute, whatever it is.
    ///
    /// # Errors
    /// As [`OnnxModel::load`].
    pub fn load_in_runtime(path: &Path, threads: usize) -> Result<OnnxModel> {
        Runtime::load(path, threads).map(|runtime| OnnxModel(Form::Runtime(runtime)))
    }

    /// How many threads compute a batch.
    pub fn threads(&self) -> usize {
        match &self.0 {
            Form::Direct(_) => 1,
            Form::Runtime(runtime) => runtime.threads,
        }
    }

    /// The threads of its pool, as the kernel knows them: all that compute but the caller's own.
    pub fn pool_thread_ids(&self) -> Vec<i32> {
        match &self.0 {
            Form::Direct(_) => Vec::new(),
            Form::Runtime(runtime) => runtime.pool.ids(),
        }
    }

    /// Whether several threads may compute with it at once; otherwise each waits for the one before.
    pub fn is_reentrant(&self) -> bool {
        matches!(self.0, Form::Direct(_))
    }

    /// What it holds in memory, in bytes, where that can be counted instead of measured.
    pub fn known_bytes(&self) -> Option<u64> {
        match &self.0 {
            Form::Direct(direct) => Some(direct.bytes() as u64),
            Form::Runtime(_) => None,
        }
    }

    /// The graph's inputs and outputs.
    pub fn signature(&self) -> &Signature {
        match &self.0 {
            Form::Direct(direct) => direct.signature(),
            Form::Runtime(runtime) => &runtime.signature,
        }
    }

    /// Computes every output from all inputs, in the order of the signature's outputs.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for an input that is absent, twice, unknown, or does not fit; [`Error::Run`] when the
    /// graph itself fails on these values.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run_in_order(&in_order(self.signature(), inputs.to_vec())?)
    }

    /// The same for inputs that [`in_order`] gave back.
    pub fn run_in_order(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        match &self.0 {
            Form::Direct(direct) => direct.run(inputs),
            Form::Runtime(runtime) => runtime.run(inputs),
        }
    }
}

/// The model in steps of our own, if it is one of those.
fn direct(path: &Path) -> Result<Option<Direct>> {
    if fs::metadata(path)?.len() > MAX_DIRECT_BYTES {
        return Ok(None);
    }
    // What is wrong with a file is ONNX Runtime's to say.
    Ok(ModelProto::decode(fs::read(path)?.as_slice()).ok().and_then(|model| Direct::compile(&model)))
}

impl Runtime {
    fn load(path: &Path, threads: usize) -> Result<Runtime> {
        let environment = runtime::environment()?;
        let pool = Pool::default();
        let invalid = |error: String| Error::InvalidModel(format!("not a usable ONNX model: {error}"));
        let session = Session::builder(environment)
            .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::Level3)?))
            .and_then(|builder| Ok(builder.with_intra_threads(threads)?))
            .and_then(|builder| Ok(builder.with_inter_threads(1)?))
            .and_then(|builder| Ok(builder.with_thread_manager(pool.clone())?))
            // Between two runs the pool's threads would wait actively, and take processors from those who read the next calls.
            .and_then(|builder| Ok(builder.with_config_entry("session.force_spinning_stop", "1")?))
            // Work is shared out in small parts: whoever is interrupted to read or answer a call holds nobody else up for long.
            .and_then(|builder| Ok(builder.with_config_entry("session.dynamic_block_base", "4")?))
            // To plan a run's memory pays where runs are long; of a small model's it takes a large part.
            .and_then(|builder| Ok(builder.with_memory_pattern(threads > 1)?))
            .and_then(|mut builder| builder.commit_from_file(path))
            .map_err(|error| invalid(error.to_string()))?;
        let specs = |outlets: &[ort::value::Outlet], role| {
            outlets.iter().map(|outlet| spec(role, outlet.name(), outlet.dtype())).collect::<Result<Vec<TensorSpec>>>()
        };
        let signature =
            Signature { inputs: specs(session.inputs(), "input")?, outputs: specs(session.outputs(), "output")? };
        if signature.inputs.is_empty() || signature.outputs.is_empty() {
            return Err(Error::InvalidModel("not a usable ONNX model: it has no inputs or no outputs".into()));
        }
        Ok(Runtime { session: Mutex::new(session), signature, threads, pool })
    }

    fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for tensor in inputs {
            values.push((Cow::Borrowed(tensor.name.as_str()), to_value(tensor)?));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(values).map_err(|error| Error::Run(error.to_string()))?;
        let read = |spec: &TensorSpec| {
            let value = outputs.get(&spec.name).ok_or_else(|| Error::Run(format!("no output {:?}", spec.name)))?;
            from_value(spec, value)
        };
        self.signature.outputs.iter().map(read).collect()
    }
}

fn spec(role: &str, name: &str, value: &ValueType) -> Result<TensorSpec> {
    let ValueType::Tensor { ty, shape, .. } = value else {
        return Err(Error::InvalidModel(format!(
            "{role} {name:?} is not a tensor: export the model with tensors only (scikit-learn: zipmap=False)"
        )));
    };
    let datatype = match ty {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        other => {
            return Err(Error::InvalidModel(format!(
                "{role} {name:?} has the type {other}, which is not served: export it as FP32"
            )));
        }
    };
    Ok(TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), missing: true })
}
