use std::sync::Arc;

use axum::Extension;
use wattle_serve::{
    Replica,
    metrics::{Phases, Protocol},
};

use super::{App, predict::Answer};
use crate::{Result, traces::Timing};

/// A call's answer, and to whoever traces it where its time went.
pub(super) type Observed = (Option<Extension<Timing>>, Answer);

/// Observes a call from the moment its deployment is known: how it ends, how long it took, and where that time went. A
/// caller who leaves takes the future away, and the call is counted as cancelled.
pub(super) async fn observe(
    app: &App,
    replica: &Arc<Replica>,
    protocol: Protocol,
    call: impl Future<Output = Result<(Answer, Phases)>>,
) -> Result<Observed> {
    let observation = replica.observe(protocol);
    match call.await {
        Ok((answer, phases)) => {
            let phases = observation.answered(200, phases);
            let timing = || Extension(Timing { deployment: replica.name().clone(), phases });
            Ok((app.watch.traces().then(timing), answer))
        }
        Err(error) => {
            observation.failed(error.code.status().as_u16());
            Err(error)
        }
    }
}
