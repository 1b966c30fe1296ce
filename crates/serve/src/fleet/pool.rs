//! Which instance a call goes to: a policy without a clock or a model.
//!
//! The one with the least work in hand, and of prompts the one that has read most of what they begin with, unless others
//! have much less to do. An instance that does not answer gets no calls until it answers again for a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::prefixes::Prefixes;

/// How often in a row an instance may fail to say that it is well, before it gets no more calls.
const MISSED: u32 = 2;
/// How often in a row it must say so until it gets calls again.
const PASSED: u32 = 2;
/// An instance that was not well for so long is replaced.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// How many calls more than the least busy one an instance may have in hand and still be chosen for what it has read
/// already: to wait for a place in a step costs less than to read a prompt again, to wait behind a crowd more.
const WORTH_CALLS: usize = 4;

/// The instances of one revision.
pub(super) struct Pool<I> {
    seats: BTreeMap<u64, Seat<I>>,
    next: u64,
    /// Calls that were given out so far.
    turn: u64,
    prefixes: Prefixes,
}

struct Seat<I> {
    instance: I,
    outstanding: usize,
    health: Health,
    /// When it was chosen last.
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
enum Health {
    /// It gets calls.
    Well { missed: u32 },
    /// It gets none until it is well again.
    Ejected { passed: u32, since: Instant },
    /// It gets none, and goes when its last is answered.
    Leaving,
}

/// How an instance fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// It gets calls.
    Ready,
    /// It does not answer, and gets no calls.
    Ejected,
    /// It answers its last calls.
    Leaving,
}

/// What changed for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Ejected,
    Readmitted,
}

impl<I: Clone> Pool<I> {
    pub(super) fn new() -> Pool<I> {
        Pool { seats: BTreeMap::new(), next: 0, turn: 0, prefixes: Prefixes::default() }
    }

    /// An instance that is ready; what it is called here.
    pub(super) fn join(&mut self, instance: I) -> u64 {
        let key = self.next;
        self.next += 1;
        let (health, turn) = (Health::Well { missed: 0 }, self.turn);
        self.seats.insert(key, Seat { instance, outstanding: 0, health, turn });
        key
    }

    /// Takes an instance out, whatever it has in hand.
    pub(super) fn remove(&mut self, key: u64) -> Option<I> {
        self.prefixes.forget(key);
        self.seats.remove(&key).map(|seat| seat.instance)
    }

    /// The instance for a call with these marks of its prompt, none for other calls, which now has it in hand; not one of
    /// those that it was given to in vain.
    pub(super) fn choose(&mut self, marks: &[u64], tried: &[u64]) -> Option<(u64, I)> {
        let usable = |(key, seat): (&u64, &Seat<I>)| {
            let is_usable = matches!(seat.health, Health::Well { .. }) && !tried.contains(key);
            is_usable.then_some((*key, seat.outstanding, seat.turn))
        };
        let usable: Vec<(u64, usize, u64)> = self.seats.iter().filter_map(usable).collect();
        let least = usable.iter().map(|(_, outstanding, _)| *outstanding).min()?;
        let known = self.prefixes.known(marks);
        let read = |key: u64, outstanding: usize| match outstanding <= least + WORTH_CALLS {
            true => known.get(&key).copied().unwrap_or(0),
            false => 0,
        };
        // The most read first, then the least to do, then the one that has waited longest.
        let best = usable
            .into_iter()
            .min_by_key(|(key, outstanding, turn)| (std::cmp::Reverse(read(*key, *outstanding)), *outstanding, *turn));
        let (key, ..) = best?;
        self.turn += 1;
        self.prefixes.learn(marks, key);
        let seat = self.seats.get_mut(&key)?;
        (seat.outstanding, seat.turn) = (seat.outstanding + 1, self.turn);
        Some((key, seat.instance.clone()))
    }

    /// A call is not in an instance's hands any more.
    pub(super) fn done(&mut self, key: u64) {
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.outstanding = seat.outstanding.saturating_sub(1);
        }
    }

    /// What an instance said, or did not say, when it was asked how it is.
    pub(super) fn asked(&mut self, key: u64, is_well: bool, now: Instant) -> Option<Change> {
        let seat = self.seats.get_mut(&key)?;
        let (health, change) = match (seat.health, is_well) {
            (Health::Well { .. }, true) => (Health::Well { missed: 0 }, None),
            (Health::Well { missed }, false) if missed + 1 < MISSED => (Health::Well { missed: missed + 1 }, None),
            (Health::Well { .. }, false) => (Health::Ejected { passed: 0, since: now }, Some(Change::Ejected)),
            (Health::Ejected { passed, since }, true) if passed + 1 < PASSED => {
                (Health::Ejected { passed: passed + 1, since }, None)
            }
            (Health::Ejected { .. }, true) => (Health::Well { missed: 0 }, Some(Change::Readmitted)),
            (Health::Ejected { since, .. }, false) => (Health::Ejected { passed: 0, since }, None),
            (Health::Leaving, _) => (Health::Leaving, None),
        };
        seat.health = health;
        change
    }

    /// An instance lost a call, or could not be reached: it gets no more before it says that it is well.
    pub(super) fn eject(&mut self, key: u64, now: Instant) -> Option<Change> {
        let seat = self.seats.get_mut(&key)?;
        let Health::Well { .. } = seat.health else { return None };
        seat.health = Health::Ejected { passed: 0, since: now };
        Some(Change::Ejected)
    }

    /// The instances that have not been well for so long that others are to take their place.
    pub(super) fn given_up(&self, now: Instant) -> Vec<u64> {
        let is_over = |seat: &Seat<I>| match seat.health {
            Health::Ejected { since, .. } => now.saturating_duration_since(since) >= GIVEN_UP,
            _ => false,
        };
        self.seats.iter().filter(|(_, seat)| is_over(seat)).map(|(key, _)| *key).collect()
    }

    /// Lets the instance go that will be missed least, one that gets no calls anyway or has the fewest in hand.
    pub(super) fn dismiss(&mut self) -> Option<u64> {
        let staying = self.seats.iter_mut().filter(|(_, seat)| !matches!(seat.health, Health::Leaving));
        let (key, seat) =
            staying.min_by_key(|(_, seat)| (matches!(seat.health, Health::Well { .. }), seat.outstanding))?;
        seat.health = Health::Leaving;
        Some(*key)
    }

    /// Whether an instance has no call in hand.
    pub(super) fn is_idle(&self, key: u64) -> bool {
        self.seats.get(&key).is_none_or(|seat| seat.outstanding == 0)
    }

    /// All instances, with what they are called, how they fare, and how many calls each has in hand.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, &I, InstanceState, usize)> {
        self.seats.iter().map(|(key, seat)| {
            let state = match seat.health {
                Health::Well { .. } => InstanceState::Ready,
                Health::Ejected { .. } => InstanceState::Ejected,
                Health::Leaving => InstanceState::Leaving,
            };
            (*key, &seat.instance, state, seat.outstanding)
        })
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
