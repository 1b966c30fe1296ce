//! A model of tensors in an instance of its own, as the server calls it.

use std::{error::Error as StdError, sync::Arc};

use async_trait::async_trait;
use http::Uri;
use tonic::{Code, Status};
use wattle_core::Name;
use wattle_engine::Tensor;
use wattle_serve::{Computed, Error, Instance, Result, Worker};

use super::{
    Loaded,
    line::{GrpcLine, Line, ORIGIN},
};
use crate::grpc::{convert, proto::grpc_inference_service_client::GrpcInferenceServiceClient};

/// The server's end of such an instance.
pub(super) struct RemoteWorker {
    line: Arc<Line>,
    client: GrpcInferenceServiceClient<GrpcLine>,
    /// What the instance calls the model, where it may have several.
    model: Option<Name>,
    loaded: Loaded,
}

impl RemoteWorker {
    /// Calls an instance that listens.
    pub(super) fn new(line: Line, model: Option<Name>, loaded: Loaded) -> RemoteWorker {
        let line = Arc::new(line);
        let client = GrpcInferenceServiceClient::with_origin(GrpcLine(Arc::clone(&line)), Uri::from_static(ORIGIN));
        let client = client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        RemoteWorker { line, client, model, loaded }
    }

    fn failure(&self, status: &Status) -> Error {
        // Only what went wrong on the way has a source; what the instance itself said has none.
        if let Some(source) = status.source() {
            return source.downcast_ref::<Error>().cloned().unwrap_or_else(|| self.line.crashed());
        }
        match status.code() {
            Code::InvalidArgument => Error::Invalid(status.message().to_owned()),
            Code::Internal => Error::Run(status.message().to_owned()),
            // It began nothing, as it has enough to do, or is about to go.
            Code::Unavailable | Code::ResourceExhausted => {
                Error::Unreached { deployment: self.line.deployment.to_string() }
            }
            _ => self.line.crashed(),
        }
    }
}

#[async_trait]
impl Worker for RemoteWorker {
    async fn run(&self, inputs: &[Tensor]) -> Result<Computed> {
        let mut client = self.client.clone();
        let mut request = convert::request(inputs);
        request.model_name = self.model.as_ref().map(Name::to_string).unwrap_or_default();
        let answer = self.line.until_ended(client.model_infer(request)).await?;
        let response = answer.map_err(|status| self.failure(&status))?.into_inner();
        let cpu_seconds = convert::cpu_seconds(&response).unwrap_or(0.0);
        let outputs = convert::outputs(response).map_err(|error| Error::Internal(error.message))?;
        Ok(Computed { outputs, cpu_seconds })
    }
}

#[async_trait]
impl Instance for RemoteWorker {
    fn name(&self) -> &str {
        self.line.host.name()
    }

    fn is_alive(&self) -> bool {
        self.line.host.is_alive()
    }

    async fn is_well(&self) -> bool {
        self.line.is_well().await
    }

    fn resident_bytes(&self) -> u64 {
        self.loaded.resident_bytes
    }

    fn load_cpu_seconds(&self) -> f64 {
        self.loaded.cpu_seconds
    }

    fn limited_by(&self) -> Option<&'static str> {
        Some(self.line.host.limited_by())
    }
}
