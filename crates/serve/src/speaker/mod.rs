//! What answers a language model's calls: a scheduler in this process, or a process of its own that has one.

mod local;

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wattle_core::{ModelVersionId, Name};
use wattle_engine::tokens::Token;

use crate::{
    Instance, Priority, Result,
    language::{Embedded, Generate, Pieces, Prompt},
};

pub use local::LocalSpeaker;

/// Who has a language model answer, how urgent it is, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Who pays; nobody in particular when absent.
    pub tenant: Option<String>,
    /// Who goes first when several wait.
    pub priority: Priority,
    /// For how long somebody waits for the answer.
    pub patience: Option<Duration>,
}

/// What a language model is loaded for.
#[derive(Debug, Clone)]
pub struct SpeakerOrder {
    /// The deployment, for logs and messages.
    pub deployment: Name,
    /// The version of the model.
    pub id: ModelVersionId,
    /// The model's file.
    pub model: PathBuf,
    /// How it is served.
    pub settings: SpeakerSettings,
    /// The most memory that the instance may take.
    pub memory_limit_bytes: Option<u64>,
    /// The most processors that it may use.
    pub cpu_limit: Option<f64>,
}

/// How a language model is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeakerSettings {
    /// What tells its file from every other: its digest.
    pub identity: String,
    /// The threads that compute.
    pub threads: u32,
    /// Sequences that may be there at once.
    pub sequences: u32,
    /// Tokens whose keys and values are kept, of all sequences together.
    pub cells: u32,
    /// Tokens that one call may have, as many as the model and the cells allow when absent.
    pub context_tokens: Option<u32>,
    /// How long a step may take while answers grow.
    pub max_inter_token: Duration,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Requests of one tenant that may be here.
    pub max_tenant_requests: usize,
    /// Whether tokens are drafted out of what was said before.
    pub speculates: bool,
    /// The folder by which it takes turns on the processors with other models; it takes none when absent.
    pub processors: Option<PathBuf>,
    /// Where prefixes are kept while the model is not loaded.
    pub saved: Option<PathBuf>,
    /// How many bytes of them.
    pub saved_bytes: u64,
}

/// Answers the calls of one language model.
#[async_trait]
pub trait Speaker: Instance {
    /// Begins an answer.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for what no answer fits; [`crate::Error::TooMany`] when too many wait;
    /// [`crate::Error::Unreached`] when it never began; [`crate::Error::Crashed`] when its process ended, also in the midst
    /// of the pieces.
    async fn generate(&self, request: Generate, asker: Asker) -> Result<Pieces>;

    /// Embeds texts.
    ///
    /// # Errors
    /// As [`Speaker::generate`].
    async fn embed(&self, texts: Vec<Prompt>, asker: Asker) -> Result<Embedded>;

    /// The tokens of a prompt, as they would be computed.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for tokens that there are not.
    async fn tokenize(&self, prompt: Prompt) -> Result<Vec<Token>>;

    /// The bytes of tokens.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for tokens that there are not.
    async fn detokenize(&self, tokens: Vec<Token>) -> Result<Vec<u8>>;

    /// Keeps what will be of use when the model is loaded again.
    async fn save(&self);
}
