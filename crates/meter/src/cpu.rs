use std::{fs, path::Path, thread};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Processor time of the calling thread so far, in seconds.
pub fn thread_cpu_seconds() -> f64 {
    clock_seconds(ClockId::ThreadCPUTime)
}

/// Processor time of other threads of this process so far, in seconds, by their ids; a thread that has ended counts as none.
pub fn threads_cpu_seconds(ids: &[i32]) -> f64 {
    // The first figure of the scheduler's statistics is time on a processor, in nanoseconds.
    let nanos = |id: &i32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    ids.iter().filter_map(nanos).map(|nanos| nanos as f64 / 1e9).sum()
}

/// Processor time of all threads of this process so far, in seconds; children report their own.
pub fn process_cpu_seconds() -> f64 {
    clock_seconds(ClockId::ProcessCPUTime)
}

/// Processor time of a child of this process so far, in seconds, to the tick (usually 10 ms). A child that has ended can
/// be asked until its parent waits for it; `None` when there is no such process.
pub fn child_cpu_seconds(id: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the program's name, in parentheses, and may hold anything; utime and stime are the 14th and 15th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// How many processors this process may use: the machine's, less what affinity or a container's quota withholds.
pub fn cpu_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Memory provisioned for this process, in bytes: the machine's, or the container's limit where that is less.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn memory_bytes() -> Result<u64> {
    let path = Path::new("/proc/meminfo");
    let text = read(path)?;
    let host = meminfo_bytes(&text).ok_or_else(|| unexpected(path, &text))?;
    // The second version of control groups says "max" where there is no limit.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Ok(limit.map_or(host, |limit: u64| limit.min(host)))
}

/// Processor time of the whole machine, summed over its processors, since it started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HostCpu {
    /// Time in which a processor worked, in seconds.
    pub busy_seconds: f64,
    /// All time, idle or not, in seconds.
    pub total_seconds: f64,
}

/// Reads the machine's processor time out of `/proc/stat`.
///
/// # Errors
/// When the file cannot be read, which only happens away from Linux or in a strict sandbox.
pub fn host_cpu() -> Result<HostCpu> {
    let path = Path::new("/proc/stat");
    let text = read(path)?;
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    HostCpu::parse(&text, ticks_per_second).ok_or_else(|| unexpected(path, &text))
}

impl HostCpu {
    /// The first line holds ticks of user, nice, system, idle, iowait, irq, softirq and steal; guests' time is part of
    /// user's. Stolen time went to other machines, so it counts neither as busy nor as ours to be idle in.
    fn parse(text: &str, ticks_per_second: f64) -> Option<HostCpu> {
        let ticks: Vec<f64> =
            text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [user, nice, system, idle, rest @ ..] = ticks.as_slice() else { return None };
        let at = |index: usize| rest.get(index).copied().unwrap_or(0.0);
        let busy = user + nice + system + at(1) + at(2);
        Some(HostCpu { busy_seconds: busy / ticks_per_second, total_seconds: (busy + idle + at(0)) / ticks_per_second })
    }
}

/// Which processor this is, as far as the power model's table needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuModel {
    /// `AuthenticAMD`, `GenuineIntel`, or the implementer's number on ARM (`0x41`).
    pub vendor: String,
    /// The family's number; 0 on ARM.
    pub family: u32,
    /// The model's number; the part's on ARM.
    pub model: u32,
    /// The stepping, which alone tells Skylake from Cascade Lake.
    pub stepping: u32,
    /// What the processor calls itself; empty on ARM.
    pub name: String,
}

impl CpuModel {
    /// Reads the first processor of `/proc/cpuinfo`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read() -> Result<CpuModel> {
        Ok(CpuModel::parse(&read(Path::new("/proc/cpuinfo"))?))
    }

    /// Takes what it finds out of the text of `/proc/cpuinfo`; what is missing stays zero or empty.
    pub fn parse(text: &str) -> CpuModel {
        let mut cpu = CpuModel::default();
        let first = text.split("\n\n").next().unwrap_or_default();
        for (key, value) in first.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key.trim() {
                "vendor_id" | "CPU implementer" => cpu.vendor = value.to_owned(),
                "cpu family" => cpu.family = number(value),
                "model" | "CPU part" => cpu.model = number(value),
                "stepping" => cpu.stepping = number(value),
                "model name" => cpu.name = value.to_owned(),
                _ => {}
            }
        }
        cpu
    }
}

fn number(text: &str) -> u32 {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16));
    parsed.unwrap_or(0)
}

fn clock_seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn meminfo_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Sensor { path: path.to_owned(), source })
}

fn unexpected(path: &Path, text: &str) -> Error {
    Error::SensorText { path: path.to_owned(), text: text.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_machines_time_is_read() {
        let cpu = HostCpu::parse("cpu  100 20 30 400 50 6 7 8 9 0\ncpu0 1 2\n", 100.0).unwrap();
        assert_eq!((cpu.busy_seconds, cpu.total_seconds), (1.63, 6.13));
        assert_eq!(HostCpu::parse("cpu  1 2", 100.0), None);
        assert_eq!(HostCpu::parse("", 100.0), None);
        assert!(host_cpu().unwrap().busy_seconds > 0.0);
    }

    #[test]
    fn a_threads_work_shows_on_both_clocks() {
        // The process's clock is read first and last, so that its interval holds the thread's.
        let process = process_cpu_seconds();
        let thread = thread_cpu_seconds();
        let mut sum = 0u64;
        while thread_cpu_seconds() - thread < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_cpu_seconds() - process >= 0.009);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(meminfo_bytes("MemTotal:       24684084 kB\nMemFree: 1 kB"), Some(24_684_084 * 1024));
        assert_eq!(meminfo_bytes("MemFree: 1 kB"), None);
        assert!(memory_bytes().unwrap() > 1 << 20);
        assert!(cpu_count() >= 1);
    }

    #[test]
    fn arm_gives_implementer_and_part() {
        let cpu = CpuModel::parse("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\nprocessor\t: 1\n");
        assert_eq!((cpu.vendor.as_str(), cpu.model), ("0x41", 0xd0c));
    }
}
