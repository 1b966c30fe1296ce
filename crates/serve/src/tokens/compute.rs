//! The computation of a step: what is in it, and what comes out.

use std::time::Instant;

use wattle_engine::tokens::{Chunk, SequenceId, Token};

use super::{group::Branch, steps::Steps};
use crate::{
    Error,
    language::{FinishReason, Piece},
};

/// However slow the machine, a step reads so many tokens of prompts, or they would never be read.
const LEAST_PROMPT_TOKENS: usize = 16;

/// What an answer has in a step.
#[derive(Debug)]
struct Part {
    /// Its index among those that run.
    branch: usize,
    /// How many of its tokens are computed.
    tokens: usize,
    /// What may follow them.
    draft: Vec<Token>,
    /// Whether the next token is chosen.
    ends: bool,
}

impl Part {
    fn cells(&self) -> usize {
        self.tokens + self.draft.len()
    }
}

impl Steps {
    /// Computes a step of answers and prompts.
    pub(super) fn compute(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.offload_idle(self.clock.now());
        let now = self.clock.now();
        let parts = self.plan(now);
        if parts.is_empty() {
            return;
        }
        let (rows, prompt_tokens) = parts.iter().fold((0, 0), |(rows, prompts), part| match part.tokens {
            1 if part.ends => (rows + 1 + part.draft.len(), prompts),
            tokens => (rows, prompts + tokens),
        });
        for part in &parts {
            self.running[part.branch].tokens.extend(&part.draft);
        }
        let cpu_before = self.clock.cpu_seconds();
        let result = {
            let chunks: Vec<Chunk<'_>> = parts.iter().map(|part| chunk(&self.running[part.branch], part)).collect();
            self.engine.decode(&chunks, &mut self.logits)
        };
        let ended = self.clock.now();
        let cpu_seconds = (self.clock.cpu_seconds() - cpu_before).max(0.0);
        for part in &parts {
            let branch = &mut self.running[part.branch];
            branch.tokens.truncate(branch.tokens.len() - part.draft.len());
        }
        self.share(&parts, cpu_seconds);
        match result {
            Ok(()) => {
                self.pace.learn(prompt_tokens, rows, ended.saturating_duration_since(now).as_secs_f64());
                self.take(parts, ended);
            }
            Err(error) => self.lose(&parts, &error),
        }
    }

    /// What is in the step: every answer that grows, and as much of the prompts as there is time for.
    fn plan(&mut self, now: Instant) -> Vec<Part> {
        loop {
            let batch_tokens = self.limits.batch_tokens as usize;
            let mut growing: Vec<usize> =
                (0..self.running.len()).filter(|index| self.running[*index].pending() == 1).collect();
            if growing.len() > batch_tokens {
                growing.sort_by_key(|index| self.running[*index].last_token);
                growing.truncate(batch_tokens);
            }
            let mut parts: Vec<Part> = growing.iter().map(|index| self.grow(*index, growing.len())).collect();
            let mut rows: usize = parts.iter().map(Part::cells).sum();
            if rows > batch_tokens {
                parts.iter_mut().for_each(|part| part.draft.clear());
                rows = parts.len();
            }
            let left = batch_tokens - rows;
            let seconds = match growing.is_empty() {
                true => self.most_seconds(),
                false => self.settings.max_inter_token.as_secs_f64(),
            };
            let fits = (self.pace.prompt_tokens(rows, seconds).max(0.0) as usize).max(LEAST_PROMPT_TOKENS);
            // What the engine computes well may take a little longer.
            let chunk = self.engine.chunk_tokens() as usize;
            let most = if fits < chunk && chunk <= 2 * fits { chunk.min(left) } else { fits.min(left) };
            parts.extend(self.read(most, left - most));
            // Cells that are free, or can be.
            let free = (self.limits.cells - self.tree.used_by_running()) as usize;
            fit(&mut parts, free);
            let needed: usize = parts.iter().map(Part::cells).sum();
            let stands_still = parts.len() < growing.len() || (parts.is_empty() && !self.running.is_empty());
            if (stands_still || needed > free) && self.running.len() > 1 {
                self.preempt(self.youngest(), now);
                continue;
            }
            if self.make_room(needed as u32, now) {
                return parts;
            }
            // What is held cannot be less: the engine's cells are fewer than what the one that is left needs.
            let Some(group) = self.running.first().map(|branch| branch.group) else { return Vec::new() };
            self.fail(group, Error::Internal("an answer that is alone found no room".into()));
            if self.running.is_empty() {
                return Vec::new();
            }
        }
    }

    /// The next token of an answer, and what may follow it.
    fn grow(&mut self, index: usize, rows: usize) -> Part {
        let branch = &mut self.running[index];
        let most_tokens = self.groups.get(&branch.group).map_or(1, |group| group.max_tokens);
        let left = most_tokens.saturating_sub(branch.answered() + 1);
        let left = left.min((self.limits.context_tokens as usize).saturating_sub(branch.tokens.len() + 1));
        let draft = if self.settings.speculates && self.cuts {
            branch.drafter.draft(&branch.tokens, left, rows, &self.pace).to_vec()
        } else {
            Vec::new()
        };
        Part { branch: index, tokens: 1, draft, ends: true }
    }

    /// Parts of prompts, so many tokens in all: half for the one that has waited longest, and then the shortest first, for
    /// which the others wait the least. Where half is less than the engine computes well, both have turns. A prompt that is
    /// nearly read is read to its end, with a few tokens `more`.
    fn read(&self, most: usize, more: usize) -> Vec<Part> {
        let ending = (most / 4).min(more);
        let mut reading: Vec<(usize, &Branch)> =
            self.running.iter().enumerate().filter(|(_, branch)| branch.pending() > 1).collect();
        let mut given = vec![0; self.running.len()];
        let mut left = most;
        let oldest = reading.iter().min_by_key(|(_, branch)| branch.number).map(|(index, _)| *index);
        if let (Some(oldest), true) = (oldest, reading.len() > 1) {
            let half = match most.div_ceil(2) {
                half if half >= self.engine.chunk_tokens() as usize => half,
                _ if self.statistics.steps.is_multiple_of(2) => most,
                _ => 0,
            };
            given[oldest] = self.running[oldest].pending().min(half);
            left -= given[oldest];
        }
        let mut left_for_ends = left + ending;
        reading.sort_by_key(|(_, branch)| (branch.is_batch, branch.pending(), branch.number));
        for (index, branch) in &reading {
            let pending = branch.pending() - given[*index];
            let taken = if left > 0 && pending <= left_for_ends { pending } else { pending.min(left) };
            given[*index] += taken;
            left = left.saturating_sub(taken);
            left_for_ends -= taken;
        }
        let parts = reading.iter().filter(|(index, _)| given[*index] > 0).map(|(index, branch)| Part {
            branch: *index,
            tokens: given[*index],
            draft: Vec::new(),
            ends: given[*index] == branch.pending(),
        });
        parts.collect()
    }

    /// Who makes room first: of those that nobody waits for, or of all, the one that began last.
    fn youngest(&self) -> usize {
        let running = self.running.iter().enumerate();
        running.max_by_key(|(_, branch)| (branch.is_batch, branch.number)).map_or(0, |(index, _)| index)
    }

    /// Each request pays for its tokens of the step.
    fn share(&mut self, parts: &[Part], cpu_seconds: f64) {
        let all: usize = parts.iter().map(Part::cells).sum();
        for part in parts {
            if let Some(group) = self.groups.get_mut(&self.running[part.branch].group) {
                group.usage.cpu_seconds += cpu_seconds * part.cells() as f64 / all.max(1) as f64;
            }
        }
    }

    /// Takes in what came out: the sequences have grown, and the answers with them.
    fn take(&mut self, parts: Vec<Part>, now: Instant) {
        let mut logits = std::mem::take(&mut self.logits);
        let vocabulary = self.limits.vocabulary as usize;
        let mut rows = logits.values.chunks_exact_mut(vocabulary.max(1));
        let mut ended = Vec::new();
        let mut failed: Vec<(u64, Error)> = Vec::new();
        for part in parts {
            let branch = &mut self.running[part.branch];
            let Some(sequence) = branch.sequence else { continue };
            let certain = branch.computed + part.tokens;
            if !part.ends {
                self.tree.append(sequence, &branch.tokens[branch.computed..certain]);
                branch.computed = certain;
                branch.reached = branch.reached.max(certain);
                continue;
            }
            let mut own: Vec<&mut [f32]> = rows.by_ref().take(1 + part.draft.len()).collect();
            // Where it is read again, its other answers have begun already.
            let first = branch.last_token.is_none();
            let begun = if first { self.begin_others(part.branch, own.first().map(|row| &**row)) } else { Vec::new() };
            let outcome = self.advance(part.branch, &part.draft, &mut own, now);
            let branch = &mut self.running[part.branch];
            let (accepted, finished) = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    failed.push((branch.group, error));
                    (0, None)
                }
            };
            let held = certain + accepted;
            self.tree.append(sequence, &branch.tokens[branch.computed..held]);
            branch.computed = held;
            branch.reached = branch.reached.max(held);
            if accepted < part.draft.len() {
                let length = if self.engine.truncate(sequence, held as u32) { held } else { 0 };
                self.tree.truncate(sequence, length as u32);
                branch.computed = length;
            }
            if let Some(reason) = finished {
                ended.push((branch.number, reason));
            }
            self.place_others(begun, sequence, now, &mut ended, &mut failed);
        }
        self.logits = logits;
        for (number, reason) in ended {
            self.end(number, reason, now);
        }
        for (group, error) in failed {
            self.fail(group, error);
        }
    }

    /// Chooses by each row, for as long as what is chosen is what was drafted. How much of the draft was right, and whether
    /// the answer has ended.
    fn advance(
        &mut self,
        index: usize,
        draft: &[Token],
        rows: &mut [&mut [f32]],
        now: Instant,
    ) -> Result<(usize, Option<FinishReason>), Error> {
        let branch = &mut self.running[index];
        let Some(group) = self.groups.get_mut(&branch.group) else { return Ok((0, None)) };
        let (mut accepted, mut chosen, mut finished) = (0, 0_u32, None);
        for (number, row) in rows.iter_mut().enumerate() {
            if group.max_tokens == 0 {
                finished = Some(FinishReason::Length);
                break;
            }
            let advance = branch.answer.advance(row)?;
            chosen += 1;
            branch.untold += 1;
            finished = advance.finished;
            if !matches!(finished, Some(FinishReason::End)) {
                branch.tokens.push(advance.token);
            }
            let is_full = branch.tokens.len() >= self.limits.context_tokens.min(self.limits.cells) as usize;
            let mut text = advance.text;
            if finished.is_none() && (branch.answered() >= group.max_tokens || is_full) {
                text.push_str(&branch.answer.rest());
                finished = Some(FinishReason::Length);
            }
            if !text.is_empty() || advance.chosen.is_some() {
                let tokens = advance.chosen.into_iter().collect();
                let (choice, count) = (branch.index as u32, std::mem::take(&mut branch.untold));
                group.tell(branch.index, Piece::Text { choice, text, tokens, count });
            }
            if finished.is_some() || draft.get(number) != Some(&advance.token) {
                break;
            }
            accepted += 1;
        }
        // What ended the answer is right as well, but nothing is to follow it.
        if !draft.is_empty() {
            self.drafting.learn(&mut branch.drafter, draft.len(), accepted);
            self.statistics.drafted_tokens += draft.len() as u64;
            self.statistics.accepted_tokens += accepted as u64;
        }
        group.usage.completion_tokens += chosen;
        self.statistics.completion_tokens += u64::from(chosen);
        match branch.last_token {
            None => self.statistics.first_token.add(now.saturating_duration_since(group.arrived).as_secs_f64()),
            Some(last) => {
                let each = now.saturating_duration_since(last).as_secs_f64() / f64::from(chosen.max(1));
                (0..chosen).for_each(|_| self.statistics.inter_token.add(each));
            }
        }
        branch.last_token = Some(now);
        let flow = group.flow();
        self.waiting.charge(&flow, f64::from(chosen));
        Ok((accepted, finished))
    }

    /// The prompt is read: its other answers begin with the same logits.
    fn begin_others(&mut self, index: usize, row: Option<&[f32]>) -> Vec<(Branch, Vec<f32>)> {
        let id = self.running[index].group;
        let Some(mut group) = self.groups.remove(&id) else { return Vec::new() };
        group.place = None;
        let (prompt_tokens, cached_tokens) = (group.usage.prompt_tokens, group.usage.cached_tokens);
        let _ = group.pieces.send(Ok(Piece::Begun { prompt_tokens, cached_tokens }));
        let answers = std::mem::take(&mut group.answers);
        let row = row.unwrap_or_default();
        let others = answers.into_iter().enumerate();
        let others =
            others.map(|(number, answer)| (self.branch(id, &group, answer, number + 1), row.to_vec())).collect();
        self.groups.insert(id, group);
        others
    }

    /// The other answers get sequences that begin with the prompt, or wait for one.
    fn place_others(
        &mut self,
        begun: Vec<(Branch, Vec<f32>)>,
        sequence: SequenceId,
        now: Instant,
        ended: &mut Vec<(u64, FinishReason)>,
        failed: &mut Vec<(u64, Error)>,
    ) {
        for (mut branch, mut row) in begun {
            let (group, number, prompt) = (branch.group, branch.number, branch.prompt_tokens);
            if let Some(own) = self.free_sequence(Some(sequence), now) {
                self.engine.fork(sequence, own, prompt as u32);
                self.tree.fork(sequence, own, prompt as u32, now);
                branch.sequence = Some(own);
                branch.computed = prompt;
            }
            branch.reached = prompt;
            self.running.push(branch);
            let index = self.running.len() - 1;
            match self.advance(index, &[], &mut [&mut row], now) {
                Ok((_, Some(reason))) => ended.push((number, reason)),
                Ok(_) => {}
                Err(error) => failed.push((group, error)),
            }
            if self.running[index].sequence.is_none() {
                let branch = self.running.remove(index);
                self.wait(branch);
            }
        }
    }

    /// An answer has ended.
    fn end(&mut self, number: u64, reason: FinishReason, now: Instant) {
        let branch = match self.running.iter().position(|branch| branch.number == number) {
            Some(index) => self.running.remove(index),
            None => match self.resuming.iter().position(|branch| branch.number == number) {
                Some(index) => self.resuming.remove(index).expect("an answer that was found is there"),
                None => return,
            },
        };
        self.leave(branch.sequence, now);
        let Some(group) = self.groups.get_mut(&branch.group) else { return };
        if group.end(&branch, reason)
            && let Some(group) = self.groups.remove(&branch.group)
        {
            group.finish();
        }
    }

    /// A step has failed: what was in it is gone, and computed once more.
    fn lose(&mut self, parts: &[Part], error: &wattle_engine::Error) {
        tracing::warn!(%error, "a step failed");
        let mut lost: Vec<u64> = parts.iter().map(|part| self.running[part.branch].number).collect();
        lost.sort_unstable();
        for number in lost {
            let Some(index) = self.running.iter().position(|branch| branch.number == number) else { continue };
            let mut branch = self.running.remove(index);
            if let Some(sequence) = branch.sequence.take() {
                self.engine.free(sequence);
                self.tree.remove(sequence);
                self.pool.give_back(sequence);
            }
            branch.computed = 0;
            let (group, failed_before) = (branch.group, branch.failed_before);
            branch.failed_before = true;
            self.wait(branch);
            if failed_before {
                self.fail(group, Error::Run(error.to_string()));
            }
        }
    }
}

/// An answer's part of the batch.
fn chunk<'a>(branch: &'a Branch, part: &Part) -> Chunk<'a> {
    let tokens = &branch.tokens[branch.computed..branch.computed + part.cells()];
    Chunk {
        sequence: branch.sequence.expect("an answer that runs has a sequence"),
        start: branch.computed as u32,
        tokens,
        logits: if part.ends { 1 + part.draft.len() as u32 } else { 0 },
    }
}

/// Takes out of a step what there are no cells for: drafts first, then prompts, then answers.
fn fit(parts: &mut Vec<Part>, cells: usize) {
    let needed = |parts: &[Part]| parts.iter().map(Part::cells).sum::<usize>();
    if needed(parts) <= cells {
        return;
    }
    parts.iter_mut().for_each(|part| part.draft.clear());
    while let over @ 1.. = needed(parts).saturating_sub(cells) {
        let Some(last) = parts.last_mut() else { return };
        if last.tokens > over {
            last.tokens -= over;
            last.ends = false;
        } else {
            parts.pop();
        }
    }
}
