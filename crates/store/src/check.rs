use std::collections::BTreeMap;

use sqlx::SqliteConnection;
use wattle_core::Digest;

use crate::{
    Deployment, Error, Result, Store,
    catalogue::{Columns, deployments, history, models, names},
};

impl Store {
    /// Reads everything and says what is wrong, in one sentence each; nothing, when all is well.
    ///
    /// Every referenced blob is there with its size and its digest; aliases and deployments name versions that exist; a
    /// deployment's history ends where it is; versions are below their counter; the database is sound. No command asks; the
    /// crash tests do, after every kill.
    pub async fn check(&self) -> Result<Vec<String>> {
        // Held so that a collection does not remove a blob between the question and the look.
        let _import = self.begin_import().await;
        let mut faults = Vec::new();
        let blobs = {
            let mut tx = self.catalogue().read().await?;
            check_catalogue(&mut tx, &mut faults).await?;
            referenced_blobs(&mut tx, &mut faults).await?
        };
        for (digest, (bytes, users)) in blobs {
            match self.blobs().verify(digest).await {
                Ok(found) if found == bytes => {}
                Ok(found) => faults.push(format!("{users}: blob {digest} has {found} bytes, not {bytes}")),
                Err(error @ (Error::NotFound(_) | Error::Corrupt(_))) => faults.push(format!("{users}: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(faults)
    }
}

async fn check_catalogue(tx: &mut SqliteConnection, faults: &mut Vec<String>) -> Result<()> {
    for message in names(tx, "PRAGMA integrity_check").await? {
        if message != "ok" {
            faults.push(format!("the database is damaged: {message}"));
        }
    }
    // Each query names what breaks a rule; the schema already forbids most of it.
    let rules: [(&'static str, &str); 4] = [
        (
            "SELECT model || '@' || alias FROM aliases NATURAL LEFT JOIN versions WHERE manifest IS NULL",
            "names a version that does not exist",
        ),
        (
            "SELECT v.model || ':' || v.version FROM versions v LEFT JOIN models m ON m.name = v.model \
             LEFT JOIN version_counters c ON c.model = v.model WHERE m.name IS NULL OR c.last IS NULL OR v.version > c.last",
            "has no model or is above its counter",
        ),
        (
            "SELECT name FROM models WHERE NOT EXISTS (SELECT 1 FROM versions WHERE model = name)",
            "is a model without versions",
        ),
        (
            "SELECT id FROM jobs j LEFT JOIN version_counters c ON c.model = j.result_model \
             WHERE j.result_version > ifnull(c.last, 0)",
            "is a job whose version never was",
        ),
    ];
    for (query, fault) in rules {
        faults.extend(names(tx, query).await?.into_iter().map(|name| format!("{name} {fault}")));
    }
    check_deployments(tx, faults).await
}

/// Deployments answer with versions that exist, all calls are answered, and the history ends where they are.
async fn check_deployments(tx: &mut SqliteConnection, faults: &mut Vec<String>) -> Result<()> {
    for Deployment { name, traffic, revisions, .. } in deployments::all(tx).await? {
        for revision in revisions {
            match models::expect_version(tx, &revision.id()).await {
                Ok(()) => {}
                Err(Error::NotFound(_)) => {
                    faults.push(format!("{name} deploys {}, a version that does not exist", revision.id()));
                }
                Err(error) => return Err(error),
            }
        }
        if traffic.shares.iter().map(|share| u32::from(share.percent)).sum::<u32>() != 100 {
            faults.push(format!("the shares of {name} do not add up to 100"));
        }
        if history::changes(tx, &name).await?.last().is_none_or(|change| change.to != traffic) {
            faults.push(format!("the history of {name} does not end where it is"));
        }
    }
    Ok(())
}

/// Each blob that is referenced, its size in bytes and what needs it.
async fn referenced_blobs(
    tx: &mut SqliteConnection,
    faults: &mut Vec<String>,
) -> Result<BTreeMap<Digest, (u64, String)>> {
    let mut blobs: BTreeMap<Digest, (u64, String)> = BTreeMap::new();
    let mut add = |user: String, digest: Digest, bytes: u64| {
        let (_, users) = blobs.entry(digest).or_insert_with(|| (bytes, String::new()));
        if !users.is_empty() {
            users.push_str(", ");
        }
        users.push_str(&user);
    };
    for row in sqlx::query("SELECT name, digest, bytes FROM datasets ORDER BY name").fetch_all(&mut *tx).await? {
        add(format!("data set {}", row.text("name")?), row.parsed("digest")?, row.unsigned("bytes")?);
    }
    for row in sqlx::query("SELECT * FROM versions ORDER BY model, version").fetch_all(&mut *tx).await? {
        let (digest, bytes): (Digest, u64) = (row.parsed("digest")?, row.unsigned("bytes")?);
        match models::decode(&row) {
            Ok(version) if (version.manifest.digest, version.manifest.bytes) == (digest, bytes) => {
                add(version.id().to_string(), digest, bytes);
            }
            Ok(version) => faults.push(format!("{} has a manifest of another blob", version.id())),
            Err(error) => faults.push(format!("{}:{}: {error}", row.text("model")?, row.integer("version")?)),
        }
    }
    Ok(blobs)
}
