//! The deployments as the store has them, made into replicas, and what stays of those that were there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

use tokio::sync::Semaphore;
use wattle_core::{LanguageModel, Name, Signature};
use wattle_store::{Deployment, Revision};

use crate::{
    Error, Result, Server,
    handover::Begun,
    metrics::{self, Eviction},
    pipeline::Pipeline,
    replica::{Parts, Replica, Served},
    rollout::Gate,
    shadow::Shadow,
    speaker::SpeakerSettings,
    trial::{Door, Side, Trial},
};

/// A revision that is in memory before it gets calls; it is let go when this is dropped before the traffic names it.
pub struct Prepared {
    _handover: Option<Begun>,
    _served: Arc<Served>,
}

/// Sequences of a language model: those that answer, and those that are kept for their prefixes.
const SEQUENCES: u32 = 64;
/// What a language model keeps of tokens where nobody said how much: its context, within these bounds.
const CELLS: std::ops::RangeInclusive<u64> = 8192..=32768;

/// What is served under each name.
pub(crate) type Table = BTreeMap<Name, Arc<Replica>>;

impl Server {
    /// Loads a revision that is to get calls, so that the first of them need not wait for that, and a model that cannot
    /// be loaded gets none. One that is to take over all calls, in containers from containers, does so one by one. What is
    /// returned is to be held until [`Server::reload`] has made it one of those that answer.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub async fn prepare(&self, name: &Name, revision: &Revision, takes_over: bool) -> Result<Prepared> {
        let present = self.table().get(name).cloned();
        let same = |served: &&Arc<Served>| served.revision == revision.revision;
        let served = present.as_ref().and_then(|present| present.all_served().into_iter().find(same).cloned());
        let served = match served.or_else(|| self.prepared(name, revision.revision)) {
            Some(served) => served,
            None => {
                let served = self.new_served(name, revision, present.as_deref()).await;
                let key = (name.clone(), revision.revision);
                self.inner.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::downgrade(&served));
                served
            }
        };
        served.check_path()?;
        if let Some(pipeline) = &served.pipeline {
            // Its steps are deployments of their own, and must be there.
            let told = |error: Error| Error::Load { deployment: name.to_string(), reason: error.to_string() };
            self.pipeline_signature(pipeline).map_err(told)?;
        }
        let before = present.filter(|_| takes_over && !served.is_ready()).map(|present| Arc::clone(present.served()));
        let before = before.filter(|before| before.loaded().is_some_and(|loaded| loaded.fleet.is_some()));
        if before.is_some() {
            served.begins_with.store(1, Relaxed);
        }
        served.make_ready().await?;
        let handover = match &before {
            Some(before) => self.hand_over(name, before, &served).await?,
            None => None,
        };
        Ok(Prepared { _handover: handover, _served: served })
    }

    /// Takes over the deployments as the store has them now. A revision that is still there stays loaded; one that is gone
    /// answers the calls that it has begun; one whose model is not there says so to its callers.
    pub async fn reload(&self) -> Result<()> {
        let _reloading = self.inner.reloading.lock().await;
        let deployments = self.inner.store.deployments().await.map_err(|error| Error::Internal(error.to_string()))?;
        let before = self.table().clone();
        let mut kept: HashMap<u64, Arc<Served>> = HashMap::new();
        let mut table = Table::new();
        for deployment in deployments {
            let present = before.get(&deployment.name).map(Arc::as_ref);
            let mut served = Vec::with_capacity(deployment.revisions.len());
            for revision in &deployment.revisions {
                let same = |served: &&Arc<Served>| served.revision == revision.revision;
                let there = present.and_then(|present| present.all_served().into_iter().find(same).cloned());
                let there = there.or_else(|| self.prepared(&deployment.name, revision.revision));
                served.push(match there {
                    Some(there) => there,
                    None => self.new_served(&deployment.name, revision, present).await,
                });
            }
            kept.extend(served.iter().map(|served| (served.key, Arc::clone(served))));
            let name = deployment.name.clone();
            table.insert(name, Arc::new(self.assemble(deployment, &served, present)));
        }
        self.inner.metrics.retain(|revision| {
            kept.values().any(|served| served.name == revision.deployment && served.id == revision.model)
        });
        let before = std::mem::replace(&mut *self.table_mut(), table);
        self.inner
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, served| served.strong_count() > 0);
        // What still answers calls goes when the last of them is answered.
        for replica in before.into_values() {
            let gone = replica.all_served().into_iter().filter(|served| !kept.contains_key(&served.key));
            for served in gone.filter(|served| served.is_idle()) {
                served.unload(Eviction::Replaced);
            }
        }
        Ok(())
    }

    /// The replica of a deployment out of what serves each of its revisions, which come in the order of its traffic.
    fn assemble(&self, deployment: Deployment, served: &[Arc<Served>], present: Option<&Replica>) -> Replica {
        let deployment = Arc::new(deployment);
        let of = |revision: u32| served.iter().find(|served| served.revision == revision);
        let traffic = &deployment.traffic;
        let shadow = traffic.shadow.and_then(of).map(|served| {
            // It goes on as it is while others come and go.
            let present = present.and_then(Replica::shadow).filter(|shadow| shadow.served().key == served.key);
            let follow = || Arc::new(Shadow::follow(Arc::clone(served), self));
            present.cloned().unwrap_or_else(follow)
        });
        let replica = |served: &Arc<Served>| Replica::new(Arc::clone(&deployment), Arc::clone(served));
        // The store keeps no deployment without one.
        let stable = &served[0];
        let Some(canary) = traffic.canary().and_then(|canary| of(canary.revision)) else {
            let handover = present.filter(|present| present.served.key == stable.key);
            let handover = handover.and_then(|present| present.handover.clone());
            return Replica { shadow, handover, ..replica(stable) };
        };
        let gate = Gate {
            max_error_percent: canary.settings.gate_max_error_percent,
            min_calls: u64::from(canary.settings.gate_min_calls),
        };
        // What was counted counts as long as the shares are the same.
        let trial = present
            .filter(|present| present.deployment().traffic.shares == traffic.shares)
            .and_then(|present| present.door.as_ref())
            .map_or_else(|| Arc::new(Trial::new(gate)), |door| Arc::clone(&door.trial));
        let seat = |side| Some((Arc::clone(&trial), side));
        let canary = Replica { trial: seat(Side::Canary), ..replica(canary) };
        let stable_replica = Replica { trial: seat(Side::Stable), shadow, ..replica(stable) };
        let door = Door { stable: Arc::new(stable_replica), canary: Arc::new(canary), trial };
        Replica { door: Some(door), ..replica(stable) }
    }

    /// What serves a revision that was not served yet. It shares its deployment's places with the others.
    async fn new_served(&self, name: &Name, revision: &Revision, present: Option<&Replica>) -> Arc<Served> {
        let inner = &self.inner;
        let id = revision.id();
        let found = async {
            let manifest = inner.store.version(&id).await?.manifest;
            let path = inner.store.blobs().local_path(manifest.digest).await;
            Ok::<_, wattle_store::Error>((manifest, path))
        };
        let load_error = |reason: String| Error::Load { deployment: name.to_string(), reason };
        let told = |error: wattle_store::Error| {
            tracing::error!(deployment = %name, %error, "a deployed model is not there");
            load_error(error.to_string())
        };
        let (manifest, mut path) = match found.await {
            Ok((manifest, path)) => (Some(manifest), path.map_err(told)),
            Err(error) => (None, Err(told(error))),
        };
        let mut pipeline = None;
        if let (Some(manifest), Ok(file)) = (&manifest, &path)
            && manifest.format == Pipeline::FORMAT
        {
            let read = tokio::fs::read_to_string(file).await.map_err(|error| Error::Internal(error.to_string()));
            match read.and_then(|text| Pipeline::from_toml(&text)) {
                Ok(read) => pipeline = Some(read),
                Err(error) => path = Err(load_error(error.to_string())),
            }
        }
        let settings = revision.settings.or(&inner.defaults).resolve();
        let language = manifest.as_ref().and_then(|manifest| manifest.language.clone());
        let speaker = manifest.as_ref().zip(language.as_ref()).map(|(manifest, language)| SpeakerSettings {
            identity: manifest.digest.to_string(),
            threads: settings
                .threads
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32)),
            sequences: if language.embeds { 0 } else { SEQUENCES },
            cells: settings.kv_cells.unwrap_or_else(|| default_cells(language)),
            context_tokens: settings.context_tokens,
            max_inter_token: settings.max_inter_token,
            max_waiting: inner.language.max_waiting,
            max_tenant_requests: inner.max_tenant_requests,
            speculates: settings.speculate,
            // What its processors are limited to, it must not keep others from.
            processors: inner.language.processors.clone().filter(|_| settings.cpu_limit.is_none()),
            saved: inner.language.prefixes.as_ref().map(|folder| folder.join(format!("{}-{}", id.model, id.version))),
            saved_bytes: inner.language.prefix_bytes,
        });
        let file_bytes = manifest.as_ref().map_or(0, |manifest| manifest.bytes);
        let measured_bytes = match (&language, &speaker) {
            // Somewhat more than what it will say itself once it is loaded.
            (Some(language), Some(speaker)) => {
                let cells = u64::from(speaker.cells) * language.cache_bytes_per_token;
                Some(file_bytes + cells + cells.min(speaker.saved_bytes) + step_bytes(language, speaker))
            }
            _ => manifest.as_ref().and_then(|manifest| manifest.resident_bytes),
        };
        let places = present.map(|present| Arc::clone(&present.served().places));
        Served::new(Parts {
            name: name.clone(),
            revision: revision.revision,
            metrics: inner.metrics.revision(metrics::Revision { deployment: name.clone(), model: id.clone() }),
            id,
            file_bytes,
            measured_bytes,
            language,
            speaker,
            signature: match manifest {
                Some(manifest) => manifest.signature,
                None => Signature { inputs: Vec::new(), outputs: Vec::new() },
            },
            path,
            pipeline,
            settings,
            places: places.unwrap_or_else(|| Arc::new(Semaphore::new(inner.places_a_deployment))),
            meter: inner.meter.clone(),
            memory: Arc::clone(&inner.memory),
        })
    }

    /// A revision that was prepared and is still held.
    fn prepared(&self, name: &Name, revision: u32) -> Option<Arc<Served>> {
        let prepared = self.inner.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.get(&(name.clone(), revision))?.upgrade()
    }
}

/// What stands between layers while a step of 512 tokens is computed, and its logits: more rather than less, since models
/// differ.
fn step_bytes(language: &LanguageModel, speaker: &SpeakerSettings) -> u64 {
    let masks = u64::from(speaker.cells) * 6;
    let activations = language.width * 4 * 16;
    let logits = u64::from(speaker.sequences) * language.vocabulary * 4;
    512 * (masks + activations) + logits
}

/// How many tokens a language model keeps the keys and values of.
fn default_cells(language: &LanguageModel) -> u32 {
    language.context_tokens.clamp(*CELLS.start(), *CELLS.end()) as u32
}
