//! Who may wait, and who may compute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::{Error, Result, metrics::Refusal};

/// Three bounds: how many requests may be here at all, how many of them one tenant may have, and how many threads compute.
///
/// Over the first two a request is refused at once, in constant time; it never makes a queue grow. A request whose
/// caller leaves while it waits gives its place back, because its future is dropped with it.
#[derive(Clone)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    compute: Arc<Semaphore>,
    tenants: Arc<Tenants>,
    max_computing: usize,
    max_waiting: usize,
}

/// Who has how many places. It holds no more names than there are places.
struct Tenants {
    places: Mutex<HashMap<String, usize>>,
    max_places: usize,
}

/// A place; held until the request is answered.
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    _tenant: Option<TenantPlace>,
}

struct TenantPlace {
    tenants: Arc<Tenants>,
    name: String,
}

/// The right to compute; held while computing.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
}

impl Turn {
    /// The right to have something computed on other processors than this server's.
    pub(crate) fn elsewhere(turn: OwnedSemaphorePermit) -> Turn {
        Turn { _turn: turn }
    }
}

impl Admission {
    /// At most `max_computing` threads compute, `max_waiting` requests more wait for that, and no tenant has more than
    /// `max_tenant_places` of all.
    pub(crate) fn new(max_computing: usize, max_waiting: usize, max_tenant_places: usize) -> Admission {
        Admission {
            places: Arc::new(Semaphore::new(max_computing + max_waiting)),
            compute: Arc::new(Semaphore::new(max_computing)),
            tenants: Arc::new(Tenants { places: Mutex::default(), max_places: max_tenant_places }),
            max_computing,
            max_waiting,
        }
    }

    /// Takes a place, or says at once why there is none.
    pub(crate) fn enter(&self, tenant: Option<&str>) -> Result<Place, (Refusal, Error)> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits) => {
                let reason = format!("{} requests are waiting already", self.max_waiting);
                return Err((Refusal::Full, Error::Busy { reason, retry_after_seconds: 1 }));
            }
            Err(TryAcquireError::Closed) => return Err((Refusal::Closing, closing())),
        };
        let tenant = tenant.map(|name| self.tenants.enter(name)).transpose();
        Ok(Place { _place: place, _tenant: tenant.map_err(|error| (Refusal::Tenant, error))? })
    }

    /// Waits for the right to compute on so many threads, in the order of asking.
    pub(crate) async fn turn(&self, threads: usize) -> Result<Turn> {
        let turn = Arc::clone(&self.compute).acquire_many_owned(self.permits(threads)).await.map_err(|_| closing())?;
        Ok(Turn { _turn: turn })
    }

    /// The right to compute on so many threads, if nobody waits for it.
    pub(crate) fn try_turn(&self, threads: usize) -> Option<Turn> {
        let turn = Arc::clone(&self.compute).try_acquire_many_owned(self.permits(threads)).ok()?;
        Some(Turn { _turn: turn })
    }

    /// Whether somebody could compute at once.
    pub(crate) fn is_idle(&self) -> bool {
        self.compute.available_permits() > 0
    }

    /// Refuses newcomers from now on; who has a place keeps it.
    pub(crate) fn close(&self) {
        self.places.close();
    }

    /// A model that asks for more threads than may compute gets all of them.
    fn permits(&self, threads: usize) -> u32 {
        u32::try_from(threads.clamp(1, self.max_computing)).unwrap_or(u32::MAX)
    }
}

impl Tenants {
    fn enter(self: &Arc<Self>, name: &str) -> Result<TenantPlace> {
        let mut places = self.lock();
        match places.get_mut(name) {
            Some(count) if *count >= self.max_places => {
                return Err(Error::TooMany {
                    reason: format!("{} requests of tenant {name} are here already", self.max_places),
                    retry_after_seconds: 1,
                });
            }
            Some(count) => *count += 1,
            None => {
                places.insert(name.to_owned(), 1);
            }
        }
        Ok(TenantPlace { tenants: Arc::clone(self), name: name.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TenantPlace {
    fn drop(&mut self) {
        let mut places = self.tenants.lock();
        if let Some(count) = places.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.name);
            }
        }
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
        let admission = Admission::new(1, 1, 2);
        let first = admission.enter(None).unwrap();
        let _second = admission.enter(None).unwrap();
        let refused = admission.enter(None).err();
        assert!(matches!(refused, Some((Refusal::Full, Error::Busy { retry_after_seconds: 1, .. }))));
        drop(first);
        assert!(admission.enter(None).is_ok());
    }

    #[tokio::test]
    async fn a_tenant_has_its_share_and_is_forgotten_when_it_has_left() {
        let admission = Admission::new(2, 8, 2);
        let held = [admission.enter(Some("a")).unwrap(), admission.enter(Some("a")).unwrap()];
        let refused = admission.enter(Some("a")).err();
        assert!(matches!(refused, Some((Refusal::Tenant, Error::TooMany { .. }))));
        assert!(admission.enter(Some("b")).is_ok() && admission.enter(None).is_ok());
        drop(held);
        assert!(admission.enter(Some("a")).is_ok());
        assert!(admission.tenants.lock().is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_leaves_while_it_waits_frees_its_turn() {
        let admission = Admission::new(1, 10, 10);
        let turn = admission.turn(1).await.unwrap();
        {
            let waiting = admission.turn(1);
            tokio::pin!(waiting);
            assert!(futures_poll_once(waiting.as_mut()).await.is_none());
        }
        drop(turn);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(5), admission.turn(1)).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_model_that_asks_for_too_many_threads_computes_all_the_same() {
        let admission = Admission::new(2, 0, 2);
        let turn = admission.try_turn(64).unwrap();
        assert!(admission.try_turn(1).is_none());
        drop(turn);
        assert!(admission.try_turn(1).is_some());
    }

    #[tokio::test]
    async fn a_closed_door_keeps_those_inside() {
        let admission = Admission::new(1, 0, 1);
        let place = admission.enter(None).unwrap();
        admission.close();
        assert!(matches!(admission.enter(None).err(), Some((Refusal::Closing, _))));
        assert!(admission.turn(1).await.is_ok());
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
