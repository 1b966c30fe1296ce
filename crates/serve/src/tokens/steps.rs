//! What happens in a step, over an engine and a clock: who begins, what is computed, what makes room.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use wattle_engine::tokens::{Limits, Logits, SequenceId, Token, TokenEngine};

use super::{
    SchedulerSettings, Statistics,
    draft::Drafting,
    embedding::Embeddings,
    fair::{Fair, Slot},
    group::{Branch, Group},
    offload::Offload,
    pace::Pace,
    pool::Pool,
    tree::{self, Found, Tree},
};
use crate::{Error, Result};

/// A prompt waits for another one that is just being read if they begin with so many tokens in common.
const WORTH_WAITING_FOR: usize = 16;
/// Reading prompts, nobody is kept waiting longer.
const MOST_SECONDS: f64 = 2.0;
/// For so many steps after one that waited, other models are expected to want the processors again.
const STEPS_SHARED: u32 = 16;
/// Cells that each answer is given to grow before others may begin beside it.
const GROWTH_CELLS: usize = 32;

/// The clocks that a step is measured by.
pub(super) trait Clock: Send {
    /// The time.
    fn now(&self) -> Instant;
    /// Processor time of all threads that compute, in seconds.
    fn cpu_seconds(&self) -> f64;
}

/// All that the scheduler knows.
pub(super) struct Steps {
    pub(super) engine: Box<dyn TokenEngine>,
    pub(super) clock: Box<dyn Clock>,
    pub(super) settings: SchedulerSettings,
    pub(super) limits: Limits,
    /// Whether sequences can be forked and shortened everywhere.
    pub(super) cuts: bool,
    pub(super) tree: Tree,
    pub(super) offload: Offload,
    pub(super) pool: Pool,
    pub(super) pace: Pace,
    pub(super) drafting: Drafting,
    pub(super) waiting: Fair<Group>,
    /// Answers that had to make room, and those whose prompt another answer has read; the first goes on first.
    pub(super) resuming: VecDeque<Branch>,
    /// Answers that have a sequence, in the order in which they got one.
    pub(super) running: Vec<Branch>,
    /// The requests of both.
    pub(super) groups: BTreeMap<u64, Group>,
    pub(super) embeddings: Embeddings,
    pub(super) statistics: Statistics,
    pub(super) logits: Logits,
    numbers: u64,
    /// Steps since one had to wait for another model's.
    since_waited: u32,
}

impl Steps {
    pub(super) fn new(engine: Box<dyn TokenEngine>, clock: Box<dyn Clock>, settings: SchedulerSettings) -> Steps {
        let limits = engine.limits();
        Steps {
            cuts: engine.cuts_anywhere(),
            engine,
            clock,
            limits,
            tree: Tree::default(),
            offload: Offload::new(settings.offloaded_bytes),
            settings,
            pool: Pool::new(limits.sequences),
            pace: Pace::new(),
            drafting: Drafting::new(),
            waiting: Fair::new(),
            resuming: VecDeque::new(),
            running: Vec::new(),
            groups: BTreeMap::new(),
            embeddings: Embeddings::default(),
            statistics: Statistics::default(),
            logits: Logits::default(),
            numbers: 0,
            since_waited: u32::MAX,
        }
    }

    /// A request comes in, which fits the engine when it is alone.
    pub(super) fn add(&mut self, group: Group) {
        let flow = group.flow();
        self.waiting.push(flow, group);
    }

    /// How long a step may take in which no answer grows. Whoever leaves, and other models that want the processors, wait for
    /// its end.
    pub(super) fn most_seconds(&self) -> f64 {
        match self.since_waited {
            ..STEPS_SHARED => 2.0 * self.settings.max_inter_token.as_secs_f64(),
            _ => MOST_SECONDS,
        }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.resuming.is_empty() && self.waiting.is_empty() && self.embeddings.is_empty()
    }

    /// Does one step; whether it had to wait for another model's.
    pub(super) fn step(&mut self, waited: bool) {
        self.since_waited = if waited { 0 } else { self.since_waited.saturating_add(1) };
        let now = self.clock.now();
        self.drop_those_who_left(now);
        self.begin(now);
        self.compute();
        self.embed();
        self.statistics.steps += 1;
    }

    /// What was done so far, and how it stands.
    pub(super) fn statistics(&self) -> Statistics {
        Statistics {
            running: (self.running.len() + self.resuming.len()) as u64,
            cells: u64::from(self.limits.cells),
            cells_used: u64::from(self.tree.used()),
            cells_shared: u64::from(self.tree.shared()),
            offloaded_bytes: self.offload.bytes(),
            evicted_tokens: self.statistics.evicted_tokens + self.offload.evicted_tokens(),
            ..self.statistics.clone()
        }
    }

    /// Forgets those whose callers left, and tells those whose deadlines have passed.
    fn drop_those_who_left(&mut self, now: Instant) {
        let stays = |group: &Group| {
            if group.pieces.is_closed() {
                return false;
            }
            let is_late = group.caller.deadline.is_some_and(|deadline| deadline <= now);
            if is_late {
                let _ = group.pieces.send(Err(Error::Expired));
            }
            !is_late
        };
        self.waiting.retain(|group| stays(group));
        let gone: Vec<u64> = self.groups.iter().filter(|(_, group)| !stays(group)).map(|(id, _)| *id).collect();
        for id in gone {
            self.drop_group(id);
        }
        self.embeddings.drop_those_who_left(now);
    }

    /// A request ends before its time. What was computed of it is kept for others.
    pub(super) fn drop_group(&mut self, id: u64) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.statistics.wasted_cpu_seconds += group.usage.cpu_seconds;
        let now = self.clock.now();
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].group == id {
                let branch = self.running.remove(index);
                self.statistics.wasted_tokens += branch.answered() as u64;
                self.leave(branch.sequence, now);
            } else {
                index += 1;
            }
        }
        self.resuming.retain(|branch| branch.group != id);
    }

    /// Lets those begin for whom there is room.
    fn begin(&mut self, now: Instant) {
        while let Some(branch) = self.resuming.front() {
            if !self.fits(&branch.tokens) {
                return;
            }
            let Some(mut branch) = self.resuming.pop_front() else { return };
            if !self.place(&mut branch, now) {
                self.resuming.push_front(branch);
                return;
            }
            let again = branch.reached.min(branch.tokens.len()).saturating_sub(branch.computed);
            self.statistics.wasted_tokens += again as u64;
            self.running.push(branch);
        }
        while let Some(slot) = self.next() {
            let fits = self.waiting.get(&slot).is_some_and(|group| self.fits(&group.prompt));
            if !fits || !self.begin_group(&slot, now) {
                return;
            }
        }
    }

    /// The next request, those excepted for which another one is just reading a part of their prompt.
    fn next(&self) -> Option<Slot> {
        self.waiting.next(|group| {
            let prompt = &group.prompt;
            let reading = self.running.iter().filter(|branch| branch.pending() > 1);
            let read_soon = reading
                .map(|branch| (tree::common(&branch.tokens, prompt).min(prompt.len() - 1), branch.computed))
                .filter(|(common, computed)| common > computed)
                .map(|(common, _)| common)
                .max()
                .unwrap_or(0);
            if read_soon < WORTH_WAITING_FOR {
                return true;
            }
            let wanted = &prompt[..prompt.len() - 1];
            let there = self.tree.find(wanted, self.cuts).map_or(0, |found| found.length as usize);
            let there = there.max(self.offloaded(wanted));
            // Where sequences cannot be cut, what another one reads is of no use.
            !self.cuts || read_soon < there + WORTH_WAITING_FOR
        })
    }

    /// Whether these tokens have room beside those that run, and these have room to grow. Alone everything fits.
    fn fits(&self, tokens: &[Token]) -> bool {
        if self.running.is_empty() {
            return true;
        }
        let found = self.tree.find(&tokens[..tokens.len() - 1], self.cuts);
        let there = found.map_or(0, |found| self.tree.running_of(found.sequence, found.length) as usize);
        let growing: usize = self.running.iter().map(|branch| branch.pending().max(GROWTH_CELLS)).sum();
        let needed = self.tree.used_by_running() as usize + growing + tokens.len() - there + GROWTH_CELLS;
        needed <= self.limits.cells as usize
    }

    /// Begins a request's first answer; the others begin when the prompt is read.
    fn begin_group(&mut self, slot: &Slot, now: Instant) -> bool {
        if self.pool.is_empty() && self.tree.least_valuable_sequence(now).is_none() {
            return false;
        }
        let tokens = self.waiting.get(slot).map_or(0, |group| group.prompt.len());
        let Some(mut group) = self.waiting.take(slot, tokens as f64) else { return false };
        self.numbers += 1;
        let id = self.numbers;
        let answer = group.answers.remove(0);
        let mut branch = self.branch(id, &group, answer, 0);
        self.statistics.prefix_lookups += 1;
        if !self.place(&mut branch, now) {
            group.answers.insert(0, branch.answer);
            let flow = group.flow();
            self.waiting.push(flow, group);
            return false;
        }
        group.usage.prompt_tokens = group.prompt.len() as u32;
        group.usage.cached_tokens = branch.computed as u32;
        self.statistics.prompt_tokens += group.prompt.len() as u64;
        self.statistics.cached_tokens += branch.computed as u64;
        self.statistics.prefix_hits += u64::from(branch.computed > 0);
        self.groups.insert(id, group);
        self.running.push(branch);
        true
    }

    /// An answer that has nothing yet.
    pub(super) fn branch(
        &mut self,
        id: u64,
        group: &Group,
        answer: Box<dyn crate::language::Answer>,
        index: usize,
    ) -> Branch {
        self.numbers += 1;
        Branch {
            group: id,
            index,
            answer,
            tokens: group.prompt.clone(),
            prompt_tokens: group.prompt.len(),
            computed: 0,
            sequence: None,
            reached: 0,
            number: self.numbers,
            drafter: self.drafting.drafter(),
            last_token: None,
            untold: 0,
            failed_before: false,
            is_batch: group.caller.priority == crate::Priority::Batch,
        }
    }

    /// Gives an answer a sequence that has as many of its tokens as there are already. The last one is always computed,
    /// since its logits are wanted.
    pub(super) fn place(&mut self, branch: &mut Branch, now: Instant) -> bool {
        let wanted = &branch.tokens[..branch.tokens.len() - 1];
        let there = self.tree.find(wanted, self.cuts).map_or(0, |found| found.length as usize);
        if let Some((sequence, computed)) = self.bring_back(wanted, there, now) {
            branch.sequence = Some(sequence);
            branch.computed = computed as usize;
            return true;
        }
        let Some(found) = self.tree.find(wanted, self.cuts) else {
            let Some(sequence) = self.free_sequence(None, now) else { return false };
            self.tree.begin(sequence);
            branch.sequence = Some(sequence);
            branch.computed = 0;
            return true;
        };
        let Some((sequence, computed)) = self.continue_from(found, now) else { return false };
        branch.sequence = Some(sequence);
        branch.computed = computed as usize;
        true
    }

    /// A sequence that begins like one that is there: that one itself, if it is kept and holds no more.
    fn continue_from(&mut self, found: Found, now: Instant) -> Option<(SequenceId, u32)> {
        let Found { sequence: source, length, is_whole } = found;
        if is_whole && self.cuts {
            self.tree.resume(source, now);
            return Some((source, length));
        }
        let Some(sequence) = self.free_sequence(Some(source), now) else {
            // There is no other one, so what is there has to do.
            let is_kept = self.tree.least_valuable_sequence(now) == Some(source);
            if !is_kept {
                return None;
            }
            self.tree.resume(source, now);
            return Some((source, self.shorten(source, length)));
        };
        self.engine.fork(source, sequence, length);
        self.tree.fork(source, sequence, length, now);
        Some((sequence, length))
    }

    /// Shortens a sequence; how long it is then.
    pub(super) fn shorten(&mut self, sequence: SequenceId, length: u32) -> u32 {
        let length = if self.engine.truncate(sequence, length) { length } else { 0 };
        self.tree.truncate(sequence, length);
        length
    }

    /// A sequence that nobody needs, for which the least valuable of those that are kept may go; not this one.
    pub(super) fn free_sequence(&mut self, except: Option<SequenceId>, now: Instant) -> Option<SequenceId> {
        if let Some(sequence) = self.pool.take() {
            return Some(sequence);
        }
        let going = self.tree.least_valuable_sequence(now).filter(|going| Some(*going) != except)?;
        self.let_go(going, now);
        Some(going)
    }

    /// Has so many cells free, for which what is kept goes; says whether that is enough.
    pub(super) fn make_room(&mut self, cells: u32, now: Instant) -> bool {
        loop {
            let free = self.limits.cells - self.tree.used();
            if free >= cells {
                return true;
            }
            let Some(victim) = self.tree.least_valuable(cells - free, self.cuts, now) else { return false };
            // What can be brought back goes as a whole.
            let used = self.tree.used();
            let is_cut = victim.keep > 0
                && !self.offload(victim.sequence, now)
                && self.shorten(victim.sequence, victim.keep) > 0;
            if is_cut {
                self.statistics.evicted_tokens += u64::from(used - self.tree.used());
                continue;
            }
            self.let_go(victim.sequence, now);
            self.pool.give_back(victim.sequence);
        }
    }

    /// An answer needs its sequence no more; what it holds is kept as long as there is room.
    pub(super) fn leave(&mut self, sequence: Option<SequenceId>, now: Instant) {
        let Some(sequence) = sequence else { return };
        if self.tree.length(sequence) == 0 {
            self.engine.free(sequence);
            self.tree.remove(sequence);
            self.pool.give_back(sequence);
        } else {
            self.tree.keep(sequence, now);
        }
    }

    /// An answer has to wait until there is room for it again.
    pub(super) fn preempt(&mut self, index: usize, now: Instant) {
        let mut branch = self.running.remove(index);
        self.leave(branch.sequence.take(), now);
        branch.computed = 0;
        self.statistics.preemptions += 1;
        self.wait(branch);
    }

    /// An answer goes on when there is room for it, in the order in which answers began.
    pub(super) fn wait(&mut self, branch: Branch) {
        let at = self.resuming.partition_point(|other| other.number < branch.number);
        self.resuming.insert(at, branch);
    }

    /// Ends a request with an error.
    pub(super) fn fail(&mut self, id: u64, error: Error) {
        if let Some(group) = self.groups.get(&id) {
            let _ = group.pieces.send(Err(error));
        }
        self.drop_group(id);
    }

    /// What a prompt of so many tokens cannot be.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the limit.
    pub(super) fn check(limits: &Limits, prompt: usize) -> Result<()> {
        let most = limits.context_tokens.min(limits.cells) as usize;
        if limits.sequences == 0 {
            return Err(Error::Invalid("the model embeds texts and generates none: call /v1/embeddings".into()));
        }
        match prompt {
            0 => Err(Error::Invalid("the prompt has no tokens: send at least one".into())),
            // One token of an answer has to fit as well.
            _ if prompt >= most => Err(Error::Invalid(format!(
                "the prompt has {prompt} tokens, and the model's context holds {most} with at least one of an answer: send a shorter one{}",
                if limits.cells < limits.context_tokens { ", or deploy the model with more --kv-cells" } else { "" }
            ))),
            _ => Ok(()),
        }
    }
}
