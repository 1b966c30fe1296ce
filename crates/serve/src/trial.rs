//! The revisions of one deployment: whom a call meets, and how a canary fares beside the stable one.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    Error, Result,
    replica::{Replica, Served},
    rollout::{Gate, Tally, Verdict, pick},
    shadow::Shadow,
};

/// The way in to a deployment whose canary is on trial.
pub(crate) struct Door {
    pub(crate) stable: Arc<Replica>,
    pub(crate) canary: Arc<Replica>,
    pub(crate) trial: Arc<Trial>,
}

/// What both revisions did since the canary has its share.
pub(crate) struct Trial {
    gate: Gate,
    stable: Counts,
    canary: Counts,
    verdict: OnceLock<String>,
}

/// Whose call it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Stable,
    Canary,
}

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    failures: AtomicU64,
}

impl Replica {
    /// Whom a call meets: what was found by a name may stand for the stable revision and its canary.
    pub fn route(self: Arc<Self>, key: Option<&str>) -> Arc<Replica> {
        if let Some(handover) = &self.handover
            && let Some(to) = handover.takes(fastrand::u64(..))
        {
            return Arc::new(Replica::new(Arc::clone(&self.deployment), Arc::clone(to)));
        }
        let Some(door) = &self.door else { return self };
        // From its failure until it is rolled back a canary gets no calls.
        let failed = door.trial.verdict().is_some();
        let met = pick(&self.deployment.traffic, self.name(), key, fastrand::u64(..));
        match met == Some(door.canary.served.revision) && !failed {
            true => Arc::clone(&door.canary),
            false => Arc::clone(&door.stable),
        }
    }

    /// The revision that answers with this version, whatever its share of the calls.
    pub fn of_version(&self, version: u32) -> Option<Arc<Replica>> {
        let is_wanted = |served: &&Arc<Served>| served.id.version == version;
        let served = self.answering().into_iter().find(is_wanted)?;
        Some(Arc::new(Replica::new(Arc::clone(&self.deployment), Arc::clone(served))))
    }

    /// The versions that answer, the stable one first.
    pub fn versions(&self) -> Vec<u32> {
        let mut versions: Vec<u32> = self.answering().into_iter().map(|served| served.id.version).collect();
        versions.dedup();
        versions
    }

    /// All that is served under the name: the stable revision, the canary, the shadow.
    pub(crate) fn all_served(&self) -> Vec<&Arc<Served>> {
        let shadow = self.shadow().map(|shadow| shadow.served());
        self.answering().into_iter().chain(shadow).collect()
    }

    /// Who answers: the stable revision first.
    fn answering(&self) -> Vec<&Arc<Served>> {
        let canary = self.door.as_ref().map(|door| &door.canary.served);
        [Some(&self.served), canary].into_iter().flatten().collect()
    }

    /// The shadow that gets copies of the stable revision's calls.
    pub(crate) fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.door.as_ref().map_or(self.shadow.as_ref(), |door| door.stable.shadow.as_ref())
    }

    /// Counts a call's end for the trial that it was a part of; says whether the canary has failed by it.
    pub(crate) fn count<T>(&self, result: &Result<T>) -> bool {
        self.trial.as_ref().is_some_and(|(trial, side)| trial.count(*side, result))
    }
}

impl Trial {
    pub(crate) fn new(gate: Gate) -> Trial {
        Trial { gate, stable: Counts::default(), canary: Counts::default(), verdict: OnceLock::new() }
    }

    /// Counts a call; says whether it was the one by which the canary has failed.
    pub(crate) fn count<T>(&self, side: Side, result: &Result<T>) -> bool {
        let Some(failed) = failed(result) else { return false };
        let counts = match side {
            Side::Stable => &self.stable,
            Side::Canary => &self.canary,
        };
        counts.calls.fetch_add(1, Relaxed);
        counts.failures.fetch_add(u64::from(failed), Relaxed);
        if side == Side::Stable || self.verdict().is_some() {
            return false;
        }
        match self.gate.judge(self.canary.tally(), self.stable.tally()) {
            Verdict::Keep => false,
            Verdict::RollBack(reason) => self.verdict.set(reason).is_ok(),
        }
    }

    /// Why the canary has failed, once it has. It gets no calls from then on.
    pub(crate) fn verdict(&self) -> Option<&str> {
        self.verdict.get().map(String::as_str)
    }
}

impl Counts {
    fn tally(&self) -> Tally {
        Tally { calls: self.calls.load(Relaxed), failures: self.failures.load(Relaxed) }
    }
}

/// Whether the model failed; nothing where it was not asked, by the caller's doing or for lack of a place.
fn failed<T>(result: &Result<T>) -> Option<bool> {
    match result {
        Ok(_) => Some(false),
        Err(
            Error::Run(_)
            | Error::Crashed { .. }
            | Error::Unreached { .. }
            | Error::Load { .. }
            | Error::NoRoom { .. }
            | Error::Expired
            | Error::Internal(_),
        ) => Some(true),
        Err(Error::Invalid(_) | Error::NotFound(_) | Error::Busy { .. } | Error::TooMany { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_fails_once_and_by_its_own_calls() {
        let trial = Trial::new(Gate { max_error_percent: 5.0, min_calls: 10 });
        let good: Result<()> = Ok(());
        let (bad, wrong): (Result<()>, Result<()>) = (Err(Error::Run("no".into())), Err(Error::Invalid("x".into())));
        for _ in 0..100 {
            assert!(!trial.count(Side::Stable, &bad));
            assert!(!trial.count(Side::Stable, &good));
            assert!(!trial.count(Side::Canary, &wrong), "what the caller got wrong counts for nobody");
        }
        // Half of the stable revision's calls fail, so as many may of the canary's.
        for _ in 0..50 {
            assert!(!trial.count(Side::Canary, &good));
            assert!(!trial.count(Side::Canary, &bad));
        }
        assert_eq!(trial.verdict(), None);
        let until = (0..1000).position(|_| trial.count(Side::Canary, &bad));
        assert!(until.is_some_and(|calls| (20..200).contains(&calls)), "{until:?}");
        assert!(trial.verdict().is_some_and(|reason| reason.contains("of the stable revision's 200")));
        assert!(!trial.count(Side::Canary, &bad), "it is told once");
    }
}
