//! gRPC's own health protocol, which tells of readiness.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use super::INFERENCE;
use crate::Service;

/// The health of the whole server, which is that of its inference too.
pub(super) struct Readiness {
    service: Arc<dyn Service>,
}

impl Readiness {
    pub(super) fn server(service: Arc<dyn Service>) -> HealthServer<Readiness> {
        HealthServer::new(Readiness { service })
    }
}

#[tonic::async_trait]
impl Health for Readiness {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !is_known(&service) {
            return Err(Status::not_found(format!("there is no service {service:?}: leave the name out")));
        }
        Ok(Response::new(serving(self.service.is_ready())))
    }

    /// Readiness now and at its end, with which the stream ends too: it would hold up the server's end otherwise.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = is_known(&request.into_inner().service);
        let mut ready = self.service.readiness();
        ready.mark_changed();
        let told = stream::unfold(Some(ready), move |ready| async move {
            let mut ready = ready?;
            ready.changed().await.ok()?;
            let now = *ready.borrow_and_update();
            // A name that is not known now may be one day, says the protocol.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            Some((Ok(if known { serving(now) } else { unknown }), now.then_some(ready)))
        });
        Ok(Response::new(told.boxed()))
    }
}

fn is_known(service: &str) -> bool {
    service.is_empty() || service == INFERENCE
}

fn serving(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}
