//! The inference service: every call but the stream's way through it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout_at;
use tonic::{Code as GrpcCode, Request, Response, Status, Streaming, metadata::MetadataMap};
use wattle_serve::{
    Context, Replica,
    metrics::{Phases, Protocol},
};

use super::{
    arrival::Arrival,
    convert,
    proto::{self, grpc_inference_service_server::GrpcInferenceService},
    stream::{self, Answers},
};
use crate::{
    ApiError, Result, Service,
    answer::check_answer,
    describe::{self, Change},
    http::{self, Bodies, Share, off_the_runtime},
    traces::Timing,
};

/// The inference service over [`Service`].
#[derive(Clone)]
pub(super) struct Inference {
    pub(super) service: Arc<dyn Service>,
    pub(super) bodies: Bodies,
    /// Whether somebody wants to know where a call's time went.
    pub(super) traced: bool,
}

/// What a message of a call comes with.
pub(super) struct Delivery {
    /// What its headers say of it.
    pub(super) context: Context,
    /// Its share of the memory for all bodies.
    pub(super) share: Option<Share>,
}

impl Inference {
    /// One call of a model, on its own or out of a stream. It is dropped, and leaves its place, at its deadline.
    pub(super) async fn infer(
        &self,
        request: proto::ModelInferRequest,
        delivery: Delivery,
    ) -> Result<(proto::ModelInferResponse, Option<Timing>)> {
        let found = describe::find(self.service.as_ref(), &request.model_name.parse()?, &request.model_version)?;
        let replica = found.route(delivery.context.key.as_deref());
        let observation = replica.observe(Protocol::Grpc);
        let answer = async {
            let Delivery { mut context, share } = delivery;
            let number = |name| convert::whole_number(&request.parameters, name).map(Option::unwrap_or_default);
            context.apply_triton(number("priority")?, number("timeout")?);
            let deadline = context.deadline;
            let answer = self.answer(Arc::clone(&replica), context, request, share);
            match deadline {
                None => answer.await,
                Some(deadline) if deadline <= Instant::now() => Err(wattle_serve::Error::Expired.into()),
                Some(deadline) => timeout_at(deadline.into(), answer)
                    .await
                    .unwrap_or_else(|_| Err(wattle_serve::Error::Expired.into())),
            }
        };
        match answer.await {
            Ok((response, phases)) => {
                let phases = observation.answered(GrpcCode::Ok as u16, phases);
                let timing = self.traced.then(|| Timing { deployment: replica.name().clone(), phases });
                Ok((response, timing))
            }
            Err(error) => {
                observation.failed(error.code.grpc() as u16);
                Err(error)
            }
        }
    }

    async fn answer(
        &self,
        replica: Arc<Replica>,
        context: Context,
        request: proto::ModelInferRequest,
        share: Option<Share>,
    ) -> Result<(proto::ModelInferResponse, Phases)> {
        let call = self.service.admit(Arc::clone(&replica), context)?;
        let bytes = share.as_ref().map_or(0, |share| usize::try_from(share.bytes()).unwrap_or(usize::MAX));
        let called = Arc::clone(&replica);
        let read = move || {
            let wanted = convert::wanted_outputs(called.signature(), &request.outputs)?;
            let inputs = convert::inputs(request.inputs, request.raw_input_contents)?;
            Ok((inputs, wanted, request.id))
        };
        let (inputs, wanted, id) = off_the_runtime(bytes, read).await?;
        check_answer(&replica, &inputs, self.bodies.max_answer_values())?;
        let prediction = self.service.predict(call, inputs).await?;
        let computed = Instant::now();
        let mut phases = prediction.phases;
        let response = convert::response(replica.name(), id, &wanted, prediction)?;
        phases.reply += computed.elapsed();
        Ok((response, phases))
    }
}

/// What a call's metadata say of it. gRPC's own deadline holds where it is the earlier.
pub(super) fn context(metadata: &MetadataMap) -> Result<Context> {
    let mut context = http::context(metadata.as_ref())?;
    if let Some(value) = metadata.get("grpc-timeout") {
        let timeout = value.to_str().ok().and_then(timeout);
        let timeout =
            timeout.ok_or_else(|| ApiError::invalid("grpc-timeout must be a number and a unit, as in 100m"))?;
        let deadline = Instant::now().checked_add(timeout);
        context.deadline = context.deadline.into_iter().chain(deadline).min();
    }
    Ok(context)
}

/// At most eight digits and a unit. Source: gRPC over HTTP/2, Timeout.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Result<Response<proto::ServerLiveResponse>, Status> {
        Ok(Response::new(proto::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Result<Response<proto::ServerReadyResponse>, Status> {
        Ok(Response::new(proto::ServerReadyResponse { ready: self.service.is_ready() }))
    }

    /// A model that there is not is no error but not ready, as with Triton.
    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Result<Response<proto::ModelReadyResponse>, Status> {
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let found = name.parse().ok().and_then(|name| describe::find(self.service.as_ref(), &name, &version).ok());
        let ready = self.service.is_ready() && found.is_some_and(|replica| replica.failure().is_none());
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Result<Response<proto::ServerMetadataResponse>, Status> {
        let info = self.service.info();
        let extensions = describe::EXTENSIONS.map(str::to_owned).to_vec();
        Ok(Response::new(proto::ServerMetadataResponse { name: info.name, version: info.version, extensions }))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Result<Response<proto::ModelMetadataResponse>, Status> {
        let proto::ModelMetadataRequest { name, version } = request.into_inner();
        let replica = describe::find(self.service.as_ref(), &name.parse().map_err(ApiError::from)?, &version)?;
        Ok(Response::new(describe::Metadata::of(&replica).into()))
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<Response<proto::ModelInferResponse>, Status> {
        let context = context(request.metadata())?;
        let arrival = request.extensions().get::<Arrival>().cloned();
        let request = request.into_inner();
        let share = arrival.map(|arrival| arrival.take(&request)).transpose()?;
        let (response, timing) = self.infer(request, Delivery { context, share }).await?;
        let mut response = Response::new(response);
        if let Some(timing) = timing {
            response.extensions_mut().insert(timing);
        }
        Ok(response)
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<proto::ModelInferRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Ok(Response::new(stream::answers(self.clone(), request)?))
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Result<Response<proto::ModelConfigResponse>, Status> {
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        let replica = describe::find(self.service.as_ref(), &name.parse().map_err(ApiError::from)?, &version)?;
        Ok(Response::new(proto::ModelConfigResponse { config: Some(describe::Config::of(&replica).into()) }))
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Result<Response<proto::ModelStatisticsResponse>, Status> {
        let proto::ModelStatisticsRequest { name, version } = request.into_inner();
        let statistics = match name.is_empty() {
            true => describe::all_statistics(self.service.as_ref()).await?,
            false => vec![describe::Statistics::of(&*describe::find(
                self.service.as_ref(),
                &name.parse().map_err(ApiError::from)?,
                &version,
            )?)],
        };
        let model_stats = statistics.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Result<Response<proto::RepositoryIndexResponse>, Status> {
        let index = describe::index(self.service.as_ref(), request.into_inner().ready).await?;
        let models = index.into_iter().map(Into::into).collect();
        Ok(Response::new(proto::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<proto::RepositoryModelLoadRequest>,
    ) -> Result<Response<proto::RepositoryModelLoadResponse>, Status> {
        let request = request.into_inner();
        Change::check(request.parameters.keys())?;
        self.service.load(request.model_name.parse().map_err(ApiError::from)?).await?;
        Ok(Response::new(proto::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<proto::RepositoryModelUnloadRequest>,
    ) -> Result<Response<proto::RepositoryModelUnloadResponse>, Status> {
        self.service.unload(request.into_inner().model_name.parse().map_err(ApiError::from)?).await?;
        Ok(Response::new(proto::RepositoryModelUnloadResponse {}))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn timeouts_are_a_number_and_a_unit() {
        let read = |text: &str| timeout(text).map(|timeout| timeout.as_nanos());
        let all = [("1n", 1), ("2u", 2_000), ("3m", 3_000_000), ("4S", 4_000_000_000), ("99999999n", 99_999_999)];
        for (text, nanos) in all {
            assert_eq!(read(text), Some(nanos), "{text}");
        }
        assert_eq!((read("1M"), read("1H")), (Some(60_000_000_000), Some(3_600_000_000_000)));
        for text in ["", "n", "1", "1s", "-1S", "1.5S", "100000000n", "soon", "1é"] {
            assert_eq!(read(text), None, "{text}");
        }
        let mut metadata = MetadataMap::new();
        assert!(context(&metadata).unwrap().deadline.is_none());
        metadata.insert("grpc-timeout", "1H".parse().unwrap());
        metadata.insert("x-wattle-tenant", "team".parse().unwrap());
        let told = context(&metadata).unwrap();
        assert!(told.deadline.unwrap() > Instant::now() + Duration::from_secs(3000));
        assert_eq!(told.tenant.as_deref(), Some("team"));
        metadata.insert("x-wattle-timeout-ms", "1000".parse().unwrap());
        assert!(context(&metadata).unwrap().deadline.unwrap() < Instant::now() + Duration::from_secs(3000));
    }
}
