//! A deployment in several instances, which are played.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use support::{Place, identity, options, place_with};
use wattle_core::{ModelVersionId, Name};
use wattle_engine::Tensor;
use wattle_serve::{
    Computed, Error, Instance, Launcher, Launchers, Result, Worker, WorkerOrder,
    speaker::{Speaker, SpeakerOrder},
};
use wattle_store::{Isolation, Revision, Settings, Traffic};

/// Starts instances that give back what they get, and remembers of which version each was.
#[derive(Default)]
struct Yard {
    started: Mutex<Vec<u32>>,
    /// How many of version 2 come.
    second: AtomicUsize,
}

struct Echo(ModelVersionId);

#[async_trait]
impl Launcher for Yard {
    async fn launch(&self, order: WorkerOrder) -> Result<Arc<dyn Worker>> {
        if order.id.version == 2 && self.second.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(Error::Load { deployment: order.deployment.to_string(), reason: "it does not come".into() });
        }
        self.started.lock().unwrap().push(order.id.version);
        Ok(Arc::new(Echo(order.id)))
    }

    async fn launch_speaker(&self, _: SpeakerOrder) -> Result<Arc<dyn Speaker>> {
        unreachable!("no language model is deployed")
    }
}

#[async_trait]
impl Instance for Echo {
    fn name(&self) -> &str {
        self.0.model.as_str()
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn resident_bytes(&self) -> u64 {
        1
    }

    fn load_cpu_seconds(&self) -> f64 {
        0.0
    }

    fn limited_by(&self) -> Option<&'static str> {
        None
    }
}

#[async_trait]
impl Worker for Echo {
    async fn run(&self, inputs: &[Tensor]) -> Result<Computed> {
        let version = f64::from(self.0.version);
        let outputs = inputs.iter().map(|input| Tensor { name: "y".into(), ..input.clone() }).collect();
        Ok(Computed { outputs, cpu_seconds: version })
    }
}

async fn place(yard: &Arc<Yard>) -> Place {
    let mut options = options(2, 64);
    (options.defaults.isolation, options.defaults.replicas) = (Some(Isolation::Container), Some(3));
    let containers = Some(Arc::clone(yard) as Arc<dyn Launcher>);
    place_with(options, Launchers { containers, ..Launchers::default() }).await
}

/// A revision of version 2, which nobody calls yet.
async fn second(place: &Place) -> Revision {
    let version = place.version("echo", &identity(1)).await;
    place.revision(&"echo".parse().unwrap(), version, Settings::default()).await
}

fn instances(place: &Place) -> usize {
    place.replica("echo").status().model.instances.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_takes_over_instance_by_instance() {
    let yard = Arc::new(Yard::default());
    let place = place(&yard).await;
    place.deploy("echo", 1, false).await;
    place.server.load(&"echo".parse().unwrap()).await.unwrap();
    assert_eq!((instances(&place), place.call("echo").await.unwrap().model.version), (3, 1));
    yard.second.store(3, Relaxed);
    let echo: Name = "echo".parse().unwrap();
    let second = second(&place).await;
    let held = place.server.prepare(&echo, &second, true).await.unwrap();
    // One of the old is there until the traffic names the new, which answers already.
    assert_eq!((instances(&place), yard.started.lock().unwrap().clone()), (1, vec![1, 1, 1, 2, 2, 2]));
    assert_eq!(place.call("echo").await.unwrap().model.version, 2);
    place.put_traffic(&echo, Traffic::all(second.revision), false).await;
    drop(held);
    assert_eq!((instances(&place), place.call("echo").await.unwrap().model.version), (3, 2));
    assert_eq!(yard.started.lock().unwrap().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_whose_instances_do_not_all_come_changes_nothing() {
    let yard = Arc::new(Yard::default());
    let place = place(&yard).await;
    place.deploy("echo", 1, false).await;
    place.server.load(&"echo".parse().unwrap()).await.unwrap();
    yard.second.store(2, Relaxed);
    let second = second(&place).await;
    let refused = place.server.prepare(&"echo".parse().unwrap(), &second, true).await.err().unwrap();
    assert!(refused.to_string().contains("it does not come"), "{refused}");
    // Those that had gone already come back.
    for _ in 0..200 {
        if instances(&place) == 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((instances(&place), place.call("echo").await.unwrap().model.version), (3, 1));
    assert_eq!(yard.started.lock().unwrap().iter().filter(|version| **version == 1).count(), 5);
}
