//! What serving counts, for whoever watches it.
//!
//! Each revision of a deployment holds its own [`RevisionMetrics`], found once when its replica is made: on a call's way
//! nothing is looked up, locked or allocated. Names and text forms are the wire's, and not known here.

mod codes;
mod histogram;
mod revision;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use wattle_core::{ModelVersionId, Name};

pub use histogram::{Distribution, Histogram};
pub use revision::{Observation, Phases, RevisionMetrics, Spent};

/// How a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `/predict` and its kin.
    Predict,
    /// The Open Inference Protocol over REST.
    V2,
    /// The Open Inference Protocol over gRPC.
    Grpc,
    /// MLflow's scoring protocol.
    Mlflow,
    /// OpenAI's protocols: chats, completions, responses, embeddings.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// The Open Inference Protocol's `generate` and its kin.
    Generate,
}

/// Why a call got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The server has as many calls as it may.
    Full,
    /// The deployment has its share of them.
    Share,
    /// The tenant has what it may have.
    Tenant,
    /// The server is shutting down.
    Closing,
}

/// Why a model left memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Another model needed the room.
    Room,
    /// Staying would have cost more than loading again.
    Idle,
    /// Somebody asked for it.
    Request,
    /// Its deployment serves something else now, or is gone.
    Replaced,
    /// The process that held it ended by itself.
    Crash,
}

/// The metrics of one server: what its revisions count, and what belongs to none of them.
#[derive(Debug, Default)]
pub struct Metrics {
    revisions: RwLock<BTreeMap<Revision, Arc<RevisionMetrics>>>,
    /// The memory that models may take, in bytes; zero where there is no bound.
    pub memory_budget_bytes: Gauge,
}

/// A version under a deployment's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// The deployment.
    pub deployment: Name,
    /// The version that answers.
    pub model: ModelVersionId,
}

/// How many revisions of a deployment are told that it no longer serves. They are kept so that what they counted since
/// they were last read is not lost, and so that one that comes back goes on counting.
const PAST_REVISIONS: usize = 4;

impl Metrics {
    /// The metrics of a revision, the same ones whenever it is asked for.
    pub fn revision(&self, revision: Revision) -> Arc<RevisionMetrics> {
        let mut revisions = self.revisions.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(revisions.entry(revision).or_insert_with(|| Arc::new(RevisionMetrics::new())))
    }

    /// Forgets what belongs to deployments that are gone, and all but the latest of what a deployment served before:
    /// what is told never grows with the number of roll-outs. `serving` says whether a revision is served now.
    pub fn retain(&self, serving: impl Fn(&Revision) -> bool) {
        let mut revisions = self.revisions.write().unwrap_or_else(PoisonError::into_inner);
        let mut past: BTreeMap<&Name, Vec<&Revision>> = BTreeMap::new();
        let mut gone: Vec<Revision> = Vec::new();
        let deployed = |name: &Name| revisions.keys().any(|revision| revision.deployment == *name && serving(revision));
        for revision in revisions.keys().filter(|revision| !serving(revision)) {
            past.entry(&revision.deployment).or_default().push(revision);
        }
        for (name, past) in past {
            // Versions ascend within a model, so the last ones are the latest.
            let kept = if deployed(name) { PAST_REVISIONS } else { 0 };
            gone.extend(past.iter().rev().skip(kept).copied().cloned());
        }
        revisions.retain(|revision, _| !gone.contains(revision));
    }

    /// Every revision that is told, in order.
    pub fn revisions(&self) -> Vec<(Revision, Arc<RevisionMetrics>)> {
        let revisions = self.revisions.read().unwrap_or_else(PoisonError::into_inner);
        revisions.iter().map(|(revision, metrics)| (revision.clone(), Arc::clone(metrics))).collect()
    }
}

/// A figure that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Gauge {
    /// What it is now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// Lets it be this.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// One more, until what is returned is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }

    /// Changes it by so much.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 7] = [
        Protocol::Predict,
        Protocol::V2,
        Protocol::Grpc,
        Protocol::Mlflow,
        Protocol::OpenAi,
        Protocol::Anthropic,
        Protocol::Generate,
    ];

    /// The protocol as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Predict => "predict",
            Protocol::V2 => "v2",
            Protocol::Grpc => "grpc",
            Protocol::Mlflow => "mlflow",
            Protocol::OpenAi => "openai",
            Protocol::Anthropic => "anthropic",
            Protocol::Generate => "generate",
        }
    }
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 4] = [Refusal::Full, Refusal::Share, Refusal::Tenant, Refusal::Closing];

    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::Share => "share",
            Refusal::Tenant => "tenant",
            Refusal::Closing => "closing",
        }
    }
}

impl Eviction {
    /// All of them.
    pub const ALL: [Eviction; 5] =
        [Eviction::Room, Eviction::Idle, Eviction::Request, Eviction::Replaced, Eviction::Crash];

    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Eviction::Room => "room",
            Eviction::Idle => "idle",
            Eviction::Request => "request",
            Eviction::Replaced => "replaced",
            Eviction::Crash => "crash",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn revision(deployment: &str, version: u32) -> Revision {
        Revision {
            deployment: deployment.parse().unwrap(),
            model: ModelVersionId { model: "line".parse().unwrap(), version },
        }
    }

    fn told(metrics: &Metrics) -> Vec<String> {
        let revisions = metrics.revisions();
        revisions.iter().map(|(revision, _)| format!("{} {}", revision.deployment, revision.model)).collect()
    }

    #[test]
    fn a_revision_that_comes_back_goes_on_counting() {
        let metrics = Metrics::default();
        metrics.revision(revision("a", 1)).queued.add(3);
        metrics.revision(revision("a", 2));
        metrics.retain(|revision| revision.model.version == 2);
        assert_eq!(metrics.revision(revision("a", 1)).queued.get(), 3);
    }

    #[test]
    fn what_is_told_does_not_grow_with_roll_outs() {
        let metrics = Metrics::default();
        metrics.revision(revision("b", 1));
        for version in 1..=100 {
            metrics.revision(revision("a", version));
            metrics.retain(|served| *served == revision("a", version) || served.deployment.as_str() == "b");
        }
        assert_eq!(told(&metrics), ["a line:96", "a line:97", "a line:98", "a line:99", "a line:100", "b line:1"]);
        metrics.retain(|served| served.deployment.as_str() == "b");
        assert_eq!(told(&metrics), ["b line:1"], "a deployment that is gone is told no more");
    }
}
