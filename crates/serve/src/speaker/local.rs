use std::{path::Path, sync::Arc, time::Instant};

use async_trait::async_trait;
use wattle_engine::tokens::{Token, TokenEngine, Vocabulary};

use super::{Asker, Speaker, SpeakerSettings};
use crate::{
    Error, Instance, Result,
    language::{Embedded, Generate, Pieces, Prompt},
    sampling::{self, Words},
    tokens::{Caller, Request, Scheduler, SchedulerSettings, Statistics},
};

/// A text of fewer bytes is made tokens of where it came in; a longer one would hold up others.
const SHORT_BYTES: usize = 2 << 10;
/// The most bytes of a text for each token of the context: no vocabulary has longer words that matter.
const MOST_BYTES_A_TOKEN: usize = 64;

/// A language model in this process, scheduled on a thread of its own.
pub struct LocalSpeaker {
    scheduler: Scheduler,
    words: Arc<Words>,
    context_tokens: u32,
    resident_bytes: u64,
    load_cpu_seconds: f64,
    saved: Option<std::path::PathBuf>,
}

/// What an engine took to load.
#[derive(Clone, Copy)]
struct Loaded {
    /// Memory in bytes, the cells among it.
    bytes: u64,
    /// Memory of the cells, in bytes.
    cache_bytes: u64,
    /// Processor time in seconds.
    cpu_seconds: f64,
}

impl LocalSpeaker {
    /// Has an engine answer calls. Sequences that are kept outside of its cells take as much memory again as these, at most.
    ///
    /// # Errors
    /// [`Error::Run`] if no thread can be started.
    fn start(
        engine: Box<dyn TokenEngine>,
        vocabulary: Arc<dyn Vocabulary>,
        settings: &SpeakerSettings,
        loaded: Loaded,
    ) -> Result<LocalSpeaker> {
        let limits = engine.limits();
        let offloaded_bytes = settings.saved_bytes.min(loaded.cache_bytes);
        let scheduler = Scheduler::start(
            engine,
            SchedulerSettings {
                max_inter_token: settings.max_inter_token,
                max_waiting: settings.max_waiting,
                max_tenant_requests: settings.max_tenant_requests,
                speculates: settings.speculates,
                threads: settings.threads as usize,
                processors: settings.processors.clone(),
                saved_bytes: settings.saved_bytes,
                offloaded_bytes,
            },
        )?;
        if let Some(folder) = &settings.saved {
            scheduler.restore(folder);
        }
        Ok(LocalSpeaker {
            scheduler,
            words: Arc::new(Words::new(vocabulary)),
            context_tokens: limits.context_tokens,
            resident_bytes: loaded.bytes + offloaded_bytes,
            load_cpu_seconds: loaded.cpu_seconds,
            saved: settings.saved.clone(),
        })
    }

    /// Loads a GGUF file by llama.cpp.
    ///
    /// # Errors
    /// The reason why it cannot be loaded.
    #[cfg(feature = "llama")]
    pub fn load(path: &Path, settings: &SpeakerSettings) -> Result<LocalSpeaker, String> {
        use std::num::NonZeroU32;

        use wattle_engine::llama::{LlamaEngine, Settings};
        use wattle_meter::process_cpu_seconds;

        let told = |error: wattle_engine::Error| error.to_string();
        let before = process_cpu_seconds();
        let engine = Settings {
            sequences: settings.sequences,
            cells: settings.cells,
            context_tokens: settings.context_tokens,
            batch_tokens: BATCH_TOKENS,
            rows: settings.sequences,
            threads: NonZeroU32::new(settings.threads).unwrap_or(NonZeroU32::MIN),
            identity: settings.identity.clone(),
        };
        let engine = LlamaEngine::load(path, &engine).map_err(told)?;
        let vocabulary = Arc::new(engine.vocabulary());
        let loaded = Loaded {
            bytes: engine.footprint().bytes(),
            cache_bytes: engine.footprint().cache_bytes,
            cpu_seconds: (process_cpu_seconds() - before).max(0.0),
        };
        LocalSpeaker::start(Box::new(engine), vocabulary, settings, loaded).map_err(|error| error.to_string())
    }

    /// Says that this binary cannot.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "llama"))]
    pub fn load(_: &Path, _: &SpeakerSettings) -> Result<LocalSpeaker, String> {
        Err("this binary was built without llama.cpp: build it with the feature llama".into())
    }

    /// A prompt's tokens, the beginning and, for a text to embed, the ending among them.
    async fn read(&self, prompt: Prompt, embeds: bool) -> Result<Vec<Token>> {
        let words = Arc::clone(&self.words);
        let context_tokens = self.context_tokens;
        off_the_runtime(length(&prompt), move || tokens(&words, prompt, context_tokens, embeds)).await
    }
}

/// Tokens that one step computes at most.
#[cfg(feature = "llama")]
const BATCH_TOKENS: u32 = 2048;

#[async_trait]
impl Instance for LocalSpeaker {
    fn name(&self) -> &str {
        "this process"
    }

    fn is_alive(&self) -> bool {
        self.scheduler.is_alive()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn load_cpu_seconds(&self) -> f64 {
        self.load_cpu_seconds
    }

    fn limited_by(&self) -> Option<&'static str> {
        None
    }

    fn statistics(&self) -> Statistics {
        self.scheduler.statistics()
    }
}

#[async_trait]
impl Speaker for LocalSpeaker {
    async fn generate(&self, request: Generate, asker: Asker) -> Result<Pieces> {
        let (words, context_tokens) = (Arc::clone(&self.words), self.context_tokens);
        // A grammar takes its time, too.
        let work = match request.constraint {
            crate::language::Constraint::None => length(&request.prompt),
            _ => usize::MAX,
        };
        let caller = asker.caller();
        let begin = move || {
            let mut request = request;
            let prompt = std::mem::replace(&mut request.prompt, Prompt::Tokens(Vec::new()));
            let prompt = tokens(&words, prompt, context_tokens, false)?;
            let answers = sampling::answers(&request, &prompt, &words)?;
            let Generate { choices, max_tokens, .. } = request;
            Ok(Request { prompt, answers, choices, max_tokens, caller })
        };
        self.scheduler.generate(off_the_runtime(work, begin).await?)
    }

    async fn embed(&self, texts: Vec<Prompt>, asker: Asker) -> Result<Embedded> {
        let mut read = Vec::with_capacity(texts.len());
        for text in texts {
            read.push(self.read(text, true).await?);
        }
        self.scheduler.embed(read, asker.caller()).await
    }

    async fn tokenize(&self, prompt: Prompt) -> Result<Vec<Token>> {
        self.read(prompt, false).await
    }

    async fn detokenize(&self, tokens: Vec<Token>) -> Result<Vec<u8>> {
        let vocabulary = self.words.vocabulary();
        check(&tokens, vocabulary.len())?;
        Ok(tokens.into_iter().flat_map(|token| vocabulary.bytes(token, true)).collect())
    }

    async fn save(&self) {
        let Some(folder) = &self.saved else { return };
        if let Err(error) = self.scheduler.save(folder).await {
            tracing::warn!(%error, "prefixes are not kept for the next load");
        }
    }
}

impl Asker {
    fn caller(self) -> Caller {
        let deadline = self.patience.and_then(|patience| Instant::now().checked_add(patience));
        Caller { tenant: self.tenant, priority: self.priority, deadline }
    }
}

fn tokens(words: &Words, prompt: Prompt, context_tokens: u32, embeds: bool) -> Result<Vec<Token>> {
    let vocabulary = words.vocabulary();
    let mut tokens = match prompt {
        Prompt::Tokens(tokens) => {
            check(&tokens, vocabulary.len())?;
            return Ok(tokens);
        }
        Prompt::Text { text, special } => {
            // What cannot fit in any case is not read: to do so takes time and memory.
            let most = (context_tokens as usize).saturating_mul(MOST_BYTES_A_TOKEN);
            if text.len() > most {
                let bytes = text.len();
                return Err(Error::Invalid(format!(
                    "the text has {bytes} bytes, more than the {context_tokens} tokens of the model's context can hold: send a shorter one"
                )));
            }
            vocabulary.encode(&text, special)
        }
    };
    if let Some(beginning) = vocabulary.beginning()
        && tokens.first() != Some(&beginning)
    {
        tokens.insert(0, beginning);
    }
    if embeds
        && let Some(ending) = vocabulary.ending()
        && tokens.last() != Some(&ending)
    {
        tokens.push(ending);
    }
    Ok(tokens)
}

fn check(tokens: &[Token], vocabulary: u32) -> Result<()> {
    match tokens.iter().find(|token| **token >= vocabulary) {
        Some(token) => Err(Error::Invalid(format!("there is no token {token}: the vocabulary has {vocabulary}"))),
        None => Ok(()),
    }
}

fn length(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text { text, .. } => text.len(),
        Prompt::Tokens(_) => 0,
    }
}

/// Does what takes long on a thread that may be busy.
async fn off_the_runtime<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if bytes <= SHORT_BYTES {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?
}
