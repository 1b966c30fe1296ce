//! How deployments fare in this process.

use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use wattle_core::Name;
use wattle_store::{Deployment, Isolation};

use crate::{
    InstanceStatus,
    replica::{Replica, Served},
    shadow::Compared,
};

/// A deployment and how it fares in this process. What it says of a model is said of its stable revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The record.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// How its model fares.
    #[serde(flatten)]
    pub model: ModelStatus,
    /// How each of its revisions fares, in the order of the traffic, the shadow last.
    #[serde(default)]
    pub replicas: Vec<RevisionStatus>,
}

/// A revision and how it fares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// Its number.
    pub revision: u32,
    /// How its model fares.
    #[serde(flatten)]
    pub model: ModelStatus,
    /// How its answers compare with those that are given, of a shadow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

/// A model and how it fares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Whether it is in memory; otherwise the first call loads it.
    pub loaded: bool,
    /// Why it cannot be loaded, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Calls answered since this revision was deployed, or since the server started.
    pub requests: u64,
    /// Calls that failed in the model.
    pub failures: u64,
    /// Calls being answered now.
    pub in_flight: u64,
    /// Mean time in the engine for a call; absent before the first.
    pub mean_compute_ms: Option<f64>,
    /// How long loading took; absent while not loaded.
    pub load_ms: Option<f64>,
    /// What the model takes in memory, in bytes; 0 while not loaded.
    #[serde(default)]
    pub resident_bytes: u64,
    /// Where it lives.
    #[serde(default = "thread")]
    pub isolation: Isolation,
    /// By what the limits of its process hold; absent without a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
    /// Its instances, where there may be several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceStatus>,
}

/// A canary that failed too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCanary {
    /// The deployment.
    pub deployment: Name,
    /// The canary.
    pub revision: u32,
    /// What it did.
    pub reason: String,
}

fn thread() -> Isolation {
    Isolation::Thread
}

impl Replica {
    /// How the deployment fares.
    pub fn status(&self) -> ReplicaStatus {
        let shadow = self.shadow();
        let compared =
            |served: &Served| shadow.filter(|shadow| shadow.served().key == served.key).map(|shadow| shadow.compared());
        let replicas = self.all_served().into_iter().map(|served| RevisionStatus {
            revision: served.revision,
            model: served.status(),
            compared: compared(served),
        });
        ReplicaStatus {
            deployment: self.deployment().clone(),
            model: self.served().status(),
            replicas: replicas.collect(),
        }
    }

    /// The canary, if it has failed and was not yet rolled back.
    pub(crate) fn failed_canary(&self) -> Option<FailedCanary> {
        let door = self.door.as_ref()?;
        let reason = door.trial.verdict()?.to_owned();
        Some(FailedCanary { deployment: self.name().clone(), revision: door.canary.revision(), reason })
    }
}

impl Served {
    fn status(&self) -> ModelStatus {
        let counters = &self.counters;
        let (loaded, requests) = (self.loaded(), counters.requests.load(Relaxed));
        let ms = |micros: u64| micros as f64 / 1000.0;
        ModelStatus {
            loaded: self.is_ready(),
            error: self.failure().map(|error| error.to_string()),
            requests,
            failures: counters.failures.load(Relaxed),
            in_flight: counters.in_flight.load(Relaxed),
            mean_compute_ms: (requests > 0).then(|| ms(counters.compute_micros.load(Relaxed)) / requests as f64),
            load_ms: loaded.is_some().then(|| ms(counters.load_micros.load(Relaxed))),
            resident_bytes: loaded.map_or(0, |loaded| loaded.bytes),
            isolation: self.isolation,
            limited_by: self.limited_by().map(str::to_owned),
            instances: self.instances(),
        }
    }
}
