#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn pool(count: usize) -> Pool<usize> {
    let mut pool = Pool::new();
    (0..count).for_each(|number| {
        pool.join(number);
    });
    pool
}

fn state(pool: &Pool<usize>, key: u64) -> InstanceState {
    pool.all().find(|(one, ..)| *one == key).unwrap().2
}

#[test]
fn calls_go_to_whoever_has_the_least_to_do_and_take_turns_otherwise() {
    let mut pool = pool(3);
    let next = |pool: &mut Pool<usize>| pool.choose(&[], &[]).unwrap().0;
    assert_eq!([next(&mut pool), next(&mut pool), next(&mut pool)], [0, 1, 2]);
    pool.done(1);
    assert_eq!(next(&mut pool), 1);
    (0..3).for_each(|key| pool.done(key));
    // All are idle, and the one that was chosen longest ago is next.
    assert_eq!(next(&mut pool), 0);
}

#[test]
fn a_prompt_goes_where_it_was_read_unless_many_wait_there() {
    let mut pool = pool(2);
    let (shared, other) = ([1, 2, 3], [8, 9]);
    let home = pool.choose(&shared, &[]).unwrap().0;
    let longer: Vec<u64> = shared.iter().copied().chain([4]).collect();
    for _ in 0..WORTH_CALLS {
        assert_eq!(pool.choose(&longer, &[]).unwrap().0, home);
    }
    // The other one has four calls less, and one more would be too many.
    assert_ne!(pool.choose(&longer, &[]).unwrap().0, home);
    // From now on it knows the prompt as well, and has less to do.
    assert_ne!(pool.choose(&shared, &[]).unwrap().0, home);
    assert_ne!(pool.choose(&other, &[]).unwrap().0, home);
}

#[test]
fn who_does_not_answer_gets_no_calls_until_it_answers_twice() {
    let now = Instant::now();
    let mut pool = pool(2);
    assert_eq!(pool.asked(0, false, now), None);
    assert_eq!(pool.asked(0, true, now), None);
    assert_eq!(pool.asked(0, false, now), None);
    assert_eq!(pool.asked(0, false, now), Some(Change::Ejected));
    assert_eq!(state(&pool, 0), InstanceState::Ejected);
    for _ in 0..5 {
        assert_eq!(pool.choose(&[], &[]).unwrap().0, 1);
    }
    assert_eq!(pool.asked(0, true, now), None);
    assert_eq!(pool.asked(0, false, now), None);
    assert_eq!(pool.asked(0, true, now), None);
    assert_eq!(pool.asked(0, true, now), Some(Change::Readmitted));
    assert_eq!(pool.choose(&[], &[]).unwrap().0, 0);
}

#[test]
fn who_loses_a_call_is_out_at_once_and_given_up_after_a_while() {
    let now = Instant::now();
    let mut pool = pool(2);
    assert_eq!(pool.eject(1, now), Some(Change::Ejected));
    assert_eq!(pool.eject(1, now), None);
    assert!(pool.given_up(now + GIVEN_UP / 2).is_empty());
    assert_eq!(pool.asked(1, true, now + GIVEN_UP / 2), None);
    assert_eq!(pool.given_up(now + GIVEN_UP), [1]);
    assert_eq!(pool.remove(1), Some(1));
    assert!(pool.choose(&[], &[0]).is_none(), "the only one left was tried in vain");
}

#[test]
fn who_leaves_keeps_what_it_has_and_gets_nothing_more() {
    let mut pool = pool(2);
    let busy = pool.choose(&[], &[]).unwrap().0;
    assert_eq!(pool.dismiss(), Some(1 - busy));
    assert!(pool.is_idle(1 - busy));
    assert_eq!(pool.dismiss(), Some(busy));
    assert!(!pool.is_idle(busy));
    assert_eq!((pool.dismiss(), pool.choose(&[], &[])), (None, None));
    assert_eq!(pool.asked(busy, false, Instant::now()), None);
    pool.done(busy);
    assert!(pool.is_idle(busy));
}

proptest! {
    /// Whatever comes and goes, a call is given to somebody who is well, if anybody is, and no counts are lost.
    #[test]
    fn a_call_finds_whoever_is_well(steps in proptest::collection::vec((0_u8..8, 0_u64..6, any::<u8>()), 1..200)) {
        let start = Instant::now();
        let mut pool = pool(3);
        let mut held: Vec<u64> = Vec::new();
        for (number, (what, key, byte)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(number as u64 * 100);
            match what {
                0 => { pool.join(0); }
                1 => { pool.remove(key); held.retain(|one| *one != key); }
                2 => { pool.eject(key, now); }
                3 => { pool.dismiss(); }
                4 => { pool.asked(key, byte % 2 == 0, now); }
                5 => if let Some(one) = held.pop() { pool.done(one); },
                _ => {
                    let ready: Vec<u64> =
                        pool.all().filter(|one| one.2 == InstanceState::Ready).map(|one| one.0).collect();
                    let marks: Vec<u64> = (0..u64::from(byte % 4)).collect();
                    match pool.choose(&marks, &[]) {
                        Some((chosen, _)) => { prop_assert!(ready.contains(&chosen)); held.push(chosen); }
                        None => prop_assert!(ready.is_empty()),
                    }
                }
            }
            for (key, _, _, outstanding) in pool.all() {
                prop_assert_eq!(outstanding, held.iter().filter(|one| **one == key).count());
            }
        }
    }
}
