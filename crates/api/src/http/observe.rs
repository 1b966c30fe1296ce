use std::{pin::Pin, sync::Arc};

use axum::response::Response;
use wattle_serve::{
    Replica,
    metrics::{Phases, Protocol},
};

use super::App;
use crate::{Result, traces::Timing};

/// Observes a call from the moment its deployment is known: how it ends, how long it took, and where that time went. A
/// caller who leaves takes the future away, and the call is counted as cancelled. The future is large: lend it pinned.
pub(super) async fn observe(
    app: &App,
    replica: &Arc<Replica>,
    protocol: Protocol,
    call: Pin<&mut impl Future<Output = Result<(Response, Phases)>>>,
) -> Result<Response> {
    let observation = replica.observe(protocol);
    match call.await {
        Ok((mut response, phases)) => {
            let phases = observation.answered(200, phases);
            if app.watch.traces() {
                response.extensions_mut().insert(Timing { deployment: replica.name().clone(), phases });
            }
            Ok(response)
        }
        Err(error) => {
            observation.failed(error.code.status().as_u16());
            Err(error)
        }
    }
}
