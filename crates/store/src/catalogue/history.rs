use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use wattle_core::{Name, ParseError};

use super::{Columns, deployments, revisions, time_text, to_json};
use crate::{Result, Revision, Store, Traffic};

/// All that happened to a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentHistory {
    /// Its revisions, in ascending order; also those that no longer answer, whose versions may be gone.
    pub revisions: Vec<Revision>,
    /// The changes of its traffic, the oldest first.
    pub changes: Vec<TrafficChange>,
}

/// One change of a deployment's traffic, or the refusal of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficChange {
    /// What happened.
    pub what: Change,
    /// The revision that came, or went.
    pub revision: Option<u32>,
    /// The traffic before.
    pub from: Traffic,
    /// The traffic since then.
    pub to: Traffic,
    /// Why, where nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
}

/// What may happen to a deployment's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A revision took all calls at once.
    Deployed,
    /// A revision got a part of the calls.
    Canary,
    /// A revision got copies of the calls.
    Shadow,
    /// The revision that was tried took all calls.
    Promoted,
    /// Somebody went back.
    RolledBack,
    /// The canary failed too often, and its calls went back to the stable revision.
    GateRolledBack,
    /// A revision could not be loaded, and nothing changed.
    GateRefused,
    /// The deployment was removed.
    Undeployed,
}

impl Change {
    /// All of them.
    pub const ALL: [Change; 8] = [
        Change::Deployed,
        Change::Canary,
        Change::Shadow,
        Change::Promoted,
        Change::RolledBack,
        Change::GateRolledBack,
        Change::GateRefused,
        Change::Undeployed,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Deployed => "deployed",
            Change::Canary => "canary",
            Change::Shadow => "shadow",
            Change::Promoted => "promoted",
            Change::RolledBack => "rolled-back",
            Change::GateRolledBack => "gate-rolled-back",
            Change::GateRefused => "gate-refused",
            Change::Undeployed => "undeployed",
        }
    }

    fn goes_back(self) -> bool {
        matches!(self, Change::RolledBack | Change::GateRolledBack)
    }
}

impl FromStr for Change {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Change, ParseError> {
        let found = Change::ALL.into_iter().find(|change| change.as_str() == text);
        found.ok_or_else(|| ParseError(format!("unknown change {text:?}")))
    }
}

impl DeploymentHistory {
    /// The revision of this number.
    pub fn revision(&self, revision: u32) -> Option<&Revision> {
        self.revisions.iter().find(|one| one.revision == revision)
    }

    /// The revision that was the stable one before the present one, and was not rolled back since.
    pub fn previous(&self) -> Option<u32> {
        previous(&self.changes)
    }
}

impl Store {
    /// What happened to the deployments of this name; also to one that was removed.
    pub async fn deployment_history(&self, name: &Name) -> Result<DeploymentHistory> {
        let mut tx = self.catalogue().read().await?;
        let changes = changes(&mut tx, name).await?;
        if changes.is_empty() {
            return Err(deployments::missing(&mut tx, name).await?);
        }
        Ok(DeploymentHistory { revisions: revisions::all_of(&mut tx, name).await?, changes })
    }
}

/// All changes of the traffic of this name, the oldest first.
pub(crate) async fn changes(tx: &mut SqliteConnection, name: &Name) -> Result<Vec<TrafficChange>> {
    let query = sqlx::query("SELECT * FROM traffic_changes WHERE deployment = ? ORDER BY id").bind(name.as_str());
    query.fetch_all(tx).await?.iter().map(decode).collect()
}

/// The stable revision before the present one. Who is rolled back is never gone back to, so that each step leads further
/// into the past.
pub(super) fn previous(changes: &[TrafficChange]) -> Option<u32> {
    let mut stable: Vec<u32> = Vec::new();
    for change in changes {
        match change.to.stable() {
            None => stable.clear(),
            Some(now) if change.what.goes_back() => {
                let kept = stable.iter().rposition(|one| *one == now).map_or(0, |place| place + 1);
                stable.truncate(kept);
            }
            Some(now) if stable.last() != Some(&now) => stable.push(now),
            Some(_) => {}
        }
    }
    stable.len().checked_sub(2).map(|place| stable[place])
}

pub(super) async fn record(tx: &mut SqliteConnection, name: &Name, change: TrafficChange) -> Result<()> {
    sqlx::query(
        "INSERT INTO traffic_changes (deployment, what, revision, old_traffic, new_traffic, reason, changed_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(name.as_str())
    .bind(change.what.as_str())
    .bind(change.revision)
    .bind(to_json("traffic", &change.from)?)
    .bind(to_json("traffic", &change.to)?)
    .bind(change.reason)
    .bind(time_text(change.at))
    .execute(tx)
    .await?;
    Ok(())
}

fn decode(row: &SqliteRow) -> Result<TrafficChange> {
    Ok(TrafficChange {
        what: row.parsed("what")?,
        revision: row.optional_unsigned("revision")?,
        from: row.json("old_traffic")?,
        to: row.json("new_traffic")?,
        reason: row.optional_text("reason")?,
        at: row.parsed("changed_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a sequence of changes to these stable revisions leaves to go back to.
    fn left(changes: &[(Change, Traffic)]) -> Option<u32> {
        let change = |(what, to): &(Change, Traffic)| TrafficChange {
            what: *what,
            revision: None,
            from: Traffic::default(),
            to: to.clone(),
            reason: None,
            at: DateTime::UNIX_EPOCH,
        };
        previous(&changes.iter().map(change).collect::<Vec<_>>())
    }

    #[test]
    fn each_rollback_leads_further_into_the_past() {
        use Change::{Canary, Deployed, GateRefused, GateRolledBack, Promoted, RolledBack, Undeployed};
        let all = Traffic::all;
        let mut changes = vec![(Deployed, all(1))];
        assert_eq!(left(&changes), None);
        changes.push((Deployed, all(2)));
        assert_eq!(left(&changes), Some(1));
        // A canary is not yet what is there to stay, and a rolled-back one never was.
        changes.extend([(Canary, all(2).with_canary(3, 10)), (GateRolledBack, all(2)), (GateRefused, all(2))]);
        assert_eq!(left(&changes), Some(1));
        changes.extend([(Canary, all(2).with_canary(5, 10)), (Canary, all(2).with_canary(5, 50)), (Promoted, all(5))]);
        assert_eq!(left(&changes), Some(2));
        changes.push((RolledBack, all(2)));
        assert_eq!(left(&changes), Some(1));
        changes.push((Deployed, all(6)));
        assert_eq!(left(&changes), Some(2), "the way back does not lead over what was rolled back");
        changes.extend([(RolledBack, all(2)), (RolledBack, all(1))]);
        assert_eq!(left(&changes), None);
        changes.extend([(Undeployed, Traffic::default()), (Deployed, all(7))]);
        assert_eq!(left(&changes), None, "the way back ends where the deployment was removed");
    }

    #[test]
    fn changes_are_kept_under_the_names_that_are_told() {
        for change in Change::ALL {
            assert_eq!(serde_json::to_value(change).ok(), Some(change.as_str().into()));
            assert_eq!(change.as_str().parse(), Ok(change));
        }
    }
}
