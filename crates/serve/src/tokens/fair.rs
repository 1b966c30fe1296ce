//! Who is next: by turns among tenants, and eight times as often those for whom somebody waits (start-time fair queueing,
//! Goyal et al. 1996, with tokens for time).

use std::collections::{BTreeMap, VecDeque};

use crate::Priority;

/// Flows that nobody waits in are forgotten beyond so many.
const MOST_FLOWS: usize = 1024;

/// Those whose calls take turns with others'.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    tenant: Option<String>,
    is_batch: bool,
}

/// What waits, by flow.
#[derive(Debug)]
pub(super) struct Fair<T> {
    flows: BTreeMap<Flow, State<T>>,
    now: f64,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// What it has had, by its weight.
    time: f64,
}

/// A place of one that waits.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    flow: Flow,
    index: usize,
}

impl Flow {
    pub(super) fn new(tenant: Option<&str>, priority: Priority) -> Flow {
        Flow { tenant: tenant.map(str::to_owned), is_batch: priority == Priority::Batch }
    }

    fn weight(&self) -> f64 {
        if self.is_batch { 1.0 } else { 8.0 }
    }
}

impl<T> Fair<T> {
    pub(super) fn new() -> Fair<T> {
        Fair { flows: BTreeMap::new(), now: 0.0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.values().all(|state| state.waiting.is_empty())
    }

    pub(super) fn push(&mut self, flow: Flow, item: T) {
        if self.flows.len() >= MOST_FLOWS {
            self.flows.retain(|_, state| !state.waiting.is_empty());
        }
        let now = self.now;
        let state = self.flows.entry(flow).or_insert_with(|| State { waiting: VecDeque::new(), time: now });
        if state.waiting.is_empty() {
            // Nobody saves up turns by staying away.
            state.time = state.time.max(now);
        }
        state.waiting.push_back(item);
    }

    /// Who is next of those that are ready: the first of the flow that has had the least.
    pub(super) fn next(&self, mut is_ready: impl FnMut(&T) -> bool) -> Option<Slot> {
        let mut flows: Vec<(&Flow, &State<T>)> = self.flows.iter().collect();
        flows.sort_by(|(_, one), (_, other)| one.time.total_cmp(&other.time));
        flows.into_iter().find_map(|(flow, state)| {
            let index = state.waiting.iter().position(&mut is_ready)?;
            Some(Slot { flow: flow.clone(), index })
        })
    }

    pub(super) fn get(&self, slot: &Slot) -> Option<&T> {
        self.flows.get(&slot.flow)?.waiting.get(slot.index)
    }

    /// Takes one out, which is going to have so many tokens.
    pub(super) fn take(&mut self, slot: &Slot, tokens: f64) -> Option<T> {
        let state = self.flows.get_mut(&slot.flow)?;
        let item = state.waiting.remove(slot.index)?;
        self.now = self.now.max(state.time);
        state.time += tokens / slot.flow.weight();
        Some(item)
    }

    /// A flow had more.
    pub(super) fn charge(&mut self, flow: &Flow, tokens: f64) {
        if let Some(state) = self.flows.get_mut(flow) {
            state.time += tokens / flow.weight();
        }
    }

    /// Those that stay, of all that wait.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&mut T) -> bool) {
        for state in self.flows.values_mut() {
            state.waiting.retain_mut(&mut stays);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn order(fair: &mut Fair<(&'static str, u32)>, count: usize) -> Vec<&'static str> {
        let mut order = Vec::new();
        for _ in 0..count {
            let Some(slot) = fair.next(|_| true) else { break };
            order.push(fair.take(&slot, 100.0).unwrap().0);
        }
        order
    }

    #[test]
    fn one_who_sends_much_does_not_hold_up_one_who_sends_little() {
        let mut fair = Fair::new();
        for number in 0..100 {
            fair.push(Flow::new(Some("loud"), Priority::Interactive), ("loud", number));
        }
        assert_eq!(order(&mut fair, 10), ["loud"; 10]);
        for number in 0..3 {
            fair.push(Flow::new(Some("quiet"), Priority::Interactive), ("quiet", number));
        }
        let next = order(&mut fair, 6);
        assert_eq!(next.iter().filter(|name| **name == "quiet").count(), 3, "{next:?}");
    }

    #[test]
    fn what_nobody_waits_for_comes_eight_times_less_often_but_comes() {
        let mut fair = Fair::new();
        for number in 0..90 {
            fair.push(Flow::new(None, Priority::Batch), ("batch", number));
            fair.push(Flow::new(None, Priority::Interactive), ("person", number));
        }
        let batch = order(&mut fair, 90).iter().filter(|name| **name == "batch").count();
        assert!((9..=11).contains(&batch), "{batch}");
    }

    #[test]
    fn one_that_is_not_ready_is_passed_over_and_keeps_its_place() {
        let mut fair = Fair::new();
        for number in 0..3 {
            fair.push(Flow::new(None, Priority::Interactive), ("a", number));
        }
        let slot = fair.next(|item| item.1 > 0).unwrap();
        assert_eq!(fair.take(&slot, 1.0).unwrap().1, 1);
        assert_eq!(fair.get(&fair.next(|_| true).unwrap()).unwrap().1, 0);
        fair.retain(|item| item.1 != 0);
        let slot = fair.next(|_| true).unwrap();
        assert_eq!(fair.take(&slot, 1.0).unwrap().1, 2);
        assert!(fair.is_empty());
    }
}
