//! What a training process tells its server: one JSON object a line.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::fit::Artefact;

/// The shortest time between two reports of progress.
const SHORTEST_GAP: Duration = Duration::from_millis(200);
/// The longest time between two reports of progress, so that a silent process is a stuck one.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The job is under way.
    Progress(Progress),
    /// The job has ended, and its model lies in its folder.
    Done(Box<Done>),
    /// The job has ended without a model.
    Failed(Failed),
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What it does now.
    pub stage: Stage,
    /// Iterations or epochs done; rows while reading, each as often as it is read.
    pub iteration: u64,
    /// Iterations or epochs at most; rows while reading.
    pub of: u64,
    /// The objective on the training rows, penalties included.
    pub loss: Option<f64>,
    /// The mean loss on the held-out rows.
    pub validation_loss: Option<f64>,
    /// Rows that went through the arithmetic, or were read, in a second.
    pub rows_per_second: Option<f64>,
    /// The time to the end of this stage if every iteration is done; it may end earlier.
    pub seconds_left: Option<f64>,
    /// Processor time of the process so far.
    pub cpu_seconds: f64,
}

/// The parts of a job, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The data set is read and encoded.
    Reading,
    /// The parameters are fitted.
    Fitting,
    /// The metrics are computed.
    Evaluating,
    /// The model is written.
    Writing,
}

/// The end of a job that went well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What was trained.
    pub artefact: Artefact,
    /// Processor time of the whole process.
    pub cpu_seconds: f64,
    /// Time from the start of the process's work to its end.
    pub wall_seconds: f64,
}

/// The end of a job that did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What went wrong, and what to do next.
    pub error: String,
}

/// Writes events, and the newest progress at most five times and at least once a second.
///
/// A thread of its own does so, for one iteration may last longer than a second.
#[derive(Debug)]
pub struct Reporter<W> {
    shared: Arc<Shared<W>>,
    stop: mpsc::Sender<()>,
    ticker: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<W> {
    output: Mutex<W>,
    newest: Mutex<(Option<Progress>, bool)>,
}

impl<W: Write + Send + 'static> Reporter<W> {
    /// Starts the thread.
    pub fn start(output: W) -> Reporter<W> {
        let shared = Arc::new(Shared { output: Mutex::new(output), newest: Mutex::new((None, false)) });
        let (stop, stopped) = mpsc::channel();
        let ticker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.tick(&stopped))
        };
        Reporter { shared, stop, ticker: Some(ticker) }
    }

    /// Takes note of where the job is; this is cheap.
    pub fn progress(&self, progress: Progress) {
        *self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner) = (Some(progress), true);
    }

    /// Writes the newest progress once more, for the processor time up to now, then the job's end.
    pub fn finish(mut self, end: &Event) -> io::Result<()> {
        // The receiver is gone only if the thread is, and then there is nobody to stop.
        let _ = self.stop.send(());
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
        self.shared.report(true)?;
        self.shared.write(end)
    }
}

impl<W: Write> Shared<W> {
    fn tick(&self, stopped: &mpsc::Receiver<()>) {
        let mut last = Instant::now();
        while stopped.recv_timeout(SHORTEST_GAP) == Err(RecvTimeoutError::Timeout) {
            // A server that no longer listens has ended; the watch on the standard input ends this process then.
            if self.report(last.elapsed() + SHORTEST_GAP > LONGEST_GAP).unwrap_or(false) {
                last = Instant::now();
            }
        }
    }

    /// Writes the newest progress if it is new, or `anyway`; tells whether it wrote.
    fn report(&self, anyway: bool) -> io::Result<bool> {
        let progress = {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            let (Some(progress), fresh) = &mut *newest else { return Ok(false) };
            if !*fresh && !anyway {
                return Ok(false);
            }
            *fresh = false;
            progress.clone()
        };
        self.write(&Event::Progress(Progress { cpu_seconds: cpu_seconds(), ..progress }))?;
        Ok(true)
    }

    fn write(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&line)?;
        output.flush()
    }
}

/// Processor time of this process so far, all threads together.
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn events(&self) -> Vec<Event> {
            let bytes = self.0.lock().unwrap().clone();
            String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    fn progress(iteration: u64) -> Progress {
        Progress {
            stage: Stage::Fitting,
            iteration,
            of: 10_000,
            loss: Some(0.5),
            validation_loss: None,
            rows_per_second: Some(1e6),
            seconds_left: Some(1.0),
            cpu_seconds: 0.0,
        }
    }

    #[test]
    fn progress_is_reported_neither_too_often_nor_too_seldom() {
        let lines = Lines::default();
        let reporter = Reporter::start(lines.clone());
        let start = Instant::now();
        let mut iteration = 0;
        while start.elapsed() < Duration::from_millis(700) {
            iteration += 1;
            reporter.progress(progress(iteration));
            thread::sleep(Duration::from_millis(1));
        }
        // From here on the job is silent, and the reports must not be.
        thread::sleep(Duration::from_millis(1300));
        reporter.finish(&Event::Failed(Failed { error: "enough".into() })).unwrap();
        let events = lines.events();
        assert!((4..=10).contains(&events.len()), "{} events", events.len());
        assert_eq!(events.last(), Some(&Event::Failed(Failed { error: "enough".into() })));
        let Event::Progress(last) = &events[events.len() - 2] else { panic!("not progress") };
        assert_eq!(last.iteration, iteration);
        assert!(last.cpu_seconds > 0.0);
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let line = serde_json::to_value(Event::Progress(progress(3))).unwrap();
        assert_eq!(line["event"], "progress");
        assert_eq!(line["stage"], "fitting");
        assert_eq!(line["iteration"], 3);
        assert_eq!(line["validation_loss"], serde_json::Value::Null);
    }
}
