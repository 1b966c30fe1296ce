//! The way of a request from its connection to the router, and of its answer back.

use std::{pin::pin, sync::Arc};

use axum::{
    extract::Request,
    http::{StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use tower_service::Service as _;

use super::{drain::Leftover, edge::Door, encoding, sites::other_site};
use crate::request::{Current, ID_HEADER, RequestId};

impl Door {
    /// Answers a request. What a refused caller still sends is heard out where that goes by the `leftover`.
    pub(super) async fn answer(self: Arc<Door>, request: Request, leftover: Option<&Leftover>) -> Response {
        let id = RequestId::of(request.headers());
        let shown = id.header();
        let current = Current::new(id, &request);
        // It is large, and would be copied at each of the layers that take it.
        let passing = pin!(self.pass(request, leftover));
        let mut response = current.scope(passing).await;
        response.headers_mut().insert(ID_HEADER, shown);
        response
    }

    async fn pass(&self, request: Request, leftover: Option<&Leftover>) -> Response {
        // gRPC has compression and errors of its own.
        let is_grpc = is_grpc(&request);
        let wish = if is_grpc { encoding::Wish::NOTHING } else { encoding::Wish::of(&request) };
        let response = match self.prepare(request, is_grpc) {
            Ok(request) => {
                let Ok(response) = self.router.clone().call(request).await;
                response
            }
            Err(refusal) => *refusal,
        };
        if let Some(leftover) = leftover {
            let status = response.status();
            let is_refusal = status.is_client_error() || status.is_server_error();
            // Who was too slow was listened to for long enough.
            match is_refusal && status != StatusCode::REQUEST_TIMEOUT {
                true => Box::pin(leftover.hear_out()).await,
                false => leftover.forget(),
            }
        }
        encoding::encode(response, wish).await
    }

    /// Refuses what no handler should see, and takes the coding off a body.
    fn prepare(&self, request: Request, is_grpc: bool) -> Result<Request, Box<Response>> {
        if is_grpc {
            // No page of another site can send this: browsers speak HTTP/2 under a certificate of the page's own site.
            return Ok(request);
        }
        match other_site(&request, self.hosts.as_deref()) {
            Some(refusal) => Err(Box::new(refusal.into_response())),
            None => encoding::decode(request),
        }
    }
}

fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
