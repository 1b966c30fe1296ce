use wattle_core::Name;
use wattle_store::{
    Change, Deployment, DeploymentHistory, Isolation, NewRevision, NewTraffic, Revision, Settings, Store, Traffic,
};

use crate::{DeploymentRequest, Error, Result, compatible, request::Role};

/// The deployments of one store.
#[derive(Clone)]
pub struct Deployments {
    store: Store,
}

impl Deployments {
    /// The deployments that this store keeps.
    pub fn new(store: Store) -> Deployments {
        Deployments { store }
    }

    /// Gives the request's version the place in the traffic of its name that the request asks for: all calls, whatever
    /// answered them before, or a part of them, or copies.
    ///
    /// It gets them when `ready`, which is told whether it is to have all of them, has it ready to answer; what `ready` gives comes back, so that it can be held until then.
    /// Otherwise nothing changes but the history.
    pub async fn deploy<R: Send, F: Future<Output = Result<R, String>> + Send>(
        &self,
        request: DeploymentRequest,
        ready: impl FnOnce(Name, Revision, bool) -> F + Send,
    ) -> Result<(Deployment, R)> {
        let role = request.role()?;
        let version = self.store.resolve(&request.model).await?;
        let name = request.name.unwrap_or_else(|| version.model.clone());
        let present = self.store.find_deployment(&name).await?;
        // A version that is tried already goes on as it is tried, and a new one begins as the stable one is served.
        let kept = present.as_ref().filter(|_| !request.reset_settings).map(|present| {
            let tried = present.revisions.iter().rev().find(|revision| revision.id() == version.id());
            tried.map_or(&present.settings, |tried| &tried.settings)
        });
        let settings = request.settings.or(kept.unwrap_or(&Settings::default()));
        settings.check()?;
        if version.manifest.format == "pipeline" && settings.isolation == Some(Isolation::Container) {
            return Err(Error::Invalid(format!(
                "{}:{} is a pipeline, whose steps are deployments of their own: deploy these to containers",
                version.model, version.version
            )));
        }
        if role != Role::All {
            let present = present.as_ref().ok_or_else(|| nothing_to_try_beside(&name))?;
            if present.model == version.model && present.version == version.version && present.settings == settings {
                return Err(Error::Invalid(format!(
                    "{}:{} is what {name} answers with already, with the same settings: deploy another version beside it",
                    version.model, version.version
                )));
            }
            let stable = self.store.version(&present.id()).await?;
            if let Some(difference) = compatible::difference(&stable.manifest.signature, &version.manifest.signature) {
                return Err(Error::Invalid(format!(
                    "{}:{} cannot answer the calls that {}:{} gets: {difference}",
                    version.model, version.version, present.model, present.version
                )));
            }
        }
        let revision = NewRevision {
            deployment: name.clone(),
            model: version.model,
            version: version.version,
            reference: request.model,
            settings,
        };
        let revision = self.store.add_revision(revision).await?;
        let held = self.ready(&name, &revision, role == Role::All, ready).await?;
        let revision = revision.revision;
        let what = match role {
            Role::All => Change::Deployed,
            Role::Canary(_) => Change::Canary,
            Role::Shadow => Change::Shadow,
        };
        let new = NewTraffic { name: name.clone(), what, revision, reason: None, default: request.default };
        let decide = move |traffic: &Traffic| match (role, traffic.stable()) {
            (Role::All, _) => Ok(Traffic::all(revision)),
            // It went, or became the stable one, since we looked.
            (_, None) => Err(nothing_to_try_beside(&name)),
            (_, Some(stable)) if stable == revision => Err(changed_meanwhile(&name)),
            (Role::Canary(percent), _) => Ok(traffic.with_canary(revision, percent)),
            (Role::Shadow, _) => Ok(traffic.with_shadow(revision)),
        };
        Ok((self.store.change_traffic(new, decide).await?, held))
    }

    /// Gives the revision that is tried, the canary or without one the shadow, all calls, when it is ready (see
    /// [`Deployments::deploy`]).
    pub async fn promote<R: Send, F: Future<Output = Result<R, String>> + Send>(
        &self,
        name: &Name,
        ready: impl FnOnce(Name, Revision, bool) -> F + Send,
    ) -> Result<(Deployment, R)> {
        let present = self.store.deployment(name).await?;
        let candidate = present.traffic.candidate().and_then(|candidate| present.revision(candidate));
        let candidate = candidate.ok_or_else(|| {
            Error::Conflict(format!(
                "{name} has neither a canary nor a shadow: `wattle deploy MODEL:VERSION --name {name} --canary 10` begins one"
            ))
        })?;
        let held = self.ready(name, candidate, true, ready).await?;
        let revision = candidate.revision;
        let new = NewTraffic { name: name.clone(), what: Change::Promoted, revision, reason: None, default: false };
        let decide = |traffic: &Traffic| match traffic.candidate() == Some(revision) {
            true => Ok(Traffic::all(revision)),
            false => Err(changed_meanwhile(name)),
        };
        Ok((self.store.change_traffic(new, decide).await?, held))
    }

    /// Goes back by one step: ends what is tried, the canary or without one the shadow; where nothing is, gives all calls
    /// to the revision that was the stable one before, when that is ready (see [`Deployments::deploy`]). What was gone
    /// back from is never gone back to.
    pub async fn roll_back<R: Send, F: Future<Output = Result<R, String>> + Send>(
        &self,
        name: &Name,
        ready: impl FnOnce(Name, Revision, bool) -> F + Send,
    ) -> Result<(Deployment, Option<R>)> {
        let present = self.store.deployment(name).await?;
        let (revision, to, held) = match present.traffic.candidate() {
            Some(candidate) => (candidate, present.traffic.without_candidate(), None),
            None => {
                let previous = self.previous(name).await?;
                let held = self.ready(name, &previous, true, ready).await?;
                let gone = present.revisions.first().map_or(0, |stable| stable.revision);
                (gone, Traffic::all(previous.revision), Some(held))
            }
        };
        let new = NewTraffic { name: name.clone(), what: Change::RolledBack, revision, reason: None, default: false };
        let decide = |traffic: &Traffic| match *traffic == present.traffic {
            true => Ok(to),
            false => Err(changed_meanwhile(name)),
        };
        Ok((self.store.change_traffic(new, decide).await?, held))
    }

    /// Gives the canary's calls back to the stable revision, since it failed; nothing, if it is no longer the canary.
    pub async fn roll_back_canary(&self, name: &Name, revision: u32, reason: String) -> Result<Deployment> {
        let (what, reason) = (Change::GateRolledBack, Some(reason));
        let new = NewTraffic { name: name.clone(), what, revision, reason, default: false };
        let decide = |traffic: &Traffic| match traffic.canary() {
            Some(canary) if canary.revision == revision => Ok(traffic.without_candidate()),
            _ => Ok(traffic.clone()),
        };
        self.store.change_traffic(new, decide).await
    }

    /// What happened to the deployments of this name.
    pub async fn history(&self, name: &Name) -> Result<DeploymentHistory> {
        self.store.deployment_history(name).await
    }

    /// Removes a deployment; requests to it are not found from then on.
    pub async fn undeploy(&self, name: &Name) -> Result<()> {
        self.store.remove_deployment(name).await
    }

    /// Has a revision made ready to answer, or remembers why it cannot.
    async fn ready<R: Send, F: Future<Output = Result<R, String>> + Send>(
        &self,
        name: &Name,
        revision: &Revision,
        takes_over: bool,
        ready: impl FnOnce(Name, Revision, bool) -> F + Send,
    ) -> Result<R> {
        match ready(name.clone(), revision.clone(), takes_over).await {
            Ok(held) => Ok(held),
            Err(reason) => {
                let number = revision.revision;
                self.store.record_refusal(name, number, reason.clone()).await?;
                let id = revision.id();
                Err(Error::Unavailable(format!(
                    "revision {number} of {name} ({id}) is not ready, and the traffic stays as it was: {reason}"
                )))
            }
        }
    }

    /// The revision that a rollback without a canary or a shadow goes back to.
    async fn previous(&self, name: &Name) -> Result<Revision> {
        let history = self.store.deployment_history(name).await?;
        let previous = history.previous().and_then(|revision| history.revision(revision)).cloned();
        let previous = previous.ok_or_else(|| {
            Error::Conflict(format!("{name} has nothing to go back to: `wattle history {name}` shows what there was"))
        })?;
        match self.store.version(&previous.id()).await {
            Ok(_) => Ok(previous),
            Err(Error::NotFound(_)) => Err(Error::Conflict(format!(
                "revision {} of {name} answered with {}, which was removed: deploy another version",
                previous.revision,
                previous.id()
            ))),
            Err(error) => Err(error),
        }
    }
}

fn nothing_to_try_beside(name: &Name) -> Error {
    Error::Conflict(format!("nothing is deployed as {name} yet: deploy it to all calls first"))
}

fn changed_meanwhile(name: &Name) -> Error {
    Error::Conflict(format!("the traffic of {name} has changed meanwhile: look at `wattle ps` and try again"))
}
