#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use proptest::prelude::*;
use tokio::sync::mpsc::UnboundedReceiver;
use wattle_engine::tokens::{Limits, Token};

use super::{
    Caller, Request, Scheduler, SchedulerSettings,
    fake::{FakeAnswer, FakeClock, FakeEngine, VOCABULARY, World, alone, said_alone},
    group::Group,
    scheduler::{Order, gather},
    steps::Steps,
};
use crate::{
    Error, Priority, Result,
    language::{Answer, FinishReason, Piece, TokenUsage},
};

const LIMITS: Limits =
    Limits { sequences: 8, cells: 4096, context_tokens: 2048, batch_tokens: 512, vocabulary: VOCABULARY, embedding: 2 };

fn settings() -> SchedulerSettings {
    SchedulerSettings {
        threads: 1,
        processors: None,
        max_inter_token: Duration::from_millis(50),
        max_waiting: 1000,
        max_tenant_requests: 1000,
        speculates: false,
        saved_bytes: 1 << 20,
        offloaded_bytes: 1 << 20,
    }
}

struct Bench {
    steps: Steps,
    world: Arc<Mutex<World>>,
    limits: Limits,
}

/// A request's pieces, as they come.
type Told = UnboundedReceiver<Result<Piece>>;

impl Bench {
    fn new(limits: Limits, cuts: bool, settings: SchedulerSettings) -> Bench {
        let engine = FakeEngine::new(limits, cuts);
        let world = Arc::clone(&engine.world);
        let steps = Steps::new(Box::new(engine), Box::new(FakeClock(Arc::clone(&world))), settings);
        Bench { steps, world, limits }
    }

    fn ask(&mut self, prompt: &[Token], seeds: &[Option<u64>], choices: u32, max_tokens: u32, caller: Caller) -> Told {
        let answers = seeds.iter().map(|seed| Box::new(FakeAnswer::new(*seed)) as Box<dyn Answer>).collect();
        self.send(prompt, answers, choices, max_tokens, caller)
    }

    fn send(
        &mut self,
        prompt: &[Token],
        answers: Vec<Box<dyn Answer>>,
        choices: u32,
        max_tokens: u32,
        caller: Caller,
    ) -> Told {
        let request = Request { prompt: prompt.to_vec(), answers, choices, max_tokens: Some(max_tokens), caller };
        let (mut group, told) = Group::new(request, &self.limits, None);
        group.arrived = self.world.lock().unwrap().now;
        self.steps.add(group);
        told
    }

    fn one(&mut self, prompt: &[Token], max_tokens: u32) -> Told {
        self.ask(prompt, &[None], 1, max_tokens, Caller::default())
    }

    /// Steps until there is nothing to do; how many steps that took.
    fn finish(&mut self) -> usize {
        let mut count = 0;
        while !self.steps.is_idle() {
            self.steps.step(false);
            self.check();
            count += 1;
            assert!(count < 20_000, "somebody is never done");
        }
        count
    }

    /// What the scheduler believes is what the engine has.
    fn check(&self) {
        let used = self.steps.tree.used();
        assert!(used <= self.limits.cells);
        assert_eq!(used as usize, self.world.lock().unwrap().used_cells);
    }

    fn computed(&self) -> usize {
        self.world.lock().unwrap().computed
    }
}

/// Answers with their ends, the cached tokens, and what it took.
type Outcome = (Vec<(String, FinishReason)>, u32, TokenUsage);

/// What came of a request: its answers' texts and ends, and what it took; or its error.
fn outcome(told: &mut Told) -> Result<Outcome> {
    let mut texts: BTreeMap<u32, (String, Option<FinishReason>)> = BTreeMap::new();
    let (mut begun, mut counted) = (None, 0);
    loop {
        match told.try_recv().expect("every request has an end")? {
            Piece::Begun { cached_tokens, .. } => assert!(begun.replace(cached_tokens).is_none(), "it begins once"),
            Piece::Text { choice, text, count, .. } => {
                counted += count;
                let answer = texts.entry(choice).or_default();
                assert!(begun.is_some() && answer.1.is_none());
                answer.0.push_str(&text);
            }
            Piece::Ended { choice, reason } => {
                assert!(texts.entry(choice).or_default().1.replace(reason).is_none(), "an answer ends once");
            }
            Piece::Done(usage) => {
                assert!(told.try_recv().is_err(), "nothing comes after the end");
                // An end has no text, and not all answers are told.
                assert!(counted <= usage.completion_tokens);
                let texts = texts.into_values().map(|(text, reason)| (text, reason.unwrap())).collect();
                return Ok((texts, begun.unwrap(), usage));
            }
        }
    }
}

fn text(seed: u32, length: usize) -> Vec<Token> {
    (0..length as u32).map(|index| 1 + (seed * 31 + index * index * 7 + index) % (VOCABULARY - 1)).collect()
}

#[test]
fn two_with_a_common_beginning_compute_it_once() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let common = text(1, 500);
    let mut told: Vec<Told> =
        (0..8).map(|index| bench.one(&[common.clone(), text(2 + index, 10)].concat(), 4)).collect();
    bench.finish();
    // 500 once, and of each its own 10 and what it said.
    assert!(bench.computed() <= 500 + 8 * (10 + 4), "{} tokens were computed", bench.computed());
    let cached: Vec<u32> = told.iter_mut().map(|told| outcome(told).unwrap().1).collect();
    assert_eq!(cached.iter().filter(|cached| **cached >= 500).count(), 7, "{cached:?}");
    // The next turn of a talk goes on where the last one ended.
    let mut again = bench.one(&[common, text(2, 10), text(20, 5)].concat(), 1);
    bench.finish();
    assert!(outcome(&mut again).unwrap().1 >= 510);
}

#[test]
fn a_long_prompt_does_not_hold_up_those_who_speak() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let told: Vec<Told> =
        (0..4).map(|index| bench.ask(&text(index, 5), &[Some(1)], 1, 300, Caller::default())).collect();
    for _ in 0..10 {
        bench.steps.step(false);
    }
    let mut long = bench.one(&text(9, 1500), 1);
    bench.world.lock().unwrap().growing_steps.clear();
    bench.finish();
    let steps = bench.world.lock().unwrap().growing_steps.clone();
    let slow = steps.iter().filter(|seconds| **seconds > 0.06).count();
    assert!(slow <= 3, "{slow} of {} steps are over the target", steps.len());
    outcome(&mut long).unwrap();
    drop(told);
}

#[test]
fn one_who_leaves_is_gone_within_a_step() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let reading = bench.one(&text(1, 1900), 5);
    let speaking = bench.ask(&text(2, 4), &[Some(1), Some(2)], 2, 1000, Caller::default());
    let mut staying = bench.one(&text(3, 4), 3);
    let waiting: Vec<Told> = (0..20).map(|index| bench.one(&text(index, 30), 1000)).collect();
    bench.steps.step(false);
    bench.steps.step(false);
    drop((reading, speaking, waiting));
    bench.steps.step(false);
    assert!(bench.steps.running.len() <= 1 && bench.steps.resuming.is_empty());
    bench.finish();
    assert_eq!(outcome(&mut staying).unwrap().0, [alone(&text(3, 4), None, 3, 2048)]);
    assert_eq!(bench.steps.tree.used_by_running(), 0);
    assert!(bench.steps.statistics().wasted_cpu_seconds > 0.0);
}

#[test]
fn a_deadline_that_passes_is_told() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let now = bench.world.lock().unwrap().now;
    let caller = Caller { deadline: Some(now + Duration::from_millis(20)), ..Caller::default() };
    let mut late = bench.ask(&text(1, 1000), &[None], 1, 100, caller.clone());
    bench.finish();
    assert_eq!(outcome(&mut late), Err(Error::Expired));
    let mut too_late = bench.ask(&text(1, 10), &[None], 1, 100, caller);
    bench.finish();
    assert_eq!(outcome(&mut too_late), Err(Error::Expired));
}

#[test]
fn a_step_that_fails_is_computed_again_once() {
    let mut bench = Bench::new(LIMITS, true, settings());
    bench.world.lock().unwrap().failing = [2].into();
    let mut told = bench.one(&text(1, 20), 8);
    bench.finish();
    assert_eq!(outcome(&mut told).unwrap().0, [alone(&text(1, 20), None, 8, 2048)]);
    bench.world.lock().unwrap().failing = (1..100).collect();
    let mut told = bench.one(&text(2, 20), 8);
    bench.finish();
    assert!(matches!(outcome(&mut told), Err(Error::Run(_))));
    assert_eq!(bench.steps.tree.used_by_running(), 0);
}

#[tokio::test]
async fn a_scheduler_that_panics_hangs_nobody_and_says_that_it_is_gone() {
    let engine = FakeEngine::new(LIMITS, true);
    engine.world.lock().unwrap().panics = true;
    let scheduler = Scheduler::start(Box::new(engine), settings()).unwrap();
    assert!(scheduler.is_alive());
    let answers = vec![Box::new(FakeAnswer::new(None)) as Box<dyn Answer>];
    let request = Request { prompt: text(1, 20), answers, choices: 1, max_tokens: Some(3), caller: Caller::default() };
    let pieces: Vec<Result<Piece>> = scheduler.generate(request).unwrap().collect().await;
    assert!(matches!(pieces.as_slice(), [Err(Error::Run(_))]), "{pieces:?}");
    assert!(!scheduler.is_alive());
}

#[test]
fn those_who_were_here_together_are_read_together_again_and_nobody_else_waits() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let (send, orders) = std::sync::mpsc::channel();
    let ask = |seed| {
        let answers = vec![Box::new(FakeAnswer::new(None)) as Box<dyn Answer>];
        let caller = Caller::default();
        let request = Request { prompt: text(seed, 20), answers, choices: 1, max_tokens: Some(3), caller };
        let (group, told) = Group::new(request, &LIMITS, None);
        (Order::Generate(Box::new(group)), told)
    };
    // The one who comes last is waited for, whoever was alone for nobody: neither takes the patience of an hour.
    let hour = Duration::from_secs(3600);
    let (first, _told) = ask(1);
    send.send(first).unwrap();
    for crowd in [0, 1] {
        gather(&mut bench.steps, &orders, crowd, hour);
        assert!(bench.steps.is_idle());
    }
    let mut told = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 2..4 {
                std::thread::sleep(Duration::from_millis(20));
                let (order, pieces) = ask(seed);
                told.push(pieces);
                send.send(order).unwrap();
            }
        });
        gather(&mut bench.steps, &orders, 4, hour);
    });
    assert!(orders.try_recv().is_err(), "all three were taken in");
    bench.finish();
    for (told, seed) in told.iter_mut().zip(2..) {
        assert_eq!(outcome(told).unwrap().0, [alone(&text(seed, 20), None, 3, 2048)]);
    }
    // And those who do not come are not waited for longer.
    gather(&mut bench.steps, &orders, 4, Duration::ZERO);
}

#[test]
fn an_answer_that_cannot_go_on_ends_alone() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let mut other = bench.one(&text(1, 20), 30);
    let answers = vec![
        Box::new(FakeAnswer::failing_after(2)) as Box<dyn Answer>,
        Box::new(FakeAnswer::new(Some(1))) as Box<dyn Answer>,
    ];
    let mut told = bench.send(&text(2, 20), answers, 2, 30, Caller::default());
    bench.finish();
    let error = loop {
        match told.try_recv().unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Invalid(_)));
    assert_eq!(outcome(&mut other).unwrap().0, [alone(&text(1, 20), None, 30, 2048)]);
}

#[test]
fn every_token_of_the_text_is_counted_once() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let mut told = bench.one(&text(1, 20), 12);
    bench.finish();
    let (mut counted, mut took) = (0, 0);
    while let Ok(piece) = told.try_recv() {
        match piece.unwrap() {
            Piece::Text { count, .. } => counted += count,
            Piece::Ended { reason, .. } => assert_eq!(reason, FinishReason::Length),
            Piece::Done(usage) => took = usage.completion_tokens,
            Piece::Begun { .. } => {}
        }
    }
    assert_eq!((counted, took), (12, 12));
}

#[test]
fn the_likeliest_of_several_answers_is_told() {
    let mut bench = Bench::new(LIMITS, true, settings());
    let mut told = bench.ask(&text(1, 20), &[Some(1), None, Some(2)], 1, 8, Caller::default());
    bench.finish();
    let (answers, _, usage) = outcome(&mut told).unwrap();
    let all = [Some(1), None, Some(2)].map(|seed| said_alone(&text(1, 20), seed, 8, 2048));
    let likeliest = all.into_iter().max_by(|one, other| one.2.total_cmp(&other.2)).unwrap();
    assert_eq!(answers, [(likeliest.0, likeliest.1)]);
    assert!(usage.completion_tokens > 8);
}

#[test]
fn what_is_kept_goes_when_room_is_needed_and_nobody_is_refused() {
    let limits = Limits { cells: 256, context_tokens: 256, sequences: 4, ..LIMITS };
    let mut bench = Bench::new(limits, true, SchedulerSettings { offloaded_bytes: 1000, ..settings() });
    for round in 0..20 {
        let mut told: Vec<Told> = (0..6).map(|index| bench.one(&text(round * 6 + index, 100), 60)).collect();
        bench.finish();
        for (index, told) in told.iter_mut().enumerate() {
            let prompt = text(round * 6 + index as u32, 100);
            assert_eq!(outcome(told).unwrap().0, [alone(&prompt, None, 60, 256)]);
        }
    }
    assert!(bench.steps.statistics().evicted_tokens > 0);
}

#[test]
fn drafts_save_steps_and_change_nothing() {
    let steps = |speculates| {
        let mut bench = Bench::new(LIMITS, true, SchedulerSettings { speculates, ..settings() });
        // A fake that needs as long for a step as for any other.
        bench.world.lock().unwrap().seconds_a_token = 0.000_01;
        let prompt = [text(3, 40), text(3, 40), text(3, 40)].concat();
        let mut told = bench.one(&prompt, 200);
        let count = bench.finish();
        (count, outcome(&mut told).unwrap().0, bench.steps.statistics())
    };
    let (plain, text_plain, _) = steps(false);
    let (fewer, text_drafted, statistics) = steps(true);
    assert_eq!(text_plain, text_drafted);
    assert!(fewer < plain && statistics.accepted_tokens > 0, "{fewer} and {plain} steps");
}

#[test]
fn one_tenant_does_not_starve_another_and_batch_work_is_done_in_the_end() {
    let limits = Limits { sequences: 2, ..LIMITS };
    let mut bench = Bench::new(limits, true, settings());
    let caller = |tenant: &str, priority| Caller { tenant: Some(tenant.into()), priority, deadline: None };
    let mut loud: Vec<Told> = (0..40)
        .map(|index| bench.ask(&text(index, 50), &[None], 1, 10, caller("loud", Priority::Interactive)))
        .collect();
    let mut batch = bench.ask(&text(90, 50), &[None], 1, 10, caller("night", Priority::Batch));
    for _ in 0..5 {
        bench.steps.step(false);
    }
    let mut quiet = bench.ask(&text(91, 50), &[None], 1, 10, caller("quiet", Priority::Interactive));
    let mut steps = 0;
    while quiet.len() < 2 {
        bench.steps.step(false);
        steps += 1;
        assert!(steps < 40, "the quiet one waits for the loud one");
    }
    bench.finish();
    for told in loud.iter_mut().chain([&mut batch, &mut quiet]) {
        outcome(told).unwrap();
    }
}

#[test]
fn prefixes_outlast_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let common = text(1, 100);
    let mut bench = Bench::new(LIMITS, true, settings());
    for index in 0..3 {
        bench.one(&[common.clone(), text(2 + index, 10)].concat(), 4);
        bench.finish();
    }
    let keep: Vec<Told> = (0..3).map(|index| bench.one(&[common.clone(), text(12 + index, 10)].concat(), 4)).collect();
    bench.finish();
    drop(keep);
    bench.steps.save(folder.path()).unwrap();
    bench.check();
    assert!(std::fs::read_dir(folder.path()).unwrap().count() >= 1);
    std::fs::write(folder.path().join("nonsense"), "nonsense").unwrap();
    let mut bench = Bench::new(LIMITS, true, settings());
    bench.steps.restore(folder.path());
    assert!(!folder.path().join("nonsense").exists());
    let mut told = bench.one(&[common, text(30, 10)].concat(), 4);
    bench.finish();
    assert!(outcome(&mut told).unwrap().1 >= 100);
}

#[test]
fn what_has_no_room_in_the_cells_is_brought_back_instead_of_computed_again() {
    for (idle_cells, cells) in [(0, LIMITS.cells), (u32::MAX, 256)] {
        let mut bench = Bench::new(Limits { cells, context_tokens: 200, ..LIMITS }, true, settings());
        bench.world.lock().unwrap().idle_cells = idle_cells;
        for other in 1..6 {
            let _told = bench.one(&text(other, 100), 4);
            bench.finish();
        }
        let (computed, restored) = (bench.computed(), bench.world.lock().unwrap().restored);
        let mut told = bench.one(&[text(1, 100), text(9, 10)].concat(), 4);
        bench.finish();
        let (texts, cached, _) = outcome(&mut told).unwrap();
        assert_eq!(texts, [alone(&[text(1, 100), text(9, 10)].concat(), None, 4, 200)]);
        assert!(cached >= 100 && bench.computed() - computed <= 20, "{cached} of 110 tokens were there");
        assert_eq!(bench.world.lock().unwrap().restored, restored + 1);
    }
}

#[derive(Debug, Clone)]
struct Asked {
    at: usize,
    prefix: u32,
    prefix_length: usize,
    own: u32,
    own_length: usize,
    seeds: Vec<Option<u64>>,
    max_tokens: u32,
    leaves_after: Option<usize>,
    tenant: Option<u8>,
    batch: bool,
}

fn asked() -> impl Strategy<Value = Asked> {
    let prompt = (0_u32..3, 0_usize..40, 0_u32..50, 1_usize..30);
    let seeds = prop::collection::vec(prop::option::of(0_u64..5), 1..4);
    let rest = (0_u32..25, prop::option::weighted(0.2, 0_usize..12), prop::option::of(0_u8..3), any::<bool>());
    (0_usize..30, prompt, seeds, rest).prop_map(|(at, prompt, seeds, rest)| {
        let (prefix, prefix_length, own, own_length) = prompt;
        let (max_tokens, leaves_after, tenant, batch) = rest;
        Asked { at, prefix, prefix_length, own, own_length, seeds, max_tokens, leaves_after, tenant, batch }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever comes together with whatever else, in however little room: every request ends once, and its answers are
    /// those that it has when it is alone.
    #[test]
    fn answers_do_not_depend_on_the_company(
        asked in prop::collection::vec(asked(), 1..14),
        cells in 100_u32..260,
        sequences in 1_u32..7,
        batch_tokens in 1_u32..64,
        cuts in any::<bool>(),
        speculates in any::<bool>(),
        idle_cells in prop::option::of(0_u32..100),
        offloaded_bytes in 0_u64..2000,
        failing in prop::collection::btree_set(1_usize..200, 0..2),
    ) {
        let context = 100;
        let limits = Limits { sequences, cells, context_tokens: context, batch_tokens, ..LIMITS };
        let mut bench = Bench::new(limits, cuts, SchedulerSettings { speculates, offloaded_bytes, ..settings() });
        bench.world.lock().unwrap().idle_cells = idle_cells.unwrap_or(u32::MAX);
        // One step that fails is computed again; two may hit the same request, which then fails with it.
        let fails = failing.len() > 1;
        bench.world.lock().unwrap().failing = failing;
        let mut told: Vec<(Vec<Token>, &Asked, Option<Told>, usize)> = Vec::new();
        let mut step = 0;
        loop {
            for one in asked.iter().filter(|one| one.at == step) {
                let prompt = [text(one.prefix, one.prefix_length), text(one.own, one.own_length)].concat();
                let caller = Caller {
                    tenant: one.tenant.map(|tenant| tenant.to_string()),
                    priority: if one.batch { Priority::Batch } else { Priority::Interactive },
                    deadline: None,
                };
                let choices = one.seeds.len() as u32;
                let pieces = bench.ask(&prompt, &one.seeds, choices, one.max_tokens, caller);
                told.push((prompt, one, Some(pieces), step));
            }
            for (_, one, pieces, since) in &mut told {
                if one.leaves_after.is_some_and(|after| step >= *since + after) {
                    *pieces = None;
                }
            }
            if bench.steps.is_idle() && step > 30 {
                break;
            }
            bench.steps.step(false);
            bench.check();
            prop_assert!(bench.steps.running.len() <= sequences as usize);
            prop_assert!(bench.steps.offload.bytes() <= offloaded_bytes);
            step += 1;
            prop_assert!(step < 20_000, "somebody is never done");
        }
        for (prompt, one, pieces, _) in told {
            let Some(mut pieces) = pieces else { continue };
            match outcome(&mut pieces) {
                Ok((answers, cached, usage)) => {
                    let expected: Vec<_> = one.seeds.iter()
                        .map(|seed| alone(&prompt, *seed, one.max_tokens as usize, context as usize)).collect();
                    prop_assert_eq!(answers, expected);
                    prop_assert_eq!(usage.prompt_tokens as usize, prompt.len());
                    prop_assert!((cached as usize) < prompt.len());
                }
                Err(error) => prop_assert!(fails && matches!(error, Error::Run(_)), "{error}"),
            }
        }
        prop_assert_eq!(bench.steps.tree.used_by_running(), 0);
    }
}
