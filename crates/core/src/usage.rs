use serde::{Deserialize, Serialize};

use crate::{Energy, Name};

/// What the energy was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// Answering requests.
    Predict,
    /// Loading a model into memory, so that it can be called.
    Load,
    /// Training a model.
    Train,
    /// Being switched on: the static watts, whoever is served.
    Idle,
    /// What the sensor saw of our own work that no request or job accounts for (parsing, storage, the command line's calls).
    Unattributed,
}

impl Activity {
    /// The activity as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Activity::Predict => "predict",
            Activity::Load => "load",
            Activity::Train => "train",
            Activity::Idle => "idle",
            Activity::Unattributed => "unattributed",
        }
    }
}

/// What one piece of work cost, and who had it done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// What kind of work.
    pub activity: Activity,
    /// The deployment that was called; absent for training and idling.
    pub deployment: Option<Name>,
    /// The model that was called or trained.
    pub model: Option<Name>,
    /// The model's version; absent for training, whose version is numbered only at its end.
    pub version: Option<u32>,
    /// Requests answered, or training jobs ended.
    pub requests: u64,
    /// Rows predicted.
    pub rows: u64,
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Whether a process of its own spent it, whose time this process's clock does not hold.
    pub in_child: bool,
    /// Energy.
    pub energy: Energy,
}
