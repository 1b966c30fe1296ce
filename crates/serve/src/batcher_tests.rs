#![allow(clippy::unwrap_used)]

use std::{cell::Cell, collections::BTreeSet, rc::Rc};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Call {
    id: usize,
    rows: usize,
    shape: u8,
    gone: Rc<Cell<bool>>,
}

impl PartialEq for Call {
    fn eq(&self, other: &Call) -> bool {
        self.id == other.id
    }
}

impl Waiting for Call {
    fn rows(&self) -> usize {
        self.rows
    }

    fn mixes_with(&self, other: &Call) -> bool {
        self.shape == other.shape
    }

    fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

fn call(id: usize, rows: usize, shape: u8) -> Call {
    Call { id, rows, shape, gone: Rc::default() }
}

fn limits(max_rows: usize, max_delay_ms: u64) -> BatchLimits {
    BatchLimits { max_rows, max_delay: Duration::from_millis(max_delay_ms) }
}

/// A batcher and a clock that only the test moves.
struct Desk {
    batcher: Batcher<Call>,
    now: Instant,
}

impl Desk {
    fn new(limits: BatchLimits) -> Desk {
        Desk { batcher: Batcher::new(limits), now: Instant::now() }
    }

    fn push(&mut self, call: &Call, priority: Priority, deadline: Option<Duration>) {
        let deadline = deadline.map(|time| self.now + time);
        self.batcher.push(Entry { call: call.clone(), priority, since: self.now, deadline });
    }

    fn interactive(&mut self, call: &Call) {
        self.push(call, Priority::Interactive, None);
    }

    fn next(&mut self) -> Next<Call> {
        self.batcher.next(self.now)
    }

    fn batch(&mut self) -> Vec<usize> {
        match self.next() {
            Next::Batch(calls) => calls.into_iter().map(|call| call.id).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

#[test]
fn what_waits_is_computed_at_once_and_together() {
    let mut desk = Desk::new(limits(8, 0));
    assert_eq!(desk.next(), Next::Idle);
    for id in 0..3 {
        desk.interactive(&call(id, 2, 0));
    }
    assert_eq!(desk.batch(), [0, 1, 2]);
    assert_eq!(desk.next(), Next::Idle);
}

#[test]
fn a_batch_waits_for_company_only_as_long_as_it_may() {
    let mut desk = Desk::new(limits(4, 10));
    desk.interactive(&call(0, 1, 0));
    let until = desk.now + Duration::from_millis(10);
    assert_eq!(desk.next(), Next::Wait(until));
    desk.pass(5);
    desk.interactive(&call(1, 1, 0));
    assert_eq!(desk.next(), Next::Wait(until), "the first call decides");
    desk.pass(5);
    assert_eq!(desk.batch(), [0, 1]);
    desk.interactive(&call(2, 4, 0));
    assert_eq!(desk.batch(), [2], "a full batch does not wait");
}

#[test]
fn a_deadline_shortens_the_wait_for_company() {
    let mut desk = Desk::new(limits(4, 1000));
    desk.push(&call(0, 1, 0), Priority::Interactive, Some(Duration::from_millis(20)));
    assert_eq!(desk.next(), Next::Wait(desk.now + Duration::from_millis(10)));
}

#[test]
fn shapes_do_not_mix_and_nobody_is_passed_by_the_same_shape() {
    let mut desk = Desk::new(limits(4, 0));
    for (id, rows, shape) in [(0, 1, 0), (1, 1, 1), (2, 2, 0), (3, 3, 0), (4, 1, 0)] {
        desk.interactive(&call(id, rows, shape));
    }
    assert_eq!(desk.batch(), [0, 2], "3 does not fit, and 4 does not pass it");
    assert_eq!(desk.batch(), [1]);
    assert_eq!(desk.batch(), [3, 4]);
}

#[test]
fn a_call_with_more_rows_than_a_batch_is_computed_alone() {
    let mut desk = Desk::new(limits(4, 50));
    desk.interactive(&call(0, 100, 0));
    desk.interactive(&call(1, 1, 0));
    assert_eq!(desk.batch(), [0]);
}

#[test]
fn who_left_or_is_too_late_is_not_computed() {
    let mut desk = Desk::new(limits(8, 0));
    let left = call(0, 1, 0);
    desk.interactive(&left);
    desk.push(&call(1, 1, 0), Priority::Interactive, Some(Duration::from_millis(3)));
    desk.interactive(&call(2, 1, 0));
    left.gone.set(true);
    desk.pass(3);
    assert_eq!(desk.batch(), [2]);
}

#[test]
fn who_left_does_not_pile_up() {
    let mut desk = Desk::new(limits(8, 0));
    for id in 0..10_000 {
        let left = call(id, 1, 0);
        desk.interactive(&left);
        left.gone.set(true);
    }
    assert!(desk.batcher.interactive.len() <= 2 * SWEEP_AT_LEAST, "{}", desk.batcher.interactive.len());
}

#[test]
fn the_lower_class_waits_for_the_higher_but_not_for_ever() {
    let mut desk = Desk::new(limits(1, 0));
    desk.push(&call(0, 1, 0), Priority::Batch, None);
    desk.interactive(&call(1, 1, 0));
    assert_eq!(desk.batch(), [1]);
    desk.pass(1000);
    desk.interactive(&call(2, 1, 0));
    assert_eq!(desk.batch(), [0]);
    assert_eq!(desk.batch(), [2]);
}

#[derive(Debug, Clone)]
enum Event {
    Push { rows: usize, shape: u8, lower: bool, deadline_ms: Option<u64> },
    Leave(usize),
    Pass(u64),
    Next,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..6_usize, 0..3_u8, any::<bool>(), proptest::option::of(1..2000_u64))
            .prop_map(|(rows, shape, lower, deadline_ms)| Event::Push { rows, shape, lower, deadline_ms }),
        1 => (0..40_usize).prop_map(Event::Leave),
        1 => (0..1500_u64).prop_map(Event::Pass),
        3 => Just(Event::Next),
    ]
}

proptest! {
    /// Nothing is lost, nothing computed twice, the bounds hold, shapes do not mix, and within a class and a shape the
    /// order stays.
    #[test]
    fn every_call_is_computed_once_or_over(
        events in proptest::collection::vec(event(), 0..120),
        max_rows in 1..8_usize,
        max_delay_ms in prop_oneof![Just(0_u64), 1..50_u64],
    ) {
        let mut desk = Desk::new(limits(max_rows, max_delay_ms));
        let mut calls: Vec<(Call, Priority, Option<Instant>)> = Vec::new();
        let mut computed = BTreeSet::new();
        let mut last = std::collections::BTreeMap::new();
        let mut check = |desk: &mut Desk, calls: &[(Call, Priority, Option<Instant>)]| -> Result<bool, TestCaseError> {
            match desk.next() {
                Next::Idle => Ok(false),
                Next::Wait(until) => {
                    prop_assert!(until > desk.now && max_delay_ms > 0);
                    desk.now = until;
                    Ok(true)
                }
                Next::Batch(batch) => {
                    prop_assert!(!batch.is_empty());
                    let rows: usize = batch.iter().map(|call| call.rows).sum();
                    prop_assert!(rows <= max_rows || batch.len() == 1);
                    for call in &batch {
                        let (_, priority, deadline) = &calls[call.id];
                        prop_assert!(call.shape == batch[0].shape && !call.gone.get());
                        prop_assert!(deadline.is_none_or(|deadline| deadline > desk.now));
                        prop_assert!(computed.insert(call.id), "computed twice");
                        let before = last.insert((*priority as u8, call.shape), call.id);
                        prop_assert!(before.is_none_or(|before| before < call.id), "out of order");
                    }
                    Ok(true)
                }
            }
        };
        for event in events {
            match event {
                Event::Push { rows, shape, lower, deadline_ms } => {
                    let one = call(calls.len(), rows, shape);
                    let priority = if lower { Priority::Batch } else { Priority::Interactive };
                    let deadline = deadline_ms.map(Duration::from_millis);
                    desk.push(&one, priority, deadline);
                    calls.push((one, priority, deadline.map(|time| desk.now + time)));
                }
                Event::Leave(id) => if let Some((call, ..)) = calls.get(id) {
                    call.gone.set(true);
                },
                Event::Pass(ms) => desk.pass(ms),
                Event::Next => {
                    check(&mut desk, &calls)?;
                }
            }
        }
        while check(&mut desk, &calls)? {}
        for (call, _, deadline) in &calls {
            let over = call.gone.get() || deadline.is_some_and(|deadline| deadline <= desk.now);
            prop_assert!(computed.contains(&call.id) || over, "call {} was lost", call.id);
        }
    }
}
