#![allow(clippy::unwrap_used)]
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const A: SequenceId = SequenceId(0);
const B: SequenceId = SequenceId(1);
const C: SequenceId = SequenceId(2);

#[test]
fn a_common_beginning_is_counted_once() {
    let (mut tree, now) = (Tree::default(), Instant::now());
    tree.begin(A);
    tree.append(A, &[1, 2, 3, 4, 5]);
    assert_eq!(tree.find(&[1, 2, 3, 9], true), Some(Found { sequence: A, length: 3, is_whole: false }));
    assert_eq!(tree.find(&[1, 2, 3, 9], false), None);
    tree.fork(A, B, 3, now);
    tree.append(B, &[9, 9]);
    assert_eq!((tree.used(), tree.shared(), tree.length(B)), (7, 3, 5));
    assert_eq!(tree.tokens(B), [1, 2, 3, 9, 9]);
    tree.keep(B, now);
    assert_eq!(tree.find(&[1, 2, 3, 9, 9, 9], false), Some(Found { sequence: B, length: 5, is_whole: true }));
    assert_eq!(tree.used_by_running(), 5);
    tree.remove(A);
    assert_eq!((tree.used(), tree.used_by_running(), tree.shared()), (5, 0, 0));
    tree.truncate(B, 1);
    assert_eq!((tree.used(), tree.tokens(B)), (1, vec![1]));
    tree.remove(B);
    assert_eq!(tree.used(), 0);
    assert!(tree.all().next().is_none() && tree.roots.is_empty());
}

#[test]
fn what_is_old_and_unused_goes_first_from_its_end() {
    let (mut tree, now) = (Tree::default(), Instant::now());
    let later = now + Duration::from_secs(100);
    for (sequence, at, first) in [(A, now, 1), (B, later, 2)] {
        tree.begin(sequence);
        tree.append(sequence, &vec![first; 200]);
        tree.keep(sequence, at);
    }
    assert_eq!(tree.least_valuable(10, true, later), Some(Victim { sequence: A, keep: 136 }));
    assert_eq!(tree.least_valuable(10, false, later), Some(Victim { sequence: A, keep: 0 }));
    tree.fork(A, C, 150, later);
    tree.append(C, &[7]);
    // Its beginning is used, so its own end goes, and what another one holds as well needs no sequence.
    assert_eq!(tree.least_valuable(10, true, later + Duration::from_secs(1)), Some(Victim { sequence: A, keep: 0 }));
    assert_eq!(tree.least_valuable_sequence(later), Some(A));
    tree.keep(C, later);
    assert_eq!(tree.reused(later), [(A, 150)]);
}

/// A sequence's tokens, each with a number of its own, and whether it grows.
type Held = (Vec<(Token, u64)>, bool);

#[derive(Debug, Clone)]
enum Act {
    Begin(u32),
    Fork(u32, u32, u32),
    Append(u32, Vec<Token>),
    Truncate(u32, u32),
    Keep(u32),
    Resume(u32),
    Remove(u32),
}

fn act() -> impl Strategy<Value = Act> {
    let id = 0_u32..6;
    prop_oneof![
        id.clone().prop_map(Act::Begin),
        (id.clone(), id.clone(), 0_u32..12).prop_map(|(from, to, length)| Act::Fork(from, to, length)),
        (id.clone(), prop::collection::vec(0_u32..3, 1..6)).prop_map(|(id, tokens)| Act::Append(id, tokens)),
        (id.clone(), 0_u32..12).prop_map(|(id, length)| Act::Truncate(id, length)),
        id.clone().prop_map(Act::Keep),
        id.clone().prop_map(Act::Resume),
        id.prop_map(Act::Remove),
    ]
}

proptest! {
    /// Beside a model that keeps each token of each sequence with a number of its own.
    #[test]
    fn cells_are_counted_exactly(acts in prop::collection::vec(act(), 0..60)) {
        let (mut tree, now) = (Tree::default(), Instant::now());
        let mut model: Vec<Option<Held>> = vec![None; 6];
        let mut numbers = 0..;
        for act in acts {
            match act {
                Act::Begin(id) if model[id as usize].is_none() => {
                    tree.begin(SequenceId(id));
                    model[id as usize] = Some((Vec::new(), true));
                }
                Act::Fork(from, to, length) if model[to as usize].is_none() => {
                    let Some((cells, _)) = model[from as usize].clone() else { continue };
                    tree.fork(SequenceId(from), SequenceId(to), length, now);
                    model[to as usize] = Some((cells.into_iter().take(length as usize).collect(), true));
                }
                Act::Append(id, tokens) => {
                    let Some((cells, true)) = &mut model[id as usize] else { continue };
                    tree.append(SequenceId(id), &tokens);
                    cells.extend(tokens.into_iter().map(|token| (token, numbers.next().unwrap())));
                }
                Act::Truncate(id, length) => {
                    let Some((cells, _)) = &mut model[id as usize] else { continue };
                    tree.truncate(SequenceId(id), length);
                    cells.truncate(length as usize);
                }
                Act::Keep(id) => {
                    let Some((_, runs)) = &mut model[id as usize] else { continue };
                    tree.keep(SequenceId(id), now);
                    *runs = false;
                }
                Act::Resume(id) => {
                    let Some((_, runs)) = &mut model[id as usize] else { continue };
                    tree.resume(SequenceId(id), now);
                    *runs = true;
                }
                Act::Remove(id) => {
                    tree.remove(SequenceId(id));
                    model[id as usize] = None;
                }
                _ => {}
            }
            let mut all: std::collections::BTreeMap<u64, (u32, bool)> = Default::default();
            for (cells, runs) in model.iter().flatten() {
                for (_, number) in cells {
                    let held = all.entry(*number).or_default();
                    *held = (held.0 + 1, held.1 || *runs);
                }
            }
            prop_assert_eq!(tree.used() as usize, all.len());
            prop_assert_eq!(tree.shared() as usize, all.values().filter(|held| held.0 > 1).count());
            prop_assert_eq!(tree.used_by_running() as usize, all.values().filter(|held| held.1).count());
            for (id, sequence) in model.iter().enumerate() {
                let tokens = tree.tokens(SequenceId(id as u32));
                let expected: Vec<Token> =
                    sequence.iter().flat_map(|(cells, _)| cells.iter().map(|(token, _)| *token)).collect();
                prop_assert_eq!(&tokens, &expected);
                if let Some(found) = tree.find(&tokens, true) {
                    prop_assert_eq!(found.length as usize, tokens.len());
                }
            }
            if let Some(victim) = tree.least_valuable(1, true, now) {
                prop_assert!(victim.keep < tree.length(victim.sequence));
                prop_assert!(matches!(&model[victim.sequence.0 as usize], Some((_, false))));
            }
        }
    }
}
