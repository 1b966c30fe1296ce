//! Several instances of one model, called as one: calls go to whoever is well and has the least to do, and an instance that
//! ends or stays unwell is replaced.

mod pool;
mod prefixes;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt, Stream, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use wattle_core::Name;
use wattle_engine::{Tensor, tokens::Token};

use self::{pool::Pool, prefixes::marks};
use crate::{
    Computed, Error, Instance, Result, Worker,
    language::{Embedded, Generate, Piece, Pieces, Prompt},
    speaker::{Asker, Speaker},
    tokens::Statistics,
    troubles::{CHANCE, Troubles, kept_after_crash},
};

pub use pool::InstanceState;

/// How often instances are asked how they are.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long they may take to answer that.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// How long a call waits for an instance while there is none.
const WAITS: Duration = Duration::from_secs(30);
/// How long an instance that leaves may take for the calls that it has.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

/// Starts one more instance.
pub(crate) type Start<I> = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<I>>> + Send + Sync>;

/// An instance and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// What it is called where it runs.
    pub name: String,
    /// Whether it gets calls.
    pub state: InstanceState,
    /// Calls that it has in hand.
    pub in_flight: usize,
}

/// The instances of a revision. They end when this is dropped.
pub(crate) struct Fleet<I: Instance + ?Sized> {
    inner: Arc<Inner<I>>,
    overseer: AbortHandle,
}

struct Inner<I: Instance + ?Sized> {
    deployment: Name,
    start: Start<I>,
    /// How many there are to be.
    wanted: Mutex<usize>,
    pool: Mutex<Pool<Arc<I>>>,
    /// What those counted that are gone.
    past: Mutex<Statistics>,
    /// Rung when an instance came, or has one call less.
    changed: Notify,
    /// Rung when one may have ended.
    trouble: Notify,
}

/// What can be done to a fleet, whatever its instances do.
#[async_trait]
pub(crate) trait Scale: Send + Sync {
    /// One instance more.
    ///
    /// # Errors
    /// What keeps it from starting.
    async fn grow(&self) -> Result<()>;

    /// One instance less, when it has answered what it has in hand.
    async fn shrink(&self);

    /// The instances.
    fn instances(&self) -> Vec<InstanceStatus>;
}

impl<I: Instance + ?Sized> Drop for Fleet<I> {
    fn drop(&mut self) {
        self.overseer.abort();
    }
}

impl<I: Instance + ?Sized> Fleet<I> {
    /// Starts so many instances. The first is waited for before the others are begun, so that one that cannot start is
    /// started once.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub(crate) async fn start(deployment: Name, start: Start<I>, count: usize) -> Result<Arc<Fleet<I>>> {
        let inner = Arc::new(Inner {
            deployment,
            start,
            wanted: Mutex::new(0),
            pool: Mutex::new(Pool::new()),
            past: Mutex::default(),
            changed: Notify::new(),
            trouble: Notify::new(),
        });
        inner.grow().await?;
        futures::future::try_join_all((1..count).map(|_| inner.grow())).await?;
        let overseer = tokio::spawn(oversee(Arc::clone(&inner))).abort_handle();
        Ok(Arc::new(Fleet { inner, overseer }))
    }
}

#[async_trait]
impl<I: Instance + ?Sized> Scale for Fleet<I> {
    async fn grow(&self) -> Result<()> {
        self.inner.grow().await
    }

    async fn shrink(&self) {
        let inner = &self.inner;
        // The overseer must not replace it.
        let Some(key) = ({
            let mut wanted = inner.wanted();
            *wanted = wanted.saturating_sub(1);
            inner.pool().dismiss()
        }) else {
            return;
        };
        let until = Instant::now() + LEAVES_WITHIN;
        while !inner.pool().is_idle(key) {
            let changed = inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if inner.pool().is_idle(key) {
                break;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                tracing::warn!(deployment = %inner.deployment, "an instance still has calls, and ends all the same");
                break;
            }
        }
        drop(inner.take(key));
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        let pool = self.inner.pool();
        let status = pool.all().map(|(_, instance, state, in_flight)| InstanceStatus {
            name: instance.name().to_owned(),
            state,
            in_flight,
        });
        status.collect()
    }
}

impl<I: Instance + ?Sized> Inner<I> {
    async fn grow(&self) -> Result<()> {
        let instance = (self.start)().await?;
        let mut wanted = self.wanted();
        self.pool().join(instance);
        *wanted += 1;
        drop(wanted);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Takes an instance out.
    fn take(&self, key: u64) -> Option<Arc<I>> {
        let instance = self.pool().remove(key)?;
        let mut past = self.past();
        *past = instance.statistics().after(&past);
        Some(instance)
    }

    /// Has an instance do something, another one if it could not be reached and so never began. It is waited for while there
    /// is none. Whoever has what came of it tells the instance when it is done.
    async fn ask<'a, T>(
        self: &Arc<Self>,
        marks: &[u64],
        ask: &(dyn Fn(Arc<I>) -> BoxFuture<'a, Result<T>> + Sync),
    ) -> Result<(T, InHand<I>)> {
        let until = Instant::now() + WAITS;
        let mut tried = Vec::new();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let chosen = self.pool().choose(marks, &tried);
            let Some((key, instance)) = chosen else {
                // Whoever could not be reached may be there again, or somebody in its place.
                tried.clear();
                if tokio::time::timeout_at(until, changed).await.is_err() {
                    return Err(Error::Busy {
                        reason: format!("no instance of deployment {} answers", self.deployment),
                        retry_after_seconds: 1,
                    });
                }
                continue;
            };
            let in_hand = InHand { inner: Arc::clone(self), key };
            match ask(instance).await {
                Err(Error::Unreached { .. }) => {
                    in_hand.lost();
                    tried.push(key);
                }
                Err(error) => {
                    if matches!(error, Error::Crashed { .. }) {
                        in_hand.lost();
                    }
                    return Err(error);
                }
                Ok(answer) => return Ok((answer, in_hand)),
            }
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool<Arc<I>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn past(&self) -> MutexGuard<'_, Statistics> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before the pool where both are.
    fn wanted(&self) -> MutexGuard<'_, usize> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in an instance's hands, until this is dropped.
struct InHand<I: Instance + ?Sized> {
    inner: Arc<Inner<I>>,
    key: u64,
}

impl<I: Instance + ?Sized> InHand<I> {
    /// The instance lost it.
    fn lost(&self) {
        if self.inner.pool().eject(self.key, Instant::now().into_std()).is_some() {
            tracing::warn!(deployment = %self.inner.deployment, "an instance lost a call, and gets no more until it is well");
        }
        self.inner.trouble.notify_one();
    }
}

impl<I: Instance + ?Sized> Drop for InHand<I> {
    fn drop(&mut self) {
        self.inner.pool().done(self.key);
        self.inner.changed.notify_waiters();
    }
}

/// Sees to it that there are as many instances as there are to be, and that they are well.
async fn oversee<I: Instance + ?Sized>(inner: Arc<Inner<I>>) {
    let mut starting: JoinSet<Result<Arc<I>>> = JoinSet::new();
    let mut troubles = Troubles::default();
    let mut not_before = Instant::now();
    let mut ticks = tokio::time::interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = inner.trouble.notified() => {}
            Some(started) = starting.join_next() => match started {
                Ok(Ok(instance)) => {
                    tracing::info!(deployment = %inner.deployment, instance = instance.name(), "an instance was replaced");
                    inner.pool().join(instance);
                    inner.changed.notify_waiters();
                }
                Ok(Err(error)) => {
                    tracing::warn!(deployment = %inner.deployment, %error, "an instance cannot be replaced");
                    not_before = Instant::now() + kept_after_crash(troubles.another());
                }
                Err(error) => tracing::error!(%error, "starting an instance panicked"),
            },
        }
        bury(&inner, &mut troubles, &mut not_before);
        let missing = {
            let wanted = inner.wanted();
            let staying = inner.pool().all().filter(|(_, _, state, _)| *state != InstanceState::Leaving).count();
            wanted.saturating_sub(staying + starting.len())
        };
        if Instant::now() >= not_before {
            for _ in 0..missing {
                starting.spawn((inner.start)());
            }
        }
        if asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            ask_all(&inner).await;
        }
    }
}

/// Lets those go that have ended, or were not well for long.
fn bury<I: Instance + ?Sized>(inner: &Inner<I>, troubles: &mut Troubles, not_before: &mut Instant) {
    let mut gone: Vec<(u64, &str)> = Vec::new();
    let given_up = inner.pool().given_up(Instant::now().into_std());
    gone.extend(given_up.into_iter().map(|key| (key, "does not answer, and is replaced")));
    let ended: Vec<u64> =
        inner.pool().all().filter(|(_, instance, ..)| !instance.is_alive()).map(|(key, ..)| key).collect();
    gone.extend(ended.into_iter().map(|key| (key, "has ended, and is replaced")));
    for (key, what) in gone {
        let Some(instance) = inner.take(key) else { continue };
        tracing::warn!(deployment = %inner.deployment, instance = instance.name(), "an instance {what}");
        // A few times are chance.
        let alone = troubles.another().saturating_sub(CHANCE);
        if alone > 0 {
            *not_before = Instant::now() + kept_after_crash(alone);
        }
    }
}

/// Asks all how they are.
async fn ask_all<I: Instance + ?Sized>(inner: &Inner<I>) {
    let all: Vec<(u64, Arc<I>)> = inner.pool().all().map(|(key, instance, ..)| (key, Arc::clone(instance))).collect();
    let answers = all.into_iter().map(|(key, instance)| async move {
        (key, tokio::time::timeout(ASKED_WITHIN, instance.is_well()).await.unwrap_or(false))
    });
    for (key, is_well) in futures::future::join_all(answers).await {
        let change = inner.pool().asked(key, is_well, Instant::now().into_std());
        match change {
            Some(pool::Change::Ejected) => {
                tracing::warn!(deployment = %inner.deployment, "an instance does not say that it is well, and gets no calls");
            }
            Some(pool::Change::Readmitted) => {
                tracing::info!(deployment = %inner.deployment, "an instance is well again");
                inner.changed.notify_waiters();
            }
            None => {}
        }
    }
}

#[async_trait]
impl<I: Instance + ?Sized> Instance for Fleet<I> {
    fn name(&self) -> &str {
        self.inner.deployment.as_str()
    }

    /// Whoever ends in it is replaced.
    fn is_alive(&self) -> bool {
        true
    }

    async fn is_well(&self) -> bool {
        self.inner.pool().all().any(|(_, _, state, _)| state == InstanceState::Ready)
    }

    fn resident_bytes(&self) -> u64 {
        self.inner.pool().all().map(|(_, instance, ..)| instance.resident_bytes()).sum()
    }

    fn load_cpu_seconds(&self) -> f64 {
        self.inner.pool().all().map(|(_, instance, ..)| instance.load_cpu_seconds()).sum()
    }

    fn limited_by(&self) -> Option<&'static str> {
        self.inner.pool().all().next().and_then(|(_, instance, ..)| instance.limited_by())
    }

    fn statistics(&self) -> Statistics {
        let all = self.inner.pool().all().fold(Statistics::default(), |sum, (_, one, ..)| sum.plus(&one.statistics()));
        all.after(&self.inner.past())
    }
}

#[async_trait]
impl Worker for Fleet<dyn Worker> {
    async fn run(&self, inputs: &[Tensor]) -> Result<Computed> {
        let ask = move |worker: Arc<dyn Worker>| async move { worker.run(inputs).await }.boxed();
        Ok(self.inner.ask(&[], &ask).await?.0)
    }
}

#[async_trait]
impl Speaker for Fleet<dyn Speaker> {
    async fn generate(&self, request: Generate, asker: Asker) -> Result<Pieces> {
        let marks = marks(&request.prompt);
        let ask = move |speaker: Arc<dyn Speaker>| {
            let (request, asker) = (request.clone(), asker.clone());
            async move { speaker.generate(request, asker).await }.boxed()
        };
        let (pieces, in_hand) = self.inner.ask(&marks, &ask).await?;
        Ok(Box::pin(HeldPieces { pieces, in_hand: Some(in_hand) }))
    }

    async fn embed(&self, texts: Vec<Prompt>, asker: Asker) -> Result<Embedded> {
        let ask = move |speaker: Arc<dyn Speaker>| {
            let (texts, asker) = (texts.clone(), asker.clone());
            async move { speaker.embed(texts, asker).await }.boxed()
        };
        Ok(self.inner.ask(&[], &ask).await?.0)
    }

    async fn tokenize(&self, prompt: Prompt) -> Result<Vec<Token>> {
        let ask = move |speaker: Arc<dyn Speaker>| {
            let prompt = prompt.clone();
            async move { speaker.tokenize(prompt).await }.boxed()
        };
        Ok(self.inner.ask(&[], &ask).await?.0)
    }

    async fn detokenize(&self, tokens: Vec<Token>) -> Result<Vec<u8>> {
        let ask = move |speaker: Arc<dyn Speaker>| {
            let tokens = tokens.clone();
            async move { speaker.detokenize(tokens).await }.boxed()
        };
        Ok(self.inner.ask(&[], &ask).await?.0)
    }

    async fn save(&self) {}
}

/// An answer's pieces, in an instance's hands until they have all come.
struct HeldPieces {
    pieces: Pieces,
    in_hand: Option<InHand<dyn Speaker>>,
}

impl Stream for HeldPieces {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Piece>>> {
        let polled = self.pieces.as_mut().poll_next(context);
        match &polled {
            Poll::Ready(Some(Err(Error::Crashed { .. }))) => {
                if let Some(in_hand) = self.in_hand.take() {
                    in_hand.lost();
                }
            }
            Poll::Ready(None) => drop(self.in_hand.take()),
            _ => {}
        }
        polled
    }
}

#[cfg(test)]
mod tests;
