use std::{
    error::Error as StdError,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use wattle_core::Name;
use wattle_deploy::process::{Limits, Process, Processes};
use wattle_engine::Tensor;
use wattle_serve::{
    Computed, Error, Launcher, Result, Worker, WorkerOrder,
    speaker::{Speaker, SpeakerOrder},
};

use super::{Answer, Order, Task, speaker::RemoteSpeaker};
use crate::grpc::{convert, proto::grpc_inference_service_client::GrpcInferenceServiceClient};

/// How much of a message may be on its way before the other side has read it, in bytes: most messages whole.
const WINDOW_BYTES: u32 = 16 << 20;

/// Starts processes that serve a model each.
pub struct Workers(pub Processes);

/// The server's end of such a process.
struct Remote {
    deployment: Name,
    process: Process,
    client: GrpcInferenceServiceClient<Channel>,
    resident_bytes: u64,
    load_cpu_seconds: f64,
}

#[async_trait]
impl Launcher for Workers {
    async fn launch(&self, order: WorkerOrder) -> Result<Arc<dyn Worker>> {
        let WorkerOrder { deployment, model, threads, memory_limit_bytes, cpu_limit, .. } = order;
        let told = |reason: String| Error::Load { deployment: deployment.to_string(), reason };
        let limits = Limits { memory_bytes: memory_limit_bytes, processors: cpu_limit };
        let (process, resident_bytes, load_cpu_seconds) =
            self.start(limits, model, Task::Tensors { threads }).await.map_err(told)?;
        let client = connect(process.socket()).await.map_err(told)?;
        Ok(Arc::new(Remote { deployment, process, client, resident_bytes, load_cpu_seconds }))
    }

    async fn launch_speaker(&self, order: SpeakerOrder) -> Result<Arc<dyn Speaker>> {
        let SpeakerOrder { deployment, model, settings, memory_limit_bytes, cpu_limit } = order;
        let told = |reason: String| Error::Load { deployment: deployment.to_string(), reason };
        let limits = Limits { memory_bytes: memory_limit_bytes, processors: cpu_limit };
        let (process, resident_bytes, load_cpu_seconds) =
            self.start(limits, model, Task::Language(settings)).await.map_err(told)?;
        let speaker = RemoteSpeaker::connect(deployment.clone(), process, resident_bytes, load_cpu_seconds).await;
        Ok(Arc::new(speaker.map_err(told)?))
    }
}

impl Workers {
    /// Starts a process and waits until it has its model; what that takes in memory, and what loading took.
    async fn start(
        &self,
        limits: Limits,
        model: PathBuf,
        task: Task,
    ) -> std::result::Result<(Process, u64, f64), String> {
        let order = |socket: &Path| Order { socket: socket.to_owned(), model, task };
        let (process, answer) = self.0.start(limits, order).await.map_err(|error| error.to_string())?;
        match answer {
            Answer::Ready { resident_bytes, cpu_seconds } => Ok((process, resident_bytes, cpu_seconds)),
            Answer::Failed { reason } => Err(reason),
        }
    }
}

#[async_trait]
impl Worker for Remote {
    async fn run(&self, inputs: &[Tensor]) -> Result<Computed> {
        let mut client = self.client.clone();
        let answer = tokio::select! {
            answer = client.model_infer(convert::request(inputs)) => answer,
            // A connection whose other end was killed may take its time to notice.
            () = self.process.ended() => return Err(self.crashed()),
        };
        let response = answer.map_err(|status| self.failure(&status))?.into_inner();
        let cpu_seconds = convert::cpu_seconds(&response).unwrap_or(0.0);
        let outputs = convert::outputs(response).map_err(|error| Error::Internal(error.message))?;
        Ok(Computed { outputs, cpu_seconds })
    }

    fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn load_cpu_seconds(&self) -> f64 {
        self.load_cpu_seconds
    }

    fn limited_by(&self) -> &'static str {
        self.process.enforced().as_str()
    }
}

impl Remote {
    fn crashed(&self) -> Error {
        Error::Crashed { deployment: self.deployment.to_string() }
    }

    fn failure(&self, status: &Status) -> Error {
        match status.code() {
            // Only what went wrong on the way has a source; what the process itself said has none.
            _ if status.source().is_some() => self.crashed(),
            Code::InvalidArgument => Error::Invalid(status.message().to_owned()),
            Code::Internal => Error::Run(status.message().to_owned()),
            _ => self.crashed(),
        }
    }
}

async fn connect(socket: &Path) -> std::result::Result<GrpcInferenceServiceClient<Channel>, String> {
    let told = |error: tonic::transport::Error| format!("its process cannot be reached: {error}");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(told)?;
    let channel = endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect()
        .await
        .map_err(told)?;
    let client = GrpcInferenceServiceClient::new(channel);
    Ok(client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX))
}
