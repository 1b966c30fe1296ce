//! Descriptions as messages.

use super::proto;
use crate::describe::{
    Config, DynamicBatching, IndexEntry, InferenceStatistics, InstanceGroup, MemoryUsage, Metadata, Statistics,
    TensorConfig, TensorMetadata, Times, triton_type,
};

impl From<Metadata> for proto::ModelMetadataResponse {
    fn from(metadata: Metadata) -> Self {
        let tensor = |tensor: TensorMetadata| proto::model_metadata_response::TensorMetadata {
            name: tensor.name,
            datatype: tensor.datatype.to_string(),
            shape: tensor.shape,
        };
        Self {
            name: metadata.name.to_string(),
            versions: metadata.versions,
            platform: metadata.platform.into(),
            inputs: metadata.inputs.into_iter().map(tensor).collect(),
            outputs: metadata.outputs.into_iter().map(tensor).collect(),
        }
    }
}

impl From<Config> for proto::ModelConfig {
    fn from(config: Config) -> Self {
        use proto::{model_config::SchedulingChoice, model_version_policy as policy};
        let specific = policy::Specific { versions: config.version_policy.specific.versions };
        let parameters = config.parameters.into_iter();
        Self {
            name: config.name.to_string(),
            platform: config.platform.into(),
            backend: config.backend.into(),
            version_policy: Some(proto::ModelVersionPolicy {
                policy_choice: Some(policy::PolicyChoice::Specific(specific)),
            }),
            max_batch_size: i32::try_from(config.max_batch_size).unwrap_or(i32::MAX),
            input: config.input.into_iter().map(Into::into).collect(),
            output: config.output.into_iter().map(Into::into).collect(),
            scheduling_choice: config
                .dynamic_batching
                .map(|batching| SchedulingChoice::DynamicBatching(batching.into())),
            instance_group: config.instance_group.into_iter().map(Into::into).collect(),
            default_model_filename: config.default_model_filename.into(),
            parameters: parameters
                .map(|(name, parameter)| (name, proto::ModelParameter { string_value: parameter.string_value }))
                .collect(),
            model_transaction_policy: Some(proto::ModelTransactionPolicy {
                decoupled: config.model_transaction_policy.decoupled,
            }),
        }
    }
}

impl From<TensorConfig> for proto::ModelInput {
    fn from(tensor: TensorConfig) -> Self {
        Self { name: tensor.name, data_type: data_type(&triton_type(tensor.data_type)), dims: tensor.dims }
    }
}

impl From<TensorConfig> for proto::ModelOutput {
    fn from(tensor: TensorConfig) -> Self {
        Self { name: tensor.name, data_type: data_type(&triton_type(tensor.data_type)), dims: tensor.dims }
    }
}

impl From<InstanceGroup> for proto::ModelInstanceGroup {
    fn from(group: InstanceGroup) -> Self {
        let kind = proto::model_instance_group::Kind::from_str_name(group.kind).unwrap_or_default();
        Self { name: group.name, count: i32::try_from(group.count).unwrap_or(i32::MAX), kind: kind.into() }
    }
}

impl From<DynamicBatching> for proto::ModelDynamicBatching {
    fn from(batching: DynamicBatching) -> Self {
        Self {
            max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
            preserve_ordering: batching.preserve_ordering,
        }
    }
}

impl From<Statistics> for proto::ModelStatistics {
    fn from(statistics: Statistics) -> Self {
        Self {
            name: statistics.name.to_string(),
            version: statistics.version,
            last_inference: statistics.last_inference,
            inference_count: statistics.inference_count,
            execution_count: statistics.execution_count,
            inference_stats: Some(statistics.inference_stats.into()),
            batch_stats: Vec::new(),
            memory_usage: statistics.memory_usage.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<InferenceStatistics> for proto::InferStatistics {
    fn from(statistics: InferenceStatistics) -> Self {
        Self {
            success: Some(statistics.success.into()),
            fail: Some(statistics.fail.into()),
            queue: Some(statistics.queue.into()),
            compute_input: Some(statistics.compute_input.into()),
            compute_infer: Some(statistics.compute_infer.into()),
            compute_output: Some(statistics.compute_output.into()),
            cache_hit: Some(statistics.cache_hit.into()),
            cache_miss: Some(statistics.cache_miss.into()),
        }
    }
}

impl From<Times> for proto::StatisticDuration {
    fn from(times: Times) -> Self {
        Self { count: times.count, ns: times.ns }
    }
}

impl From<MemoryUsage> for proto::MemoryUsage {
    fn from(usage: MemoryUsage) -> Self {
        Self { r#type: usage.kind.into(), id: usage.id, byte_size: usage.byte_size }
    }
}

impl From<IndexEntry> for proto::repository_index_response::ModelIndex {
    fn from(entry: IndexEntry) -> Self {
        Self { name: entry.name.to_string(), version: entry.version, state: entry.state.into(), reason: entry.reason }
    }
}

/// A type by its name, which the contract and the description share.
fn data_type(name: &str) -> i32 {
    proto::DataType::from_str_name(name).unwrap_or_default().into()
}
