//! The scheduler of a language model: one engine shared among all who call it, step by step.
//!
//! A step computes every answer that grows, and as much of the prompts that are read as keeps the step within its time.
//! What sequences have in common is computed and kept once: [`tree`] knows which sequence holds which tokens, and what is
//! kept for those who come later goes, the least valuable first, when others need the room. A sequence that had to go is
//! computed again; its answer is never chosen again.
//!
//! ```text
//! generate ──▶ fair (who is next) ──▶ steps: tree (what is there already) ─▶ pace (how much fits) ─▶ engine.decode
//!                                      ▲                                                              │ logits
//!                                      └── draft (what may follow) ◀── Answer::advance ◀──────────────┘
//! ```
//!
//! All of it is a state machine over an engine and a clock, [`steps::Steps`], which [`scheduler`] runs on a thread.

mod compute;
mod draft;
mod embedding;
mod fair;
mod group;
mod offload;
mod pace;
mod pool;
mod saved;
mod scheduler;
mod statistics;
mod steps;
mod tree;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod steps_tests;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use wattle_engine::tokens::Token;

use crate::{Priority, language::Answer};

pub use scheduler::Scheduler;
pub use statistics::{SECONDS, Statistics, Times};

/// The bounds of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// How long a step may take while answers grow.
    pub max_inter_token: Duration,
    /// Requests that may wait until their prompt is read.
    pub max_waiting: usize,
    /// Requests of one named tenant that may be here.
    pub max_tenant_requests: usize,
    /// Whether tokens are drafted out of what was said before.
    pub speculates: bool,
    /// Threads that compute a step.
    pub threads: usize,
    /// The folder by which steps take turns on the processors with those of other models; they take none when absent.
    pub processors: Option<PathBuf>,
    /// The most bytes that prefixes may take on the disk.
    pub saved_bytes: u64,
    /// The most bytes that sequences may take which are kept outside of the engine's cells.
    pub offloaded_bytes: u64,
}

/// A prompt and the answers that are to follow it.
pub struct Request {
    /// What is continued.
    pub prompt: Vec<Token>,
    /// What chooses each of the answers.
    pub answers: Vec<Box<dyn Answer>>,
    /// How many of the answers are told, the likeliest ones.
    pub choices: u32,
    /// The most tokens of an answer; what the context leaves when absent.
    pub max_tokens: Option<u32>,
    /// Who asks.
    pub caller: Caller,
}

/// Who asks, how urgent it is, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who pays; nobody in particular when absent.
    pub tenant: Option<String>,
    /// Who goes first when several wait.
    pub priority: Priority,
    /// From then on nobody waits for the answer.
    pub deadline: Option<Instant>,
}
