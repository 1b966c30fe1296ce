//! Who may wait, and who may compute.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// Two bounds: how many requests may be here at all, and how many may compute at once.
///
/// Over the first bound a request is refused at once, in constant time; it never makes a queue grow. A request whose
/// caller leaves while it waits gives both places back, because its future is dropped with its permits.
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    compute: Arc<Semaphore>,
    max_waiting: usize,
}

/// A place; held until the request is answered.
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
}

/// The right to compute; held while computing.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
}

impl Admission {
    /// At most `max_computing` requests compute and `max_waiting` more wait for that.
    pub(crate) fn new(max_computing: usize, max_waiting: usize) -> Admission {
        Admission {
            places: Arc::new(Semaphore::new(max_computing + max_waiting)),
            compute: Arc::new(Semaphore::new(max_computing)),
            max_waiting,
        }
    }

    /// Takes a place, or says at once that there is none.
    pub(crate) fn enter(&self) -> Result<Place> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(Place { _place: place }),
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(Error::Busy {
                reason: format!("{} requests are waiting already", self.max_waiting),
                retry_after_seconds: 1,
            }),
            Err(tokio::sync::TryAcquireError::Closed) => Err(closing()),
        }
    }

    /// Waits for the right to compute, in the order of asking.
    pub(crate) async fn turn(&self) -> Result<Turn> {
        let turn = Arc::clone(&self.compute).acquire_owned().await.map_err(|_| closing())?;
        Ok(Turn { _turn: turn })
    }

    /// Whether newcomers are refused since the server is going away.
    pub(crate) fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// Refuses newcomers from now on; who has a place keeps it.
    pub(crate) fn close(&self) {
        self.places.close();
    }
}

fn closing() -> Error {
    Error::Busy { reason: "the server is shutting down".into(), retry_after_seconds: 5 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn over_the_bound_a_request_is_refused_and_a_place_that_is_given_back_is_free() {
        let admission = Admission::new(1, 1);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert!(matches!(admission.enter(), Err(Error::Busy { retry_after_seconds: 1, .. })));
        drop(first);
        assert!(admission.enter().is_ok());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_while_it_waits_frees_its_turn() {
        let admission = Admission::new(1, 10);
        let turn = admission.turn().await.unwrap();
        {
            let waiting = admission.turn();
            tokio::pin!(waiting);
            assert!(futures_poll_once(waiting.as_mut()).await.is_none());
        }
        drop(turn);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(5), admission.turn()).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_closed_door_keeps_those_inside() {
        let admission = Admission::new(1, 0);
        let place = admission.enter().unwrap();
        admission.close();
        assert!(admission.enter().is_err());
        assert!(admission.turn().await.is_ok());
        drop(place);
    }

    /// Polls once; `None` when the future is not ready.
    async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
