//! A model in an instance of its own, a process or a container: the server's side, and the instance's. Tensors go by the
//! protocol that everybody calls, language by one that has it as the scheduler takes it.

mod child;
mod containers;
mod line;
mod lines;
mod processes;
mod remote;
mod speaker;
mod speech;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_serve::speaker::SpeakerSettings;

pub use child::serve_model;
pub use containers::Containers;
pub use processes::Workers;
pub use speech::routes;

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

/// What an instance took to be ready.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Loaded {
    /// What it takes in memory with its model; pages that it shares with others count in part.
    resident_bytes: u64,
    /// Its processor time so far.
    cpu_seconds: f64,
}

/// What it answers when it has its model, or why it has none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// It serves.
    Ready(Loaded),
    /// It does not.
    Failed {
        /// Why.
        reason: String,
    },
}
