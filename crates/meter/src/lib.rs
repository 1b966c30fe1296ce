//! Sensors, attribution of energy, and the ledger.
//!
//! A [`Sensor`] says what the machine draws; the books split every interval into idle energy, the energy that requests
//! and training jobs account for, and what is left over; the [`Ledger`] keeps the sums. Every figure carries its source
//! and whether it was measured or estimated.

#![forbid(unsafe_code)]

mod meter;

mod books;
mod measured;
mod pending;
mod probe;
mod rates;
mod totals;

mod sensor;

mod power_model;
mod rapl;

mod ledger;
mod usage;

mod cpu;
mod error;
mod process;

pub use cpu::{
    CpuModel, HostCpu, child_cpu_seconds, cpu_count, host_cpu, memory_bytes, process_cpu_seconds, thread_cpu_seconds,
    threads_cpu_seconds,
};
pub use error::{Error, Result};
pub use ledger::Ledger;
pub use meter::Meter;
pub use power_model::{MEMORY_WATTS_PER_BYTE, PowerModel};
pub use process::{ProcessUse, process_use};
pub use rapl::Rapl;
pub use rates::Range;
pub use sensor::{Sensor, SensorConfig, SensorDescription};
pub use totals::Total;
pub use usage::{By, UsageLine, UsageQuery};
