//! What there is to tell of deployments in the words of the Open Inference Protocol and of Triton, for REST and gRPC alike.
//!
//! The structures are the answers of REST as they stand; gRPC makes its messages of them.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use wattle_core::{Datatype, Name, TensorSpec};
use wattle_serve::{
    Replica,
    metrics::{Histogram, Protocol},
};

use crate::{ApiError, Code, Result, Service};

/// Triton's names of what is served beyond the protocol.
pub(crate) const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// The deployment of this name; with a version the revision that answers with it, be it the stable one or its canary.
pub(crate) fn find(service: &dyn Service, name: &Name, version: &str) -> Result<Arc<Replica>> {
    let replica = service.find(Some(name))?;
    if version.is_empty() {
        return Ok(replica);
    }
    version.parse().ok().and_then(|version| replica.of_version(version)).ok_or_else(|| {
        let served = versions(&replica);
        let asked: String = version.chars().take(20).collect();
        let plural = if served.len() > 1 { "s" } else { "" };
        let message = format!("deployment {name} serves version{plural} {}, not {asked}", served.join(" and "));
        ApiError::new(Code::NotFound, message)
    })
}

/// The versions that answer, the stable one first.
fn versions(replica: &Replica) -> Vec<String> {
    replica.versions().iter().map(u32::to_string).collect()
}

/// The inputs and outputs of a model.
#[derive(Debug, Serialize)]
pub(crate) struct Metadata {
    pub(crate) name: Name,
    pub(crate) versions: Vec<String>,
    pub(crate) platform: &'static str,
    pub(crate) inputs: Vec<TensorMetadata>,
    pub(crate) outputs: Vec<TensorMetadata>,
}

/// An input or output of a model.
#[derive(Debug, Serialize)]
pub(crate) struct TensorMetadata {
    pub(crate) name: String,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Vec<i64>,
}

impl Metadata {
    pub(crate) fn of(replica: &Replica) -> Metadata {
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype,
            shape: spec.shape.clone(),
        };
        Metadata {
            name: replica.name().clone(),
            versions: versions(replica),
            platform: platform(replica),
            inputs: replica.signature().inputs.iter().map(tensor).collect(),
            outputs: replica.signature().outputs.iter().map(tensor).collect(),
        }
    }
}

/// How a model is served.
#[derive(Debug, Serialize)]
pub(crate) struct Config {
    pub(crate) name: Name,
    pub(crate) platform: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) version_policy: VersionPolicy,
    /// 0 where the server makes no batches of calls; otherwise dimensions are told without the rows.
    pub(crate) max_batch_size: u32,
    pub(crate) input: Vec<TensorConfig>,
    pub(crate) output: Vec<TensorConfig>,
    pub(crate) instance_group: Vec<InstanceGroup>,
    pub(crate) default_model_filename: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dynamic_batching: Option<DynamicBatching>,
    pub(crate) parameters: BTreeMap<String, Parameter>,
    pub(crate) model_transaction_policy: TransactionPolicy,
}

/// Which versions are served.
#[derive(Debug, Serialize)]
pub(crate) struct VersionPolicy {
    pub(crate) specific: Versions,
}

/// Versions of a model.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) versions: Vec<i64>,
}

/// An input or output, as a configuration has it.
#[derive(Debug, Serialize)]
pub(crate) struct TensorConfig {
    pub(crate) name: String,
    #[serde(serialize_with = "type_name")]
    pub(crate) data_type: Datatype,
    pub(crate) dims: Vec<i64>,
}

/// Where a model computes.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceGroup {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) count: u32,
}

/// How batches of calls are made.
#[derive(Debug, Serialize)]
pub(crate) struct DynamicBatching {
    pub(crate) max_queue_delay_microseconds: u64,
    pub(crate) preserve_ordering: bool,
}

/// A setting that Triton has no field for.
#[derive(Debug, Serialize)]
pub(crate) struct Parameter {
    pub(crate) string_value: String,
}

/// How many answers a call has: one.
#[derive(Debug, Serialize)]
pub(crate) struct TransactionPolicy {
    pub(crate) decoupled: bool,
}

impl Config {
    pub(crate) fn of(replica: &Replica) -> Config {
        let max_batch_size = match replica.max_batch_rows() {
            0 | 1 => 0,
            rows => u32::try_from(rows).unwrap_or(u32::MAX),
        };
        let tensor = |spec: &TensorSpec| TensorConfig {
            name: spec.name.clone(),
            data_type: spec.datatype,
            // Rows are not told where batches are made of them.
            dims: spec.shape.iter().skip(usize::from(max_batch_size > 0)).copied().collect(),
        };
        let batching = DynamicBatching {
            max_queue_delay_microseconds: u64::try_from(replica.settings().max_queue_delay.as_micros())
                .unwrap_or(u64::MAX),
            preserve_ordering: false,
        };
        let deployment = replica.deployment();
        let parameter = |name: &str, value: String| (name.to_owned(), Parameter { string_value: value });
        Config {
            name: replica.name().clone(),
            platform: platform(replica),
            backend: if replica.is_pipeline() { "wattle" } else { "onnxruntime" },
            version_policy: VersionPolicy { specific: Versions { versions: vec![i64::from(deployment.version)] } },
            max_batch_size,
            input: replica.signature().inputs.iter().map(tensor).collect(),
            output: replica.signature().outputs.iter().map(tensor).collect(),
            instance_group: vec![InstanceGroup { name: replica.name().to_string(), kind: "KIND_CPU", count: 1 }],
            default_model_filename: if replica.is_pipeline() { "" } else { "model.onnx" },
            dynamic_batching: (max_batch_size > 0).then_some(batching),
            parameters: [parameter("model", replica.model_version().to_string())].into(),
            model_transaction_policy: TransactionPolicy { decoupled: false },
        }
    }
}

/// The protocol's name of what computes.
fn platform(replica: &Replica) -> &'static str {
    if replica.is_pipeline() { "wattle_pipeline" } else { "onnx_onnxruntime" }
}

/// Triton's name of a type.
pub(crate) fn triton_type(datatype: Datatype) -> String {
    match datatype {
        Datatype::Bytes => "TYPE_STRING".into(),
        other => format!("TYPE_{other}"),
    }
}

fn type_name<S: serde::Serializer>(datatype: &Datatype, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&triton_type(*datatype))
}

/// The statistics of models, as REST answers them.
#[derive(Debug, Serialize)]
pub(crate) struct AllStatistics {
    pub(crate) model_stats: Vec<Statistics>,
}

/// What a model did.
#[derive(Debug, Serialize)]
pub(crate) struct Statistics {
    pub(crate) name: Name,
    pub(crate) version: String,
    /// Milliseconds since the epoch; 0 before the first.
    pub(crate) last_inference: u64,
    /// Rows.
    pub(crate) inference_count: u64,
    /// Runs of the model.
    pub(crate) execution_count: u64,
    pub(crate) inference_stats: InferenceStatistics,
    pub(crate) memory_usage: Vec<MemoryUsage>,
}

/// The times of calls.
#[derive(Debug, Serialize)]
pub(crate) struct InferenceStatistics {
    pub(crate) success: Times,
    pub(crate) fail: Times,
    pub(crate) queue: Times,
    pub(crate) compute_input: Times,
    pub(crate) compute_infer: Times,
    pub(crate) compute_output: Times,
    /// Answers are never kept.
    pub(crate) cache_hit: Times,
    pub(crate) cache_miss: Times,
}

/// How often something was done and for how long in all.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) ns: u64,
}

/// Memory that a model takes.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryUsage {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) id: i64,
    pub(crate) byte_size: u64,
}

impl Statistics {
    pub(crate) fn of(replica: &Replica) -> Statistics {
        let metrics = replica.metrics();
        let sum = |histogram: &Histogram| histogram.distribution().map_or(0, |told| told.sum as u64);
        let count = |histogram: &Histogram| histogram.distribution().map_or(0, |told| told.count);
        let phase = |name| {
            let found = metrics.phases().find(|(phase, _)| *phase == name);
            found.map_or(Times::default(), |(_, histogram)| times(histogram))
        };
        let codes = Protocol::ALL.into_iter().flat_map(|protocol| {
            let codes = metrics.requests(protocol).into_iter();
            codes.filter(move |(code, _)| failed(protocol, *code)).map(|(_, count)| count)
        });
        let success = Protocol::ALL.map(|protocol| times(metrics.durations(protocol))).into_iter();
        let success =
            success.fold(Times::default(), |all, one| Times { count: all.count + one.count, ns: all.ns + one.ns });
        let resident = u64::try_from(metrics.resident_bytes.get()).unwrap_or(0);
        let memory = MemoryUsage { kind: "CPU", id: 0, byte_size: resident };
        Statistics {
            name: replica.name().clone(),
            version: replica.model_version().version.to_string(),
            last_inference: metrics.answered_at_ms().unwrap_or(0),
            inference_count: sum(metrics.batch_rows()),
            execution_count: count(metrics.batch_requests()),
            inference_stats: InferenceStatistics {
                success,
                fail: Times { count: codes.sum(), ns: 0 },
                queue: phase("queue"),
                compute_input: phase("batch"),
                compute_infer: phase("compute"),
                compute_output: phase("reply"),
                cache_hit: Times::default(),
                cache_miss: Times::default(),
            },
            memory_usage: Some(memory).filter(|memory| memory.byte_size > 0).into_iter().collect(),
        }
    }
}

/// Whether a call that ended with this code of its protocol failed.
fn failed(protocol: Protocol, code: u16) -> bool {
    match protocol {
        Protocol::Grpc => code != 0,
        _ => code >= 400,
    }
}

fn times(histogram: &Histogram) -> Times {
    let told = histogram.distribution();
    told.map_or(Times::default(), |told| Times { count: told.count, ns: (told.sum * 1e9) as u64 })
}

/// Every deployment's statistics, by name.
pub(crate) async fn all_statistics(service: &dyn Service) -> Result<Vec<Statistics>> {
    let names = service.deployments().await?.into_iter().map(|status| status.deployment.name);
    // One that was removed in between is left out.
    Ok(names.filter_map(|name| service.find(Some(&name)).ok()).map(|replica| Statistics::of(&replica)).collect())
}

/// What a caller of the index wants to see.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct IndexQuery {
    /// Only models that take calls.
    #[serde(default)]
    pub(crate) ready: bool,
}

/// What a caller says of a load or an unload.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Change {
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, serde::de::IgnoredAny>,
}

impl Change {
    /// Triton's clients may send a model's configuration and files along, which are versions and deployments here.
    pub(crate) fn check<'a>(mut parameters: impl Iterator<Item = &'a String>) -> Result<()> {
        match parameters.find(|name| *name == "config" || name.starts_with("file:")) {
            None => Ok(()),
            Some(name) => Err(ApiError::new(
                Code::Unsupported,
                format!("a load with the parameter {name:?} is not supported: import the model and deploy its version"),
            )),
        }
    }
}

/// A model of the repository: a deployment.
#[derive(Debug, Serialize)]
pub(crate) struct IndexEntry {
    pub(crate) name: Name,
    pub(crate) version: String,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
}

/// The models that there are, by name.
pub(crate) async fn index(service: &dyn Service, only_ready: bool) -> Result<Vec<IndexEntry>> {
    let entries = service.deployments().await?.into_iter().map(|status| {
        let (state, reason) = match status.model.error {
            Some(error) => ("UNAVAILABLE", error),
            None if status.model.loaded => ("READY", String::new()),
            None => ("READY", "not in memory: the first call loads it".into()),
        };
        IndexEntry { name: status.deployment.name, version: status.deployment.version.to_string(), state, reason }
    });
    Ok(entries.filter(|entry| !only_ready || entry.state == "READY").collect())
}
