//! A model in a process of its own, called over a socket by the protocol that everybody calls: the server's side, and
//! the process's.

mod child;
mod lines;
mod remote;
mod speaker;
mod speech;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_serve::speaker::SpeakerSettings;

pub use child::serve_model;
pub use remote::Workers;

/// What the process is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Where it listens.
    socket: PathBuf,
    /// The model's file.
    model: PathBuf,
    /// How it is served.
    task: Task,
}

/// What a process does with its model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Task {
    /// Computes tensors.
    Tensors {
        /// The threads that one batch computes on.
        threads: usize,
    },
    /// Answers in language.
    Language(SpeakerSettings),
}

/// What it answers when it has its model, or why it has none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// It serves.
    Ready {
        /// What it takes in memory with its model; pages that it shares with others count in part.
        resident_bytes: u64,
        /// Its processor time so far.
        cpu_seconds: f64,
    },
    /// It does not.
    Failed {
        /// Why.
        reason: String,
    },
}
