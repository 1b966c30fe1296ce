use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use wattle_core::{ModelReference, ModelVersionId, Name};

use super::{
    Columns,
    history::{self, Change, TrafficChange},
    models, names, not_found, now,
    revisions::{self, Revision},
    to_json,
};
use crate::{Error, Result, Settings, Store, Traffic};

/// What is served under a name, and who of its revisions answers. What it says of a version is said of its stable one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name, which is part of its address.
    pub name: Name,
    /// The model.
    pub model: Name,
    /// The version, which stays when an alias moves or a new version comes.
    pub version: u32,
    /// What was asked for: `line`, `line:3` or `line@champion`.
    pub reference: ModelReference,
    /// Whether it answers calls that name no deployment; true of one at most.
    pub default: bool,
    /// When this version was deployed under this name.
    pub created_at: DateTime<Utc>,
    /// How it is served.
    pub settings: Settings,
    /// Who answers, and who gets copies.
    pub traffic: Traffic,
    /// The revisions that the traffic names, in its order.
    pub revisions: Vec<Revision>,
}

/// A change of a deployment's traffic.
#[derive(Debug, Clone)]
pub struct NewTraffic {
    /// The deployment.
    pub name: Name,
    /// What happens.
    pub what: Change,
    /// The revision that comes, or goes.
    pub revision: u32,
    /// Why, where nobody asked for it.
    pub reason: Option<String>,
    /// Whether the deployment becomes the default, instead of the one that is.
    pub default: bool,
}

impl Deployment {
    /// The stable revision's version.
    pub fn id(&self) -> ModelVersionId {
        ModelVersionId { model: self.model.clone(), version: self.version }
    }

    /// The revision of this number, if the traffic names it.
    pub fn revision(&self, revision: u32) -> Option<&Revision> {
        self.revisions.iter().find(|one| one.revision == revision)
    }
}

impl Store {
    /// Changes who answers: `decide` says to what, and sees the traffic as it is when the change is made. A deployment is
    /// made by its first traffic.
    ///
    /// What changes nothing leaves no trace in the history. The default mark is lost to another deployment that asks for
    /// it, never by a change that does not ask for it.
    pub async fn change_traffic(
        &self,
        new: NewTraffic,
        decide: impl FnOnce(&Traffic) -> Result<Traffic> + Send,
    ) -> Result<Deployment> {
        let mut tx = self.catalogue().write().await?;
        let present = find(&mut tx, &new.name).await?;
        let is_default = present.as_ref().is_some_and(|present| present.default);
        let from = present.map(|present| present.traffic).unwrap_or_default();
        let to = decide(&from)?;
        if from == to && (is_default || !new.default) {
            return expect(&mut tx, &new.name).await;
        }
        let stored = revisions_in(&mut tx, &new.name, &to).await?;
        for revision in &stored {
            models::expect_version(&mut tx, &revision.id()).await?;
        }
        if new.default {
            sqlx::query("UPDATE deployments SET is_default = 0 WHERE is_default = 1").execute(&mut *tx).await?;
        }
        sqlx::query(
            "INSERT INTO deployments (name, traffic, is_default) VALUES (?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET traffic = excluded.traffic, is_default = excluded.is_default",
        )
        .bind(new.name.as_str())
        .bind(to_json("traffic", &to)?)
        .bind(is_default || new.default)
        .execute(&mut *tx)
        .await?;
        if from != to {
            let (what, revision) = (new.what, Some(new.revision));
            let change = TrafficChange { what, revision, from, to, reason: new.reason, at: now() };
            history::record(&mut tx, &new.name, change).await?;
        }
        let deployment = expect(&mut tx, &new.name).await?;
        tx.commit().await?;
        Ok(deployment)
    }

    /// Remembers that a revision did not get the traffic that was meant for it, and why.
    pub async fn record_refusal(&self, name: &Name, revision: u32, reason: String) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        let traffic = find(&mut tx, name).await?.map(|present| present.traffic).unwrap_or_default();
        let change = TrafficChange {
            what: Change::GateRefused,
            revision: Some(revision),
            from: traffic.clone(),
            to: traffic,
            reason: Some(reason),
            at: now(),
        };
        history::record(&mut tx, name, change).await?;
        Ok(tx.commit().await?)
    }

    /// The deployment of this name.
    pub async fn deployment(&self, name: &Name) -> Result<Deployment> {
        expect(&mut *self.catalogue().read().await?, name).await
    }

    /// The deployment of this name, if there is one.
    pub async fn find_deployment(&self, name: &Name) -> Result<Option<Deployment>> {
        find(&mut *self.catalogue().read().await?, name).await
    }

    /// All deployments, by name.
    pub async fn deployments(&self) -> Result<Vec<Deployment>> {
        all(&mut *self.catalogue().read().await?).await
    }

    /// Removes a deployment; its versions and its history stay.
    pub async fn remove_deployment(&self, name: &Name) -> Result<()> {
        let mut tx = self.catalogue().write().await?;
        let from = expect(&mut tx, name).await?.traffic;
        sqlx::query("DELETE FROM deployments WHERE name = ?").bind(name.as_str()).execute(&mut *tx).await?;
        let (what, to) = (Change::Undeployed, Traffic::default());
        let change = TrafficChange { what, revision: None, from, to, reason: None, at: now() };
        history::record(&mut tx, name, change).await?;
        Ok(tx.commit().await?)
    }
}

pub(crate) async fn all(tx: &mut SqliteConnection) -> Result<Vec<Deployment>> {
    let rows = sqlx::query("SELECT * FROM deployments ORDER BY name").fetch_all(&mut *tx).await?;
    let mut deployments = Vec::with_capacity(rows.len());
    for row in &rows {
        deployments.push(decode(tx, row).await?);
    }
    Ok(deployments)
}

pub(super) async fn find(tx: &mut SqliteConnection, name: &Name) -> Result<Option<Deployment>> {
    let query = sqlx::query("SELECT * FROM deployments WHERE name = ?").bind(name.as_str());
    match query.fetch_optional(&mut *tx).await? {
        Some(row) => Ok(Some(decode(tx, &row).await?)),
        None => Ok(None),
    }
}

pub(super) async fn missing(tx: &mut SqliteConnection, name: &Name) -> Result<Error> {
    let names = names(tx, "SELECT name FROM deployments").await?;
    Ok(not_found("deployment", name.as_str(), &names, "wattle ps"))
}

/// Why this version may not go: a deployment answers with it, or would when it is rolled back.
pub(super) async fn need_of(tx: &mut SqliteConnection, id: &ModelVersionId) -> Result<Option<String>> {
    let rows = sqlx::query(
        "SELECT DISTINCT name FROM revisions JOIN deployments ON name = deployment WHERE model = ? AND version = ? \
         ORDER BY name",
    )
    .bind(id.model.as_str())
    .bind(id.version)
    .fetch_all(&mut *tx)
    .await?;
    let (mut users, mut way_back) = (Vec::new(), None);
    for row in &rows {
        let name: Name = row.parsed("name")?;
        if expect(tx, &name).await?.revisions.iter().any(|revision| revision.id() == *id) {
            users.push(name.to_string());
        } else if let Some(previous) = history::previous(&history::changes(tx, &name).await?)
            && revisions::one_of(tx, &name, previous).await?.id() == *id
        {
            way_back.get_or_insert(name);
        }
    }
    Ok(match (users.first(), way_back) {
        (Some(first), _) => {
            Some(format!("{id} is deployed as {}: run `wattle undeploy {first}` first", users.join(", ")))
        }
        (None, Some(name)) => Some(format!(
            "{id} is what `wattle rollback {name}` goes back to: deploy another version first, or run `wattle undeploy {name}`"
        )),
        (None, None) => None,
    })
}

async fn expect(tx: &mut SqliteConnection, name: &Name) -> Result<Deployment> {
    match find(tx, name).await? {
        Some(deployment) => Ok(deployment),
        None => Err(missing(tx, name).await?),
    }
}

async fn revisions_in(tx: &mut SqliteConnection, name: &Name, traffic: &Traffic) -> Result<Vec<Revision>> {
    let mut found = Vec::new();
    for revision in traffic.revisions() {
        found.push(revisions::one_of(tx, name, revision).await?);
    }
    Ok(found)
}

async fn decode(tx: &mut SqliteConnection, row: &SqliteRow) -> Result<Deployment> {
    let (name, traffic): (Name, Traffic) = (row.parsed("name")?, row.json("traffic")?);
    let revisions = revisions_in(tx, &name, &traffic).await?;
    let stable = revisions.first().cloned();
    let stable = stable.ok_or_else(|| Error::Corrupt(format!("deployment {name} has no traffic: undeploy it")))?;
    Ok(Deployment {
        name,
        model: stable.model,
        version: stable.version,
        reference: stable.reference,
        default: row.integer("is_default")? != 0,
        created_at: stable.created_at,
        settings: stable.settings,
        traffic,
        revisions,
    })
}
