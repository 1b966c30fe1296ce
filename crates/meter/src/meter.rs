use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use wattle_core::{Activity, Energy, Usage};

use crate::{
    Error, Ledger, Result, Sensor, SensorConfig, SensorDescription, Total, UsageLine, UsageQuery,
    books::{Books, Tariff},
    measured::Measured,
    pending::Pending,
    probe::{Machine, Probe, minute_now},
    rates::Rates,
};

/// Says what work costs, and keeps account of it.
///
/// Charging and recording never wait for a sensor or a disk: a task of the meter's own reads the sensor once an interval,
/// books what is idle and what nothing accounts for, and writes what was recorded to the ledger within about a tenth
/// of a second, which is also the most that a killed process loses. Clones share one meter; the last one to go writes
/// what is left, but only [`Meter::shutdown`] waits for it.
#[derive(Debug, Clone)]
pub struct Meter {
    shared: Arc<Shared>,
    task: Arc<Task>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    rates: RwLock<Rates>,
    /// Rung when something waits for the ledger and nothing did before.
    waiting: Notify,
    ledger: Ledger,
    /// Held from taking the sums until they are written or given back, so that who flushes finds nothing half-way.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Task {
    stop: watch::Sender<bool>,
    handle: tokio::sync::Mutex<Option<JoinHandle<Result<()>>>>,
}

/// Between two batches at least; also the most that a killed process loses.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// How long a ledger that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Meter {
    /// Chooses the sensor, opens the ledger and starts the meter's task; needs a Tokio runtime.
    ///
    /// # Errors
    /// When the configuration makes no sense, the sensor cannot be read or the ledger cannot be opened.
    pub async fn start(ledger_path: &Path, config: SensorConfig) -> Result<Meter> {
        let sensor = Sensor::detect(&config)?;
        let estimate = sensor.rates();
        let tariff = match &sensor {
            Sensor::Rapl(_) => Tariff::Measured(Measured::new(config.idle_watts)),
            Sensor::Configured { .. } | Sensor::Model(_) => Tariff::Fixed,
        };
        let ledger = Ledger::open(ledger_path).await?;
        let interval = Duration::from_millis(config.interval_ms);
        Meter::start_with(ledger, Machine::new(sensor), tariff, estimate, interval)
    }

    /// The dynamic energy of processor time just spent, at what such time costs at present.
    pub fn dynamic_energy(&self, cpu_seconds: f64) -> Energy {
        self.shared.rates.read().unwrap_or_else(PoisonError::into_inner).dynamic_energy(cpu_seconds)
    }

    /// Keeps account of work done, without waiting for anything.
    ///
    /// Its energy is what [`Meter::dynamic_energy`] said of its processor time. A prediction's time is part of the
    /// server's own, unless its model has a process of its own; that of such a process and of a training job is a child's,
    /// which the server's clock does not see, so it is added to it. Jobs
    /// report what they spent since their last report, every second or so.
    pub fn record(&self, usage: Usage) {
        let Energy { joules_low, joules, joules_high, .. } = usage.energy;
        if ![usage.cpu_seconds, joules_low, joules, joules_high].iter().all(|x| x.is_finite() && *x >= 0.0) {
            tracing::error!(?usage, "usage that is no amount is not counted");
            return;
        }
        self.shared.add(minute_now(), usage);
    }

    /// What the meter reckons with at present.
    pub fn sensor_description(&self) -> SensorDescription {
        self.shared.rates.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// What was used since this meter was started, by what for; without waiting for anything.
    pub fn totals(&self) -> Vec<Total> {
        self.shared.pending().totals()
    }

    /// The sums of all that was recorded so far.
    ///
    /// # Errors
    /// When the ledger cannot be written or read; what was recorded stays in memory.
    pub async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageLine>> {
        self.flush().await?;
        self.shared.ledger.usage(&query).await
    }

    /// Writes all that was recorded so far to the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be written; what was recorded stays in memory, and is tried again.
    pub async fn flush(&self) -> Result<()> {
        // A caller may go away while a transaction commits, and nobody could then tell whether it did: so the writing
        // is a task that nobody cancels.
        let shared = Arc::clone(&self.shared);
        ended(tokio::spawn(async move { shared.flush().await }).await)
    }

    /// Closes the books: the last interval, the last batch and the ledger. What is recorded later is lost.
    ///
    /// # Errors
    /// When the last batch cannot be written.
    pub async fn shutdown(&self) -> Result<()> {
        self.task.stop.send_replace(true);
        let mut handle = self.task.handle.lock().await;
        let Some(task) = handle.take() else { return Ok(()) };
        let result = ended(task.await);
        self.shared.ledger.close().await;
        result
    }

    fn start_with(
        ledger: Ledger,
        mut probe: impl Probe,
        tariff: Tariff,
        estimate: Rates,
        interval: Duration,
    ) -> Result<Meter> {
        let books = Books::open(tariff, estimate, probe.read()?);
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            rates: RwLock::new(books.rates()),
            waiting: Notify::new(),
            ledger,
            writing: tokio::sync::Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let handle = tokio::spawn(run(Arc::clone(&shared), books, probe, interval, stopped));
        Ok(Meter { shared, task: Arc::new(Task { stop, handle: tokio::sync::Mutex::new(Some(handle)) }) })
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, minute: i64, usage: Usage) {
        let first = self.pending().add(minute, usage);
        if first {
            self.waiting.notify_one();
        }
    }

    /// Must run to its end: see [`Meter::flush`].
    async fn flush(&self) -> Result<()> {
        let _writing = self.writing.lock().await;
        let sums = self.pending().drain();
        if sums.is_empty() {
            return Ok(());
        }
        let added = self.ledger.add(&sums).await;
        if added.is_err() {
            // SQLite rolls back what it cannot commit.
            self.pending().put_back(sums);
            self.waiting.notify_one();
        }
        added
    }

    /// Reads the sensor and books what the interval leaves over.
    fn close_interval(&self, books: &mut Books, probe: &mut impl Probe) -> Result<()> {
        // Taken before the clocks are read, so that no request is charged before the clock saw its time.
        let attributed = self.pending().take_attributed();
        let reading = match probe.read() {
            Ok(reading) => reading,
            Err(error) => {
                self.pending().put_back_attributed(attributed);
                return Err(error);
            }
        };
        let interval = books.close(&reading, attributed);
        *self.rates.write().unwrap_or_else(PoisonError::into_inner) = books.rates();
        self.add(reading.minute, own_usage(Activity::Idle, 0.0, interval.idle));
        self.add(
            reading.minute,
            own_usage(Activity::Unattributed, interval.unattributed_cpu_seconds, interval.unattributed),
        );
        Ok(())
    }
}

/// How a task of ours ended.
fn ended(result: Result<Result<()>, JoinError>) -> Result<()> {
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away and took the task with it: nobody is left to write.
            Err(_) => Err(Error::Closed),
        },
    }
}

fn own_usage(activity: Activity, cpu_seconds: f64, energy: Energy) -> Usage {
    Usage {
        activity,
        deployment: None,
        model: None,
        version: None,
        requests: 0,
        rows: 0,
        cpu_seconds,
        in_child: false,
        energy,
    }
}

/// The meter's task: closes intervals and writes batches until it is told to stop, or no meter is left.
async fn run(
    shared: Arc<Shared>,
    mut books: Books,
    mut probe: impl Probe,
    interval: Duration,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sensor = Health::new("the sensor");
    let mut ledger = Health::new("the energy ledger");
    let mut next_flush = Instant::now();
    let mut due = false;
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            // A few files of the kernel's, which never wait for a disk.
            _ = ticks.tick() => sensor.note(&shared.close_interval(&mut books, &mut probe)),
            () = shared.waiting.notified(), if !due => due = true,
            () = sleep_until(next_flush), if due => {
                due = false;
                let flushed = shared.flush().await;
                next_flush = Instant::now() + if flushed.is_ok() { FLUSH_EVERY } else { RETRY_AFTER };
                ledger.note(&flushed);
            }
        }
    }
    sensor.note(&shared.close_interval(&mut books, &mut probe));
    shared.flush().await
}

/// Logs when something begins to fail and when it is well again, not each failure between.
struct Health {
    what: &'static str,
    failing: bool,
}

impl Health {
    fn new(what: &'static str) -> Health {
        Health { what, failing: false }
    }

    fn note(&mut self, result: &Result<()>) {
        match result {
            Err(error) if !self.failing => tracing::error!(%error, "{} fails; it is tried again", self.what),
            Ok(()) if self.failing => tracing::info!("{} is well again", self.what),
            _ => {}
        }
        self.failing = result.is_err();
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
