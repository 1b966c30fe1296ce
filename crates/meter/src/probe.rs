use std::time::Instant;

use chrono::Utc;

use crate::{
    Rapl, Result, Sensor,
    books::Reading,
    cpu::{HostCpu, host_cpu, process_cpu_seconds},
};

/// Reads all clocks and counters at once.
pub(crate) trait Probe: Send + 'static {
    /// Reads them.
    ///
    /// # Errors
    /// When a counter cannot be read.
    fn read(&mut self) -> Result<Reading>;
}

/// The clocks and counters of this machine.
#[derive(Debug)]
pub(crate) struct Machine {
    start: Instant,
    rapl: Option<Rapl>,
}

impl Machine {
    pub(crate) fn new(sensor: Sensor) -> Machine {
        let rapl = match sensor {
            Sensor::Rapl(rapl) => Some(rapl),
            Sensor::Configured { .. } | Sensor::Model(_) => None,
        };
        Machine { start: Instant::now(), rapl }
    }
}

impl Probe for Machine {
    fn read(&mut self) -> Result<Reading> {
        let (host_cpu, host_joules) = match &mut self.rapl {
            Some(rapl) => (host_cpu()?, rapl.joules()?),
            None => (HostCpu { busy_seconds: 0.0, total_seconds: 0.0 }, 0.0),
        };
        Ok(Reading {
            seconds: self.start.elapsed().as_secs_f64(),
            minute: minute_now(),
            process_cpu_seconds: process_cpu_seconds(),
            host_cpu,
            host_joules,
        })
    }
}

/// The clock on the wall, in minutes since 1970 (UTC).
pub(crate) fn minute_now() -> i64 {
    Utc::now().timestamp().div_euclid(60)
}
