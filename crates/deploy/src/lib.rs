//! Desired state: which version of which model answers under which name.
//!
//! A deployment is a record in the store; `serve` loads what it names. Replicas live in the serving process.

#![forbid(unsafe_code)]

pub mod process;

use serde::{Deserialize, Serialize};
use wattle_core::{ModelReference, Name};
use wattle_store::{Deployment, NewDeployment, Store};

/// What can go wrong with a deployment: what its records can meet.
pub use wattle_store::Error;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What somebody wants deployed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentRequest {
    /// The model; an alias or the latest version is resolved once, now.
    pub model: ModelReference,
    /// The deployment's name; the model's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whether `POST /predict`, which names no deployment, goes here.
    #[serde(default)]
    pub default: bool,
}

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

    /// Makes the request's name answer with the request's version, whatever it answered with before.
    pub async fn deploy(&self, request: DeploymentRequest) -> Result<Deployment> {
        let version = self.store.resolve(&request.model).await?;
        let name = request.name.unwrap_or_else(|| version.model.clone());
        let new = NewDeployment {
            name,
            model: version.model,
            version: version.version,
            reference: request.model,
            default: request.default,
        };
        self.store.put_deployment(new).await
    }

    /// Removes a deployment; requests to it are not found from then on.
    pub async fn undeploy(&self, name: &Name) -> Result<()> {
        self.store.remove_deployment(name).await
    }
}
