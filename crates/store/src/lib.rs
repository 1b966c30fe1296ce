//! Bytes at rest and the catalogue: data sets, models, versions, aliases, deployments, jobs.
//!
//! Bytes are immutable blobs under their SHA-256; the catalogue says what they are. A blob is on the disk before the
//! catalogue names it, and the catalogue forgets it before it is deleted, so a crash at any instant leaves either the
//! old or the new state.

#![forbid(unsafe_code)]

mod store;

mod blobs;
mod catalogue;
mod check;
mod error;
mod gc;
mod manifest;
mod settings;
mod staging;
pub mod table;
mod traffic;

pub use blobs::{Blobs, digest_file, digest_file_here};
pub use catalogue::{
    aliases::AliasChange,
    datasets::{Dataset, NewDataset},
    deployments::{Deployment, NewTraffic},
    history::{Change, DeploymentHistory, TrafficChange},
    jobs::{Job, JobCost, JobEnd, JobState},
    models::{Model, ModelVersion},
    revisions::{NewRevision, Revision},
};
pub use error::{Error, Result};
pub use gc::Collected;
pub use manifest::{DataReference, Manifest, TrainingCost};
pub use settings::{Isolation, ResolvedSettings, Settings};
pub use staging::{StagedFile, Staging};
pub use store::Store;
pub use traffic::{Share, Traffic};
