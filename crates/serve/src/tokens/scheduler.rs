//! The scheduler on its thread, and the handle that everybody has.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc as blocking,
    },
    task::{self, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use wattle_engine::tokens::{Limits, Token, TokenEngine};
use wattle_meter::process_cpu_seconds;

use super::{
    Caller, Request, SchedulerSettings, Statistics,
    embedding::Embedding,
    group::Group,
    steps::{Clock, Steps},
};
use crate::{
    Error, Result,
    language::{Embedded, Piece, Pieces},
    processors::Processors,
};

/// How long the next one of a crowd is waited for; a prompt takes ten times as long and more.
const GATHERING: Duration = Duration::from_millis(3);
/// Whoever is refused is told to come back after at least, and at most, so many seconds.
const RETRY_SECONDS: (u64, u64) = (1, 60);

/// A handle of a scheduler, whose thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Scheduler {
    orders: blocking::Sender<Order>,
    shared: Arc<Shared>,
}

/// What the thread is told.
pub(super) enum Order {
    Generate(Box<Group>),
    Embed(Box<Embedding>),
    Save(PathBuf, oneshot::Sender<io::Result<()>>),
    Restore(PathBuf),
}

/// What the thread and the handles share.
struct Shared {
    limits: Limits,
    settings: SchedulerSettings,
    waiting: AtomicUsize,
    tenants: Mutex<HashMap<String, usize>>,
    statistics: Mutex<Statistics>,
    /// The mean time that a place is taken, in microseconds.
    waited_micros: AtomicU64,
    /// Whether the thread has panicked, so that nothing is answered any more.
    has_panicked: AtomicBool,
}

/// A place among those that wait, or among a tenant's requests; free again when it is dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    tenant: Option<String>,
    since: Instant,
}

impl Scheduler {
    /// Starts a thread that has the engine.
    ///
    /// # Errors
    /// [`Error::Run`] if there is none to be had.
    pub fn start(engine: Box<dyn TokenEngine>, settings: SchedulerSettings) -> Result<Scheduler> {
        let shared = Arc::new(Shared {
            limits: engine.limits(),
            settings: settings.clone(),
            waiting: AtomicUsize::new(0),
            tenants: Mutex::default(),
            statistics: Mutex::default(),
            waited_micros: AtomicU64::new(0),
            has_panicked: AtomicBool::new(false),
        });
        let (orders, told) = blocking::channel();
        let seen = Arc::clone(&shared);
        let (threads, folder) = (settings.threads, settings.processors.clone());
        let run = move || {
            let processors = folder.and_then(|folder| {
                let opened = Processors::open(&folder);
                opened.inspect_err(|error| tracing::warn!(%error, "models take no turns on the processors")).ok()
            });
            let steps = Steps::new(engine, Box::new(Machine), settings);
            run(steps, &told, &seen, |steps| step(steps, processors.as_ref(), threads));
        };
        let started = thread::Builder::new().name("wattle-steps".into()).spawn(run);
        started.map_err(|error| Error::Run(format!("no thread can be started: {error}")))?;
        Ok(Scheduler { orders, shared })
    }

    /// Takes in a request. Its pieces end at its end, or with an error; to drop them ends it within a step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a prompt that does not fit the engine even alone; [`Error::TooMany`] when as many wait as
    /// may.
    pub fn generate(&self, request: Request) -> Result<Pieces> {
        Steps::check(&self.shared.limits, request.prompt.len())?;
        if request.answers.is_empty() {
            return Err(Error::Invalid("no answer is asked for".into()));
        }
        let places = self.enter(&request.caller)?;
        let (group, pieces) = Group::new(request, &self.shared.limits, Some(places));
        self.send(Order::Generate(Box::new(group)))?;
        Ok(Box::pin(Told { pieces, ended: false }))
    }

    /// Embeds texts; each vector has length 1.
    ///
    /// # Errors
    /// As [`Scheduler::generate`], and [`Error::Invalid`] if the model gives no embeddings.
    pub async fn embed(&self, texts: Vec<Vec<Token>>, caller: Caller) -> Result<Embedded> {
        let limits = &self.shared.limits;
        if limits.embedding == 0 {
            return Err(Error::Invalid(
                "the model gives no embeddings: deploy one that does, such as one of the BERT family".into(),
            ));
        }
        let most = match limits.context_tokens {
            0 => limits.batch_tokens,
            context => context.min(limits.batch_tokens),
        };
        for (index, text) in texts.iter().enumerate() {
            let length = text.len();
            if length > most as usize {
                return Err(Error::Invalid(format!(
                    "the text at {index} has {length} tokens, and {most} is the most that the model embeds: send a shorter one"
                )));
            }
            if length == 0 {
                return Err(Error::Invalid(format!("the text at {index} has no tokens: send some")));
            }
        }
        if texts.is_empty() {
            return Ok(Embedded::default());
        }
        let places = Some(self.enter(&caller)?);
        let (reply, answer) = oneshot::channel();
        let deadline = caller.deadline;
        let done = Embedded::default();
        self.send(Order::Embed(Box::new(Embedding { texts, done, deadline, reply, _places: places })))?;
        answer.await.unwrap_or_else(|_| match deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            true => Err(Error::Expired),
            false => Err(ended()),
        })
    }

    /// Whether it can still answer.
    pub fn is_alive(&self) -> bool {
        !self.shared.has_panicked.load(Relaxed)
    }

    /// What it did, and how it stands.
    pub fn statistics(&self) -> Statistics {
        let statistics = self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        Statistics { waiting: self.shared.waiting.load(Relaxed) as u64, ..statistics.clone() }
    }

    /// Writes the prefixes that are of most use to a folder, within the bounds that were set, in place of what is there.
    ///
    /// # Errors
    /// If they cannot be written.
    pub async fn save(&self, folder: &Path) -> io::Result<()> {
        let (reply, saved) = oneshot::channel();
        let gone = || io::Error::other("the scheduler has ended");
        self.orders.send(Order::Save(folder.to_owned(), reply)).map_err(|_| gone())?;
        saved.await.map_err(|_| gone())?
    }

    /// Takes in what was saved, before whatever is asked next. What is of no use any more is removed.
    pub fn restore(&self, folder: &Path) {
        // One that has ended has no use for it.
        let _ = self.orders.send(Order::Restore(folder.to_owned()));
    }

    fn send(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| ended())
    }

    /// A place among those that wait, and one among the tenant's.
    fn enter(&self, caller: &Caller) -> Result<(Place, Option<Place>)> {
        let shared = &self.shared;
        let place = |tenant| Place { shared: Arc::clone(shared), tenant, since: Instant::now() };
        let waits = |waiting: usize| (waiting < shared.settings.max_waiting).then_some(waiting + 1);
        shared.waiting.fetch_update(Relaxed, Relaxed, waits).map_err(|waiting| Error::TooMany {
            reason: format!("{waiting} requests wait for the model, as many as may"),
            retry_after_seconds: shared.retry_after(),
        })?;
        let waiting = place(None);
        let Some(tenant) = &caller.tenant else { return Ok((waiting, None)) };
        let mut tenants = shared.tenants();
        let own = tenants.entry(tenant.clone()).or_default();
        if *own >= shared.settings.max_tenant_requests {
            return Err(Error::TooMany {
                reason: format!("the tenant {tenant} has {own} requests here, as many as it may"),
                retry_after_seconds: RETRY_SECONDS.0,
            });
        }
        *own += 1;
        drop(tenants);
        Ok((waiting, Some(place(Some(tenant.clone())))))
    }
}

impl Shared {
    /// About how long it takes until half of those that wait had their turn.
    fn retry_after(&self) -> u64 {
        let seconds = self.waited_micros.load(Relaxed) / 2_000_000;
        seconds.clamp(RETRY_SECONDS.0, RETRY_SECONDS.1)
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(tenant) = &self.tenant else {
            self.shared.waiting.fetch_sub(1, Relaxed);
            let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
            let mean = self.shared.waited_micros.load(Relaxed);
            // A race loses one of many.
            self.shared.waited_micros.store(mean - mean / 8 + waited / 8, Relaxed);
            return;
        };
        let mut tenants = self.shared.tenants();
        if let Some(own) = tenants.get_mut(tenant) {
            *own -= 1;
            if *own == 0 {
                tenants.remove(tenant);
            }
        }
    }
}

/// A request's pieces as its caller gets them: with an end, whatever becomes of the thread.
struct Told {
    pieces: mpsc::UnboundedReceiver<Result<Piece>>,
    ended: bool,
}

impl Stream for Told {
    type Item = Result<Piece>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<Result<Piece>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(context)).unwrap_or_else(|| Err(ended()));
        self.ended = matches!(piece, Ok(Piece::Done(_)) | Err(_));
        Poll::Ready(Some(piece))
    }
}

fn ended() -> Error {
    Error::Run("the model's scheduler has ended: try again, it is loaded again".into())
}

/// The clocks of this machine.
struct Machine;

impl Clock for Machine {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn cpu_seconds(&self) -> f64 {
        process_cpu_seconds()
    }
}

/// Steps until nobody has a handle any more. It sleeps while there is nothing to do.
fn run(mut steps: Steps, orders: &blocking::Receiver<Order>, shared: &Shared, step: impl Fn(&mut Steps)) {
    let stepped = catch_unwind(AssertUnwindSafe(|| {
        let mut crowd = 0;
        loop {
            if steps.is_idle() {
                publish(&steps, shared);
                match orders.recv() {
                    Ok(order) => follow(&mut steps, order),
                    Err(_) => return,
                }
                gather(&mut steps, orders, std::mem::take(&mut crowd), GATHERING);
            }
            loop {
                match orders.try_recv() {
                    Ok(order) => follow(&mut steps, order),
                    Err(blocking::TryRecvError::Empty) => break,
                    Err(blocking::TryRecvError::Disconnected) if steps.is_idle() => return,
                    Err(blocking::TryRecvError::Disconnected) => break,
                }
            }
            if !steps.is_idle() {
                step(&mut steps);
                crowd = crowd.max(steps.groups.len());
                publish(&steps, shared);
            }
        }
    }));
    if stepped.is_err() {
        tracing::error!("the scheduler of a language model panicked");
        shared.has_panicked.store(true, Relaxed);
        // Whoever waits is told by the closing of what it waits on; what is left may be in any state.
        std::mem::forget(steps.engine);
    }
}

/// After one order of an idle scheduler, takes in those of as many as were here together before: whoever was answered in
/// the same step asks again at about the same time, and prompts that are read together hold up no answer.
pub(super) fn gather(steps: &mut Steps, orders: &blocking::Receiver<Order>, crowd: usize, patience: Duration) {
    for _ in 1..crowd {
        match orders.recv_timeout(patience) {
            Ok(order) => follow(steps, order),
            Err(_) => return,
        }
    }
}

/// Does one step when it is this model's turn.
fn step(steps: &mut Steps, processors: Option<&Processors>, threads: usize) {
    let turn = processors.and_then(|processors| {
        processors.take(threads).inspect_err(|error| tracing::debug!(%error, "a step takes no turn")).ok()
    });
    steps.step(turn.as_ref().is_some_and(|turn| turn.waited));
}

fn follow(steps: &mut Steps, order: Order) {
    match order {
        Order::Generate(group) => steps.add(*group),
        Order::Embed(embedding) => steps.embeddings.push(*embedding),
        Order::Save(folder, reply) => {
            let _ = reply.send(steps.save(&folder));
        }
        Order::Restore(folder) => steps.restore(&folder),
    }
}

fn publish(steps: &Steps, shared: &Shared) {
    *shared.statistics.lock().unwrap_or_else(PoisonError::into_inner) = steps.statistics();
}
