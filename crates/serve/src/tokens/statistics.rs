use serde::{Deserialize, Serialize};

use crate::metrics::Distribution;

/// The upper bounds of the times that [`Times`] counts, in seconds; what took longer is counted last.
pub const SECONDS: [f64; 15] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How often within each bound of [`SECONDS`] and not the one before, and how often longer.
    pub counts: [u64; SECONDS.len() + 1],
    /// All of it, in seconds.
    pub sum: f64,
}

/// What a scheduler did since it was started, and how it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Answers that grow or whose prompts are read.
    pub running: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Tokens whose keys and values can be kept.
    pub cells: u64,
    /// Those that are kept now.
    pub cells_used: u64,
    /// Those of them that several sequences share.
    pub cells_shared: u64,
    /// Bytes of sequences that are kept outside of the cells.
    pub offloaded_bytes: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Those of them that did not have to be computed.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Tokens that were computed for callers who left, or again.
    pub wasted_tokens: u64,
    /// Processor time that was spent for callers who left, which no caller is told.
    pub wasted_cpu_seconds: f64,
    /// Steps.
    pub steps: u64,
    /// Prompts whose beginning was looked for.
    pub prefix_lookups: u64,
    /// Those of which one was there.
    pub prefix_hits: u64,
    /// Tokens that were drafted and computed.
    pub drafted_tokens: u64,
    /// Those of them that were right.
    pub accepted_tokens: u64,
    /// Answers that had to make room for others.
    pub preemptions: u64,
    /// Tokens that were no longer kept, for lack of room.
    pub evicted_tokens: u64,
    /// Texts that were embedded.
    pub embedded_texts: u64,
    /// Time from a request's coming to the first token of an answer.
    pub first_token: Times,
    /// Time between an answer's tokens.
    pub inter_token: Times,
}

impl Times {
    /// Counts a time.
    pub(crate) fn add(&mut self, seconds: f64) {
        let bound = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        self.counts[bound] += 1;
        self.sum += seconds;
    }

    /// What was counted, as a histogram; nothing before the first.
    pub fn distribution(&self) -> Option<Distribution> {
        let below = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        let count = self.counts.iter().sum();
        let buckets = SECONDS.into_iter().zip(below).collect();
        (count > 0).then_some(Distribution { buckets, count, sum: self.sum })
    }

    fn zip(&self, other: &Times, counts: impl Fn(u64, u64) -> u64, sum: impl Fn(f64, f64) -> f64) -> Times {
        Times {
            counts: std::array::from_fn(|index| counts(self.counts[index], other.counts[index])),
            sum: sum(self.sum, other.sum),
        }
    }
}

impl Statistics {
    /// What was counted since an earlier look, and how it stands now.
    #[must_use]
    pub fn since(&self, before: &Statistics) -> Statistics {
        self.zip(before, u64::saturating_sub, |now, before| (now - before).max(0.0))
    }

    /// What was counted before, and what is new; it stands as it does now.
    #[must_use]
    pub fn after(&self, before: &Statistics) -> Statistics {
        self.zip(before, u64::saturating_add, |new, before| new + before)
    }

    /// What two did together, and how both stand.
    #[must_use]
    pub fn plus(&self, other: &Statistics) -> Statistics {
        Statistics {
            running: self.running + other.running,
            waiting: self.waiting + other.waiting,
            cells: self.cells + other.cells,
            cells_used: self.cells_used + other.cells_used,
            cells_shared: self.cells_shared + other.cells_shared,
            offloaded_bytes: self.offloaded_bytes + other.offloaded_bytes,
            ..self.after(other)
        }
    }

    fn zip(&self, other: &Statistics, count: fn(u64, u64) -> u64, sum: fn(f64, f64) -> f64) -> Statistics {
        Statistics {
            running: self.running,
            waiting: self.waiting,
            cells: self.cells,
            cells_used: self.cells_used,
            cells_shared: self.cells_shared,
            offloaded_bytes: self.offloaded_bytes,
            prompt_tokens: count(self.prompt_tokens, other.prompt_tokens),
            cached_tokens: count(self.cached_tokens, other.cached_tokens),
            completion_tokens: count(self.completion_tokens, other.completion_tokens),
            wasted_tokens: count(self.wasted_tokens, other.wasted_tokens),
            wasted_cpu_seconds: sum(self.wasted_cpu_seconds, other.wasted_cpu_seconds),
            steps: count(self.steps, other.steps),
            prefix_lookups: count(self.prefix_lookups, other.prefix_lookups),
            prefix_hits: count(self.prefix_hits, other.prefix_hits),
            drafted_tokens: count(self.drafted_tokens, other.drafted_tokens),
            accepted_tokens: count(self.accepted_tokens, other.accepted_tokens),
            preemptions: count(self.preemptions, other.preemptions),
            evicted_tokens: count(self.evicted_tokens, other.evicted_tokens),
            embedded_texts: count(self.embedded_texts, other.embedded_texts),
            first_token: self.first_token.zip(&other.first_token, count, sum),
            inter_token: self.inter_token.zip(&other.inter_token, count, sum),
        }
    }
}
