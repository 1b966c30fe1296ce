//! gRPC: the Open Inference Protocol with Triton's additions, health and reflection, on the port of REST.

mod arrival;
pub(crate) mod convert;
mod describe;
mod health;
mod inference;
mod status;
mod stream;

use std::{any::Any, sync::Arc};

use axum::{Router, http::Response, middleware};
use tonic::{Status, body::Body, codec::CompressionEncoding, server::NamedService};
use tower_http::catch_panic::CatchPanicLayer;

use self::{health::Readiness, inference::Inference, proto::grpc_inference_service_server::GrpcInferenceServiceServer};
use crate::{
    Service,
    http::{Bodies, panic_error},
};

/// The contracts' messages, servers and clients, as generated.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("inference");
}

/// The contracts as reflection tells them.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/open_inference.bin"));
/// The service that infers, for those who ask about its health.
const INFERENCE: &str = <GrpcInferenceServiceServer<Inference> as NamedService>::NAME;
/// What messages may be compressed with.
const COMPRESSION: [CompressionEncoding; 3] =
    [CompressionEncoding::Gzip, CompressionEncoding::Zstd, CompressionEncoding::Deflate];

/// The routes of all gRPC services.
pub(crate) fn router(service: &Arc<dyn Service>, bodies: &Bodies, traced: bool) -> Router {
    let inference = Inference { service: Arc::clone(service), bodies: bodies.clone(), traced };
    let mut inference = GrpcInferenceServiceServer::new(inference).max_decoding_message_size(bodies.max_bytes());
    for encoding in COMPRESSION {
        inference = inference.accept_compressed(encoding).send_compressed(encoding);
    }
    let health = Readiness::server(Arc::clone(service));
    let mut router = Router::new()
        .route_service(&path(&inference), inference)
        .layer(middleware::from_fn_with_state(bodies.clone(), arrival::account))
        .route_service(&path(&health), health);
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors come out of the build; were they broken, reflection alone would be missing.
    match (described().build_v1(), described().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => {
            router = router.route_service(&path(&v1), v1).route_service(&path(&v1alpha), v1alpha);
        }
        (v1, v1alpha) => tracing::error!(v1 = ?v1.err(), v1alpha = ?v1alpha.err(), "there is no reflection"),
    }
    router.layer(CatchPanicLayer::custom(|payload: Box<dyn Any + Send>| panicked(payload.as_ref())))
}

/// Where a service's methods are.
pub(crate) fn path<S: NamedService>(_: &S) -> String {
    format!("/{}/{{*method}}", S::NAME)
}

fn panicked(payload: &(dyn Any + Send)) -> Response<Body> {
    Status::from(panic_error(payload)).into_http()
}
