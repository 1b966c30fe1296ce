//! A model's queue: who computes the batches, and when.
//!
//! Nobody is in charge while nobody calls. The first call makes the queue run; a model that is known to be quick and free
//! is computed right where the call came in, without a hop to another thread, and all others by a task that lasts until
//! nobody waits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, oneshot},
};
use wattle_core::Signature;
use wattle_engine::Tensor;

use crate::{
    Context, Error, Result,
    account::Batch,
    admit::{Admission, Turn},
    batch::{Answered, Waiter, agree, join, part, rows_of, tell_all},
    batcher::{BatchLimits, Batcher, Entry, Next},
    engine::{Computed, Engine, compute},
    memory::Loaded,
    replica::Served,
};

/// A model whose batches take less than this is computed where its calls come in: a hop to another thread and back would be
/// a large part of what the call takes.
const QUICK: Duration = Duration::from_micros(200);
/// Every so many calls that were computed where they came in, one waits to see whether others come with it.
const LOOK_EVERY: u32 = 32;

/// Batches that an instance elsewhere may have at once: one that it computes, and one that is on its way meanwhile.
const BATCHES_AN_INSTANCE: usize = 2;

/// The calls that wait for one model.
pub(crate) struct Queue {
    limits: BatchLimits,
    state: Mutex<State>,
    /// Rung when a call came while a batch waits for company.
    came: Notify,
    /// The mean processor time of a batch, in nanoseconds; zero before the first. Where the system interrupts a batch for
    /// others, its time says nothing of the model.
    mean_cpu_nanos: AtomicU64,
    /// Whether batches were seen to answer like calls alone.
    trust: AtomicU8,
    /// How many batches more may be with instances elsewhere.
    lanes: Arc<Semaphore>,
}

struct State {
    batcher: Batcher<Waiter>,
    /// Who sees to the calls.
    run: Run,
    /// Whether the last batch that a driver waited for had several calls.
    has_company: bool,
    /// Calls that were computed where they came in since it was last looked for company.
    alone: u32,
}

/// Who sees to a queue's calls.
#[derive(Clone, Copy, PartialEq)]
enum Run {
    /// Nobody; nobody waits.
    Nobody,
    /// The thread that a call came in on, which hands over to a driver if others come meanwhile.
    Here,
    /// A task.
    Driver,
}

const UNKNOWN: u8 = 0;
const TRUSTED: u8 = 1;
const ALONE: u8 = 2;

impl Queue {
    /// A queue for a model of which there are so many instances.
    pub(crate) fn new(limits: BatchLimits, instances: u32) -> Queue {
        let trust = if limits.max_rows > 1 { UNKNOWN } else { ALONE };
        Queue {
            state: Mutex::new(State { batcher: Batcher::new(limits), run: Run::Nobody, has_company: false, alone: 0 }),
            came: Notify::new(),
            mean_cpu_nanos: AtomicU64::new(0),
            trust: AtomicU8::new(trust),
            lanes: Arc::new(Semaphore::new(instances as usize * BATCHES_AN_INSTANCE)),
            limits,
        }
    }

    /// Whether nobody computes or waits.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.run == Run::Nobody && state.batcher.is_empty()
    }

    /// Rows of a batch at most.
    pub(crate) fn max_rows(&self) -> usize {
        if self.trust.load(Relaxed) == ALONE { 1 } else { self.limits.max_rows }
    }

    /// Whether a call is to wait for others although it could be computed.
    fn wants_company(&self) -> bool {
        !self.limits.max_delay.is_zero() && self.max_rows() > 1
    }

    /// From now on every call is computed alone. Says whether that is news.
    pub(crate) fn stop_batching(&self) -> bool {
        self.lock().batcher.stop_batching();
        self.trust.swap(ALONE, Relaxed) != ALONE
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is worth while for a call to wait until those have been read that have arrived: when the last calls that
    /// did so were several, and now and then to find out.
    fn may_have_company(&self, state: &mut State) -> bool {
        if self.max_rows() == 1 {
            return false;
        }
        state.alone += 1;
        if !state.has_company && state.alone < LOOK_EVERY {
            return false;
        }
        state.alone = 0;
        true
    }

    /// Whether a batch is known to take less processor time than this.
    fn is_quicker_than(&self, time: Duration) -> bool {
        let mean = self.mean_cpu_nanos.load(Relaxed);
        mean > 0 && u128::from(mean) < time.as_nanos()
    }

    fn took(&self, cpu_seconds: f64) {
        let nanos = (cpu_seconds * 1e9).max(1.0) as u64;
        let mean = self.mean_cpu_nanos.load(Relaxed);
        // A race loses one of many.
        self.mean_cpu_nanos.store(if mean == 0 { nanos } else { mean - mean / 8 + nanos / 8 }, Relaxed);
    }
}

/// Has a call computed. The caller's leaving (this future's being dropped) takes it out of the queue; what computes already
/// runs to its end and is accounted for.
pub(crate) async fn submit(
    served: &Arc<Served>,
    admission: &Admission,
    context: &Context,
    inputs: Vec<Tensor>,
) -> Result<Answered> {
    match compute_here(served, admission, context, &inputs) {
        Some(answered) => answered,
        // Boxed, so that the many calls that need not wait carry nothing of it about.
        None => Box::pin(wait(served, admission, context, inputs)).await,
    }
}

/// Computes a call of a quick model on this thread: if nobody else computes or waits, hardly anybody is about to, and a
/// processor is free; or whoever does, if the model does not mind.
fn compute_here(
    served: &Arc<Served>,
    admission: &Admission,
    context: &Context,
    inputs: &[Tensor],
) -> Option<Result<Answered>> {
    let queue = &served.queue;
    if queue.wants_company() || !queue.is_quicker_than(QUICK) {
        return None;
    }
    let loaded = served.loaded()?;
    let Engine::Local(model) = &loaded.engine else { return None };
    let compute = || {
        let started = Instant::now();
        let _computing = served.computing(1);
        finish(served, inputs, context.copy, compute(model, inputs), started, started)
    };
    // Nothing is gained by waiting for it, neither a turn nor company.
    if model.is_reentrant() {
        return Some(compute());
    }
    let mut state = queue.lock();
    if state.run != Run::Nobody || !state.batcher.is_empty() || queue.may_have_company(&mut state) {
        return None;
    }
    let _turn = admission.try_turn(model.threads())?;
    state.run = Run::Here;
    drop(state);
    let _here = Here { served, admission };
    Some(compute())
}

/// Joins the queue and waits for the answer.
async fn wait(served: &Arc<Served>, admission: &Admission, context: &Context, inputs: Vec<Tensor>) -> Result<Answered> {
    let (since, queue) = (Instant::now(), &served.queue);
    let answer = {
        let (reply, answer) = oneshot::channel();
        let call = Waiter { inputs, reply, since, copy: context.copy };
        let mut state = queue.lock();
        state.batcher.push(Entry { call, priority: context.priority, since, deadline: context.deadline });
        match state.run {
            Run::Driver => queue.came.notify_one(),
            Run::Here => {}
            Run::Nobody => spawn_driver(&mut state, served, admission),
        }
        answer
    };
    let _queued = served.metrics.queued.hold();
    let answered = match context.deadline {
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answered) => answered,
            Err(_) => {
                served.metrics.expired();
                return Err(Error::Expired);
            }
        },
        None => answer.await,
    };
    // Whoever is dropped unanswered was too late when its turn came.
    answered.unwrap_or_else(|_| {
        served.metrics.expired();
        Err(Error::Expired)
    })
}

/// Held while a thread computes a call where it came in.
struct Here<'a> {
    served: &'a Arc<Served>,
    admission: &'a Admission,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut state = self.served.queue.lock();
        match state.batcher.is_empty() {
            true => state.run = Run::Nobody,
            false => spawn_driver(&mut state, self.served, self.admission),
        }
    }
}

fn spawn_driver(state: &mut State, served: &Arc<Served>, admission: &Admission) {
    state.run = Run::Driver;
    tokio::spawn(drive(Driver { served: Arc::clone(served), admission: admission.clone(), ended: false }));
}

/// Sees to a queue until nobody waits. Should it panic, the next call starts another.
struct Driver {
    served: Arc<Served>,
    admission: Admission,
    ended: bool,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.served.queue.lock();
            tell_all(state.batcher.drain(), &Error::Internal("the task that computes batches ended".into()));
            state.run = Run::Nobody;
        }
    }
}

async fn drive(mut driver: Driver) {
    let served = Arc::clone(&driver.served);
    loop {
        let loaded = match served.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                let mut state = served.queue.lock();
                tell_all(state.batcher.drain(), &error);
                state.run = Run::Nobody;
                driver.ended = true;
                return;
            }
        };
        // A process that ended while nobody called is replaced before anything is sent to it.
        if let Engine::Remote(worker) = &loaded.engine
            && !worker.is_alive()
        {
            served.crashed(&loaded);
            continue;
        }
        // Other calls have arrived that are not read yet. To read them first costs no time, and a batch of a quick model
        // takes hardly longer than one call.
        let is_quick = served.queue.is_quicker_than(QUICK) && served.queue.max_rows() > 1;
        if is_quick {
            tokio::task::yield_now().await;
        }
        // The batch is made when there is a processor for it, so that it holds all who came until then.
        let turn = match loaded.fleet {
            Some(_) => Arc::clone(&served.queue.lanes).acquire_owned().await.map(Turn::elsewhere).ok(),
            None => driver.admission.turn(loaded.engine.threads()).await.ok(),
        };
        let Some(turn) = turn else { return };
        let next = {
            let mut state = served.queue.lock();
            let next = state.batcher.next(Instant::now());
            match &next {
                Next::Idle => {
                    state.run = Run::Nobody;
                    driver.ended = true;
                    return;
                }
                Next::Batch(calls) => state.has_company = is_quick && calls.len() > 1,
                Next::Wait(_) => {}
            }
            next
        };
        match next {
            Next::Batch(calls) => run(&served, &loaded, calls, turn).await,
            Next::Wait(until) => {
                drop(turn);
                let _ = tokio::time::timeout_at(until.into(), served.queue.came.notified()).await;
            }
            Next::Idle => {}
        }
    }
}

/// Computes a batch where that disturbs nobody: a slow model of this process on a thread that may be busy for long.
async fn run(served: &Arc<Served>, loaded: &Arc<Loaded>, calls: Vec<Waiter>, turn: Turn) {
    if loaded.fleet.is_some() {
        // Others take the next batches meanwhile.
        let (served, loaded) = (Arc::clone(served), Arc::clone(loaded));
        tokio::spawn(async move {
            answer_all(&served, &loaded, calls).await;
            drop(turn);
        });
        return;
    }
    if matches!(loaded.engine, Engine::Remote(_)) || served.queue.is_quicker_than(QUICK) {
        let _turn = turn;
        return answer_all(served, loaded, calls).await;
    }
    let (served, loaded, runtime) = (Arc::clone(served), Arc::clone(loaded), Handle::current());
    let task = move || {
        let _turn = turn;
        runtime.block_on(answer_all(&served, &loaded, calls));
    };
    // A panic drops the calls, whose callers are told.
    if let Err(error) = tokio::task::spawn_blocking(task).await {
        tracing::error!(%error, "a batch panicked");
    }
}

/// Computes a batch and tells each call its own part.
async fn answer_all(served: &Arc<Served>, loaded: &Loaded, calls: Vec<Waiter>) {
    if calls.len() == 1 {
        return answer_each(served, loaded, calls).await;
    }
    let begun = Instant::now();
    let rows: Vec<usize> = calls.iter().map(|call| rows_of(&call.inputs)).collect();
    let Some(inputs) = join(&calls) else { return answer_each(served, loaded, calls).await };
    let batch = begun.elapsed();
    let started = Instant::now();
    let computing = served.computing(calls.len());
    let result = loaded.engine.run(&inputs).await;
    let compute = started.elapsed();
    drop((computing, inputs));
    // One bad call must not fail the others: on its own each gets what it deserves.
    let Ok(mut computed) = result else { return answer_each(served, loaded, calls).await };
    let Some(parts) = part(&computed.outputs, &rows) else {
        served.stop_batching("its outputs are not one row for each of its inputs'");
        return answer_each(served, loaded, calls).await;
    };
    loaded.has_answered.store(true, Relaxed);
    served.queue.took(computed.cpu_seconds);
    let all_rows: usize = rows.iter().sum();
    if served.queue.trust.load(Relaxed) == UNKNOWN {
        match alone(loaded, &calls, &parts).await {
            Ok(Some(cpu_seconds)) => computed.cpu_seconds += cpu_seconds,
            Ok(None) => {
                served.stop_batching("a batch answers otherwise than its calls alone");
                return answer_each(served, loaded, calls).await;
            }
            // A process that ended meanwhile says nothing of its batches.
            Err(_) => return answer_each(served, loaded, calls).await,
        }
        served.queue.trust.store(TRUSTED, Relaxed);
    }
    let share = |rows: usize| computed.cpu_seconds * rows as f64 / all_rows.max(1) as f64;
    let copies = || calls.iter().zip(&rows).filter(|(call, _)| call.copy);
    served.account(&Batch {
        calls: calls.len(),
        rows: all_rows,
        copied_calls: copies().count(),
        copied_rows: copies().map(|(_, rows)| rows).sum(),
        cpu_seconds: computed.cpu_seconds,
        compute,
    });
    for ((call, outputs), rows) in calls.into_iter().zip(parts).zip(rows) {
        let queue = begun.saturating_duration_since(call.since);
        // Whoever left needs no answer.
        let _ = call.reply.send(Ok(Answered { outputs, cpu_seconds: share(rows), queue, batch, compute }));
    }
}

/// Compares a model's first batch with its calls alone, since a graph may let rows see each other although its shapes say
/// nothing of it. The processor time that took, if they agree.
///
/// # Errors
/// What kept the model from computing.
async fn alone(loaded: &Loaded, calls: &[Waiter], parts: &[Vec<Tensor>]) -> Result<Option<f64>> {
    let (Some(call), Some(outputs)) = (calls.first(), parts.first()) else { return Ok(None) };
    let Some(mut cpu_seconds) = among_strangers(loaded, call, outputs).await? else { return Ok(None) };
    for (call, outputs) in calls.iter().zip(parts) {
        match try_out(loaded, &call.inputs).await? {
            Some(alone) if agree(&alone.outputs, outputs) => cpu_seconds += alone.cpu_seconds,
            _ => return Ok(None),
        }
    }
    Ok(Some(cpu_seconds))
}

/// Compares a call with itself among rows of our own making: the calls of the first batch may all have sent the same, of
/// which a graph makes the same whether its rows see each other or not. The processor time that took, if they agree.
async fn among_strangers(loaded: &Loaded, call: &Waiter, outputs: &[Tensor]) -> Result<Option<f64>> {
    let mixed = |input: &Tensor| Tensor::concat([input, &input.far_from(true), &input.far_from(false)].into_iter());
    let Some(inputs) = call.inputs.iter().map(mixed).collect::<Option<Vec<Tensor>>>() else { return Ok(None) };
    let Some(computed) = try_out(loaded, &inputs).await? else { return Ok(None) };
    let rows = rows_of(&call.inputs);
    let own = part(&computed.outputs, &[rows, 2 * rows]).and_then(|parts| parts.into_iter().next());
    Ok(own.filter(|own| agree(own, outputs)).map(|_| computed.cpu_seconds))
}

/// What the model makes of these; `None` when it makes nothing of them.
async fn try_out(loaded: &Loaded, inputs: &[Tensor]) -> Result<Option<Computed>> {
    match loaded.engine.run(inputs).await {
        Ok(computed) => Ok(Some(computed)),
        // Only what the model itself says tells something of it.
        Err(Error::Run(_) | Error::Invalid(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Computes each call alone, one after the other.
async fn answer_each(served: &Arc<Served>, loaded: &Loaded, calls: Vec<Waiter>) {
    for call in calls.into_iter().filter(|call| !call.reply.is_closed()) {
        let started = Instant::now();
        let computing = served.computing(1);
        let result = loaded.engine.run(&call.inputs).await;
        drop(computing);
        match &result {
            Err(Error::Crashed { .. } | Error::Unreached { .. }) => served.crashed(loaded),
            _ => loaded.has_answered.store(true, Relaxed),
        }
        let answered = finish(served, &call.inputs, call.copy, result, call.since, started);
        let _ = call.reply.send(answered);
    }
}

/// Books a call that was computed alone, and makes its answer.
fn finish(
    served: &Served,
    inputs: &[Tensor],
    copy: bool,
    result: Result<Computed>,
    since: Instant,
    started: Instant,
) -> Result<Answered> {
    let compute = started.elapsed();
    match result {
        Ok(Computed { outputs, cpu_seconds }) => {
            served.queue.took(cpu_seconds);
            served.account(&Batch::of_one(rows_of(inputs), copy, cpu_seconds, compute));
            let queue = started.saturating_duration_since(since);
            Ok(Answered { outputs, cpu_seconds, queue, batch: Duration::ZERO, compute })
        }
        Err(error) => {
            served.failed(&error);
            Err(match error {
                Error::Run(_) => uneven_rows(&served.signature, inputs).unwrap_or(error),
                other => other,
            })
        }
    }
}

/// Why a model may have failed: inputs that take any number of rows got different ones. It is asked only afterwards,
/// since a graph may take inputs that are not rows of the same table.
fn uneven_rows(signature: &Signature, inputs: &[Tensor]) -> Option<Error> {
    let free = |tensor: &&Tensor| {
        signature.input(&tensor.name).and_then(|spec| spec.shape.first()).is_some_and(|dimension| *dimension < 0)
    };
    let mut tensors = inputs.iter().filter(free);
    let first = tensors.next()?;
    let other = tensors.find(|tensor| tensor.rows() != first.rows())?;
    Some(Error::Invalid(format!(
        "{:?} has {} rows and {:?} has {}: send the same number in every input",
        first.name,
        first.rows(),
        other.name,
        other.rows()
    )))
}
