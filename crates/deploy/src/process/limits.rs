use std::io;

use rustix::{
    process::{Pid, Resource, Rlimit, prlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use tokio::process::Child;

use super::cgroup::{Group, Groups};

/// What a process may take at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Processors; 1.5 are one and a half.
    pub processors: Option<f64>,
}

/// By what limits hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// There are none, or none could be set.
    None,
    /// A control group: memory in all its forms, and any share of a processor.
    Cgroup,
    /// A resource limit on the memory that the process allocates, and as many whole processors as the limit needs.
    AffinityAndRlimit,
}

impl Enforced {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Enforced::None => "none",
            Enforced::Cgroup => "cgroup",
            Enforced::AffinityAndRlimit => "affinity and rlimit",
        }
    }
}

impl Limits {
    /// Lets a process that has just started have no more than this, by the best means that there are here.
    pub(super) fn hold(self, child: &Child, groups: Option<&Groups>, number: u64) -> (Enforced, Option<Group>) {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else { return (Enforced::None, None) };
        if let Some(groups) = groups {
            match groups.put(id, self, number) {
                Ok(group) => return (Enforced::Cgroup, Some(group)),
                Err(error) => tracing::warn!(%error, "no control group for a process: its limits hold otherwise"),
            }
        }
        match self.hold_alone(id, number) {
            Ok(()) => (Enforced::AffinityAndRlimit, None),
            Err(error) => {
                tracing::error!(%error, "the limits of a process could not be set");
                (Enforced::None, None)
            }
        }
    }

    fn hold_alone(self, id: Pid, number: u64) -> io::Result<()> {
        if let Some(bytes) = self.memory_bytes {
            // Of what a process maps this counts what it may write to and shares with nobody: not the libraries, nor
            // room that an allocator only keeps for later.
            prlimit(Some(id), Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
        }
        if let Some(processors) = self.processors {
            let usable = sched_getaffinity(None)?;
            sched_setaffinity(Some(id), &some_of(&usable, processors, number))?;
        }
        Ok(())
    }
}

/// As many of the usable processors as the limit needs; from process to process others.
fn some_of(usable: &CpuSet, processors: f64, number: u64) -> CpuSet {
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| usable.is_set(*cpu)).collect();
    let count = (processors.ceil() as usize).clamp(1, usable.len().max(1));
    let first = (number % usable.len().max(1) as u64) as usize * count;
    let mut some = CpuSet::new();
    for cpu in usable.iter().cycle().skip(first % usable.len().max(1)).take(count) {
        some.set(*cpu);
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_spread_over_the_usable_processors() {
        let mut usable = CpuSet::new();
        [1, 2, 5, 7].into_iter().for_each(|cpu| usable.set(cpu));
        let chosen = |processors, number| -> Vec<usize> {
            let some = some_of(&usable, processors, number);
            (0..CpuSet::MAX_CPU).filter(|cpu| some.is_set(*cpu)).collect()
        };
        assert_eq!(chosen(0.5, 0), [1]);
        assert_eq!(chosen(1.0, 1), [2]);
        assert_eq!(chosen(1.5, 0), [1, 2]);
        assert_eq!(chosen(2.0, 1), [5, 7]);
        assert_eq!(chosen(2.0, 2), [1, 2]);
        assert_eq!(chosen(100.0, 3), [1, 2, 5, 7]);
    }
}
