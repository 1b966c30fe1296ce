//! A language model's call on its way: the model loaded, the answer passed on piece by piece, and its cost booked.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{self, Poll, ready},
    time::Instant,
};

use futures::{FutureExt, Stream, future::BoxFuture};
use wattle_engine::tokens::Token;

use crate::{
    Call, Context, Error, Result, Server,
    account::Batch,
    engine::Engine,
    language::{Embedded, Generate, Piece, Pieces, Prompt, TokenUsage},
    memory::Loaded,
    replica::{Replica, Served},
    sampling,
    speaker::{Asker, Speaker},
};

/// How often a call is begun again since the model's process had ended before it came.
const TRIES: usize = 2;

impl Server {
    /// Has a language model answer. The call keeps its place until the pieces have come or are dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no language model, or for what no answer fits; and all that can keep a model from
    /// being loaded. What comes later comes among the pieces.
    pub async fn generate(&self, call: Call, request: Generate) -> Result<Pieces> {
        let asker = asker(call.context())?;
        let replica = Arc::clone(call.shared());
        if let Some(language) = replica.language() {
            // What no model answers loads none.
            sampling::check(&request, u32::try_from(language.vocabulary).unwrap_or(u32::MAX))?;
        }
        let begun = Instant::now();
        let ask = move |speaker: Arc<dyn Speaker>| {
            let (request, asker) = (request.clone(), asker.clone());
            async move { speaker.generate(request, asker).await }.boxed()
        };
        let (loaded, pieces) = self.speak(&replica, ask).await.inspect_err(|error| self.ended(&replica, Err(error)))?;
        replica.served().counters.in_flight.fetch_add(1, Relaxed);
        Ok(Box::pin(Spoken { pieces, server: self.clone(), call, loaded, begun, ended: false }))
    }

    /// Embeds texts.
    ///
    /// # Errors
    /// As [`Server::generate`], and [`Error::Invalid`] if the model gives no embeddings.
    pub async fn embed(&self, call: Call, texts: Vec<Prompt>) -> Result<Embedded> {
        let asker = asker(call.context())?;
        let begun = Instant::now();
        let count = texts.len();
        let ask = move |speaker: Arc<dyn Speaker>| {
            let (texts, asker) = (texts.clone(), asker.clone());
            async move { speaker.embed(texts, asker).await }.boxed()
        };
        let (loaded, mut embedded) =
            self.speak(call.shared(), ask).await.inspect_err(|error| self.ended(call.shared(), Err(error)))?;
        loaded.has_answered.store(true, Relaxed);
        self.ended(call.shared(), Ok(()));
        let served = call.replica().served();
        served.account(&Batch {
            compute: begun.elapsed(),
            ..Batch::of_one(count, false, embedded.cpu_seconds, begun.elapsed())
        });
        embedded.energy = Some(self.inner.meter.dynamic_energy(embedded.cpu_seconds));
        Ok(embedded)
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// As [`Server::generate`].
    pub async fn tokenize(&self, call: Call, prompt: Prompt) -> Result<Vec<Token>> {
        let ask = move |speaker: Arc<dyn Speaker>| {
            let prompt = prompt.clone();
            async move { speaker.tokenize(prompt).await }.boxed()
        };
        Ok(self.speak(call.shared(), ask).await?.1)
    }

    /// The bytes of tokens.
    ///
    /// # Errors
    /// As [`Server::generate`], and [`Error::Invalid`] for tokens that there are not.
    pub async fn detokenize(&self, call: Call, tokens: Vec<Token>) -> Result<Vec<u8>> {
        let ask = move |speaker: Arc<dyn Speaker>| {
            let tokens = tokens.clone();
            async move { speaker.detokenize(tokens).await }.boxed()
        };
        Ok(self.speak(call.shared(), ask).await?.1)
    }

    /// Asks a revision's model, which is loaded first if it is not there.
    async fn speak<T>(
        &self,
        replica: &Replica,
        ask: impl Fn(Arc<dyn Speaker>) -> BoxFuture<'static, Result<T>>,
    ) -> Result<(Arc<Loaded>, T)> {
        let served = replica.served();
        if served.language.is_none() {
            return Err(Error::Invalid(format!(
                "deployment {} is no language model: call /models/{0}/predict",
                served.name
            )));
        }
        let _computing = served.computing(1);
        for tries in 1.. {
            let loaded = served.load().await?;
            let Engine::Language(speaker) = &loaded.engine else {
                return Err(Error::Internal("a language model was loaded as another one".into()));
            };
            // One that ended while nobody called is replaced before anything is sent to it.
            let crashed = !speaker.is_alive();
            let result = if crashed { Err(crash(served)) } else { ask(Arc::clone(speaker)).await };
            match result {
                Ok(answered) => return Ok((loaded, answered)),
                Err(error @ (Error::Crashed { .. } | Error::Unreached { .. })) => {
                    served.crashed(&loaded);
                    if !crashed || tries == TRIES {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(crash(served))
    }

    /// Counts the end of a call for its revision, and for the trial that it was a part of.
    fn ended(&self, replica: &Replica, result: Result<(), &Error>) {
        if let Err(error) = result {
            replica.served().failed(error);
        }
        if replica.count(&result.map_err(Error::clone)) {
            self.inner.failed.notify_one();
        }
    }
}

/// The pieces of an answer on their way to the caller.
struct Spoken {
    pieces: Pieces,
    server: Server,
    call: Call,
    loaded: Arc<Loaded>,
    begun: Instant,
    ended: bool,
}

impl Drop for Spoken {
    fn drop(&mut self) {
        self.call.replica().served().counters.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Stream for Spoken {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<Result<Piece>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let served = Arc::clone(this.call.replica().served());
        let mut piece = ready!(this.pieces.as_mut().poll_next(context)).unwrap_or_else(|| Err(crash(&served)));
        match &mut piece {
            Ok(Piece::Done(usage)) => {
                this.ended = true;
                this.loaded.has_answered.store(true, Relaxed);
                this.server.ended(this.call.shared(), Ok(()));
                book(&served, &this.server, usage, this.begun);
            }
            Ok(_) => {}
            Err(error) => {
                this.ended = true;
                if matches!(error, Error::Crashed { .. }) {
                    served.crashed(&this.loaded);
                }
                this.server.ended(this.call.shared(), Err(error));
            }
        }
        Poll::Ready(Some(piece))
    }
}

/// Books what an answer took, and tells its caller the energy.
fn book(served: &Served, server: &Server, usage: &mut TokenUsage, begun: Instant) {
    served.account(&Batch::of_one(1, false, usage.cpu_seconds, begun.elapsed()));
    usage.energy = Some(server.inner.meter.dynamic_energy(usage.cpu_seconds));
}

fn crash(served: &Served) -> Error {
    Error::Crashed { deployment: served.name.to_string() }
}

/// # Errors
/// [`Error::Expired`] if nobody waits any more.
fn asker(context: &Context) -> Result<Asker> {
    let patience = match context.deadline {
        Some(deadline) => Some(deadline.checked_duration_since(Instant::now()).ok_or(Error::Expired)?),
        None => None,
    };
    Ok(Asker { tenant: context.tenant.clone(), priority: context.priority, patience })
}
