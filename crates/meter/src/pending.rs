use std::{collections::HashMap, sync::Arc};

use wattle_core::{Activity, Energy, Label, Name, Usage};

use crate::{
    books::Attributed,
    totals::{Total, Totals},
};

/// Sums that wait to be written to the ledger.
///
/// The ledger may fail for hours (a full disk) and memory stays bounded all the same: beyond [`MAX_KEYS`] minutes
/// become days, and if even that does not do, names are left out. Sums are never lost.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    sums: HashMap<Key, Sums>,
    attributed: Attributed,
    totals: Totals,
    /// Making days of minutes did not help any more.
    full: bool,
}

/// What one row of the ledger stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Since 1970, in UTC.
    pub(crate) minute: i64,
    pub(crate) activity: Activity,
    pub(crate) deployment: Option<Name>,
    pub(crate) model: Option<Name>,
    pub(crate) version: Option<u32>,
    pub(crate) label: Label,
    pub(crate) source: Arc<str>,
}

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sums {
    pub(crate) requests: u64,
    pub(crate) rows: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) joules_low: f64,
    pub(crate) joules: f64,
    pub(crate) joules_high: f64,
}

/// More keys than this are not kept apart.
const MAX_KEYS: usize = 1 << 16;

const MINUTES_A_DAY: i64 = 24 * 60;

impl Pending {
    /// Adds one piece of work. Says whether nothing was waiting before.
    pub(crate) fn add(&mut self, minute: i64, usage: Usage) -> bool {
        match usage.activity {
            Activity::Predict | Activity::Load | Activity::Train => self.attribute(&usage),
            Activity::Idle | Activity::Unattributed => {}
        }
        self.totals.add(&usage);
        let first = self.sums.is_empty();
        let Usage { activity, deployment, model, version, requests, rows, cpu_seconds, energy, .. } = usage;
        let Energy { joules_low, joules, joules_high, label, source } = energy;
        let key = Key { minute, activity, deployment, model, version, label, source };
        self.insert(key, &Sums { requests, rows, cpu_seconds, joules_low, joules, joules_high });
        first
    }

    /// What was used since this process started.
    pub(crate) fn totals(&self) -> Vec<Total> {
        self.totals.list()
    }

    /// What requests and jobs accounted for since this was last asked.
    pub(crate) fn take_attributed(&mut self) -> Attributed {
        std::mem::take(&mut self.attributed)
    }

    /// Gives back what was taken and not used, because the sensor could not be read.
    pub(crate) fn put_back_attributed(&mut self, attributed: Attributed) {
        self.attributed.joules += attributed.joules;
        self.attributed.cpu_seconds += attributed.cpu_seconds;
        self.attributed.child_cpu_seconds += attributed.child_cpu_seconds;
    }

    /// Takes all that waits.
    pub(crate) fn drain(&mut self) -> HashMap<Key, Sums> {
        self.full = false;
        std::mem::take(&mut self.sums)
    }

    /// Gives back what could not be written.
    pub(crate) fn put_back(&mut self, sums: HashMap<Key, Sums>) {
        for (key, sums) in sums {
            self.insert(key, &sums);
        }
    }

    fn attribute(&mut self, usage: &Usage) {
        let child_cpu_seconds = if usage.in_child { usage.cpu_seconds } else { 0.0 };
        self.put_back_attributed(Attributed {
            joules: usage.energy.joules,
            cpu_seconds: usage.cpu_seconds,
            child_cpu_seconds,
        });
    }

    fn insert(&mut self, mut key: Key, sums: &Sums) {
        if self.sums.len() >= MAX_KEYS && !self.sums.contains_key(&key) {
            if !self.full {
                self.coarsen();
            }
            if self.full {
                key = Key { deployment: None, model: None, version: None, ..day(key) };
            }
        }
        self.sums.entry(key).or_default().add(sums);
    }

    fn coarsen(&mut self) {
        for (key, sums) in std::mem::take(&mut self.sums) {
            self.sums.entry(day(key)).or_default().add(&sums);
        }
        self.full = self.sums.len() > MAX_KEYS / 2;
    }
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.rows += other.rows;
        self.cpu_seconds += other.cpu_seconds;
        self.joules_low += other.joules_low;
        self.joules += other.joules;
        self.joules_high += other.joules_high;
    }
}

fn day(key: Key) -> Key {
    Key { minute: key.minute - key.minute.rem_euclid(MINUTES_A_DAY), ..key }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A request's usage, with figures that sum without rounding.
    pub(crate) fn request(deployment: &str) -> Usage {
        Usage {
            activity: Activity::Predict,
            deployment: Some(deployment.parse().unwrap()),
            model: Some("line".parse().unwrap()),
            version: Some(1),
            requests: 1,
            rows: 3,
            cpu_seconds: 0.125,
            in_child: false,
            energy: Energy {
                joules_low: 0.25,
                joules: 0.5,
                joules_high: 0.75,
                label: Label::Estimated,
                source: "test".into(),
            },
        }
    }

    #[test]
    fn memory_is_bounded_and_sums_are_kept() {
        let mut pending = Pending::default();
        let minutes = 3 * MAX_KEYS as i64;
        for minute in 0..minutes {
            pending.add(minute, request("a"));
        }
        assert!(pending.sums.len() <= MAX_KEYS);
        for index in 0..MAX_KEYS + 1000 {
            pending.add(minutes, request(&format!("d{index}")));
        }
        assert!(pending.sums.len() <= MAX_KEYS + 10);
        let drained = pending.drain();
        let requests: u64 = drained.values().map(|sums| sums.requests).sum();
        assert_eq!(requests, minutes as u64 + MAX_KEYS as u64 + 1000);
    }

    #[test]
    fn a_childs_time_is_told_from_the_servers() {
        let mut pending = Pending::default();
        assert!(pending.add(0, request("a")));
        assert!(!pending.add(0, Usage { activity: Activity::Train, in_child: true, ..request("a") }));
        pending.add(0, Usage { activity: Activity::Idle, ..request("a") });
        let attributed = pending.take_attributed();
        assert_eq!(attributed, Attributed { joules: 1.0, cpu_seconds: 0.25, child_cpu_seconds: 0.125 });
        assert_eq!(pending.take_attributed(), Attributed::default());
    }
}
