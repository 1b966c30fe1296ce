//! A revision takes over from another one instance by instance, so that hardly more instances are there at any time than
//! there are to be, and every call finds one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use wattle_core::Name;

use crate::{
    Error, InstanceState, Result, Server,
    fleet::Scale,
    replica::{Replica, Served},
};

/// How far a revision has taken over.
pub(crate) struct Handover {
    to: Arc<Served>,
    /// The share of the calls that it answers, in percent.
    percent: AtomicU64,
}

/// A handover whose revision is not yet the one that its deployment names. Should it never be, all goes back as it was when
/// this is dropped.
pub(crate) struct Begun {
    server: Server,
    name: Name,
    handover: Arc<Handover>,
    from: Arc<Served>,
    from_count: usize,
}

impl Handover {
    /// Whether a call that may meet either revision meets the new one.
    pub(crate) fn takes(&self, random: u64) -> Option<&Arc<Served>> {
        let percent = (u128::from(random) * 100) >> 64;
        (percent < u128::from(self.percent.load(Relaxed))).then_some(&self.to)
    }
}

impl Server {
    /// Has a revision of which one instance is there take over from the one that answers: one instance comes, and one goes
    /// when it has answered its calls. One of the old stays until all calls are meant for the new.
    ///
    /// # Errors
    /// Why an instance did not come, or is not well any more; then all is as it was.
    pub(crate) async fn hand_over(&self, name: &Name, from: &Arc<Served>, to: &Arc<Served>) -> Result<Option<Begun>> {
        let (Some(old), Some(new)) = (fleet(from), fleet(to)) else { return Ok(None) };
        let (from_count, count) = (old.instances().len(), to.wanted_instances());
        let handover = Arc::new(Handover { to: Arc::clone(to), percent: AtomicU64::new(0) });
        if !self.set_handover(name, from, Some(&handover)) {
            return Ok(None);
        }
        let begun = Begun {
            server: self.clone(),
            name: name.clone(),
            handover: Arc::clone(&handover),
            from: Arc::clone(from),
            from_count,
        };
        for there in 1..=count {
            if there > 1 {
                new.grow().await?;
            }
            if let Some(bad) = new.instances().iter().find(|instance| instance.state != InstanceState::Ready) {
                let reason = format!("its instance {} came, and did not stay well", bad.name);
                return Err(Error::Load { deployment: name.to_string(), reason });
            }
            handover.percent.store(100 * there as u64 / count as u64, Relaxed);
            let kept = (from_count * (count - there) / count).max(1);
            while old.instances().len() > kept {
                old.shrink().await;
            }
        }
        Ok(Some(begun))
    }

    /// Lets calls meet the new revision as well, or ends that; says whether the old one still is the one that answers.
    fn set_handover(&self, name: &Name, from: &Served, handover: Option<&Arc<Handover>>) -> bool {
        let mut table = self.table_mut();
        let Some(replica) = table.get_mut(name) else { return false };
        if replica.served.key != from.key || (handover.is_some() && replica.door.is_some()) {
            return false;
        }
        if handover.is_none() && replica.handover.is_none() {
            // A canary came meanwhile, and ended it.
            return true;
        }
        *replica = Arc::new(Replica {
            deployment: Arc::clone(&replica.deployment),
            served: Arc::clone(&replica.served),
            door: None,
            trial: None,
            shadow: replica.shadow.clone(),
            handover: handover.cloned(),
        });
        true
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.handover.percent.store(0, Relaxed);
        if !self.server.set_handover(&self.name, &self.from, None) {
            // It took over.
            return;
        }
        let (from, count) = (Arc::clone(&self.from), self.from_count);
        tokio::spawn(async move {
            let Some(old) = fleet(&from) else { return };
            while old.instances().len() < count {
                if let Err(error) = old.grow().await {
                    tracing::error!(deployment = %from.name, %error, "an instance cannot be brought back");
                    return;
                }
            }
        });
    }
}

fn fleet(served: &Served) -> Option<Arc<dyn Scale>> {
    served.loaded()?.fleet.clone()
}
