use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use wattle_core::{Activity, Energy};

/// What lines of usage are summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// One line for each activity.
    #[default]
    Total,
    /// The deployment that was called.
    Deployment,
    /// The model and its version.
    Model,
    /// The day, in UTC.
    Day,
}

/// Which sums are wanted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageQuery {
    /// What to sum by.
    pub by: By,
    /// From when; the ledger counts in minutes, and the minute that holds this instant is part of the sum.
    pub since: Option<DateTime<Utc>>,
}

/// A sum out of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageLine {
    /// The deployment, `model:version` (`model` alone for what has no version yet), or the day as `YYYY-MM-DD`; absent
    /// in a total, and for what belongs to none, such as idling.
    pub key: Option<String>,
    /// What the energy was used for; idling and what nothing accounts for are lines of their own.
    pub activity: Activity,
    /// Requests answered, or training jobs ended.
    pub requests: u64,
    /// Rows predicted.
    pub rows: u64,
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Energy; its source names every sensor that had a part.
    pub energy: Energy,
}
