//! An engine and a clock that are made up, and insist on what a real engine may rely on.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wattle_engine::{
    Error, Result,
    tokens::{Chunk, Limits, Logits, SequenceId, Token, TokenEngine},
};

use super::steps::Clock;
use crate::language::{Advance, Answer, FinishReason};

pub(super) const VOCABULARY: u32 = 24;
/// The token that ends an answer.
pub(super) const END: Token = 0;

/// What a fake engine did and how long that took.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) cpu_seconds: f64,
    pub(super) computed: usize,
    pub(super) steps: usize,
    /// Seconds of each step that had answers in it which grow.
    pub(super) growing_steps: Vec<f64>,
    /// Steps that are to fail.
    pub(super) failing: BTreeSet<usize>,
    /// Whether every step panics.
    pub(super) panics: bool,
    pub(super) used_cells: usize,
    pub(super) seconds_a_token: f64,
    pub(super) idle_cells: u32,
    /// Sequences that were brought back.
    pub(super) restored: usize,
}

#[derive(Clone)]
pub(super) struct FakeClock(pub(super) Arc<Mutex<World>>);

pub(super) struct FakeEngine {
    pub(super) world: Arc<Mutex<World>>,
    limits: Limits,
    cuts: bool,
    /// Each sequence's tokens and the cells that hold them.
    sequences: Vec<Vec<(Token, u64)>>,
    cells: u64,
}

impl FakeEngine {
    pub(super) fn new(limits: Limits, cuts: bool) -> FakeEngine {
        let world = World {
            now: Instant::now(),
            cpu_seconds: 0.0,
            computed: 0,
            steps: 0,
            growing_steps: Vec::new(),
            failing: BTreeSet::new(),
            panics: false,
            used_cells: 0,
            seconds_a_token: 0.001,
            idle_cells: u32::MAX,
            restored: 0,
        };
        let sequences = vec![Vec::new(); limits.sequences as usize];
        FakeEngine { world: Arc::new(Mutex::new(world)), limits, cuts, sequences, cells: 0 }
    }

    fn used(&self) -> usize {
        self.sequences.iter().flatten().map(|(_, cell)| *cell).collect::<BTreeSet<_>>().len()
    }

    fn sequence(&mut self, id: SequenceId) -> &mut Vec<(Token, u64)> {
        &mut self.sequences[id.0 as usize]
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        self.0.lock().unwrap().now
    }

    fn cpu_seconds(&self) -> f64 {
        self.0.lock().unwrap().cpu_seconds
    }
}

/// What a model of nobody's says after these tokens.
pub(super) fn logits_after(tokens: &[Token]) -> Vec<f32> {
    // A model that looks at all tokens, and repeats itself now and then, so that drafts are right sometimes.
    let seen = if tokens.len().is_multiple_of(5) { &tokens[tokens.len().saturating_sub(2)..] } else { tokens };
    (0..VOCABULARY)
        .map(|token| {
            let mut hash = DefaultHasher::new();
            (seen, token).hash(&mut hash);
            (hash.finish() % 10_000) as f32 / 1000.0
        })
        .collect()
}

impl TokenEngine for FakeEngine {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn cuts_anywhere(&self) -> bool {
        self.cuts
    }

    fn idle_cells(&self) -> u32 {
        self.world.lock().unwrap().idle_cells
    }

    fn decode(&mut self, batch: &[Chunk<'_>], logits: &mut Logits) -> Result<()> {
        logits.values.clear();
        let tokens: usize = batch.iter().map(|chunk| chunk.tokens.len()).sum();
        assert!(!batch.is_empty() && tokens <= self.limits.batch_tokens as usize, "{tokens} tokens in a batch");
        let mut seen = BTreeSet::new();
        {
            let mut world = self.world.lock().unwrap();
            let seconds = 0.005 + tokens as f64 * world.seconds_a_token;
            world.now += Duration::from_secs_f64(seconds);
            world.cpu_seconds += seconds;
            world.computed += tokens;
            world.steps += 1;
            if batch.iter().any(|chunk| chunk.start > 0 && chunk.tokens.len() as u32 == chunk.logits) {
                world.growing_steps.push(seconds);
            }
            assert!(!world.panics, "it was to panic");
            let step = world.steps;
            if world.failing.remove(&step) {
                return Err(Error::Run("it was to fail".into()));
            }
        }
        for chunk in batch {
            assert!(seen.insert(chunk.sequence), "a sequence is twice in a batch");
            assert!(!chunk.tokens.is_empty() && chunk.logits as usize <= chunk.tokens.len());
            let length = self.sequence(chunk.sequence).len();
            assert_eq!(chunk.start as usize, length, "a sequence goes on where it ended");
            assert!(length + chunk.tokens.len() <= self.limits.context_tokens as usize);
            for (index, token) in chunk.tokens.iter().enumerate() {
                assert!(*token < VOCABULARY);
                let cell = self.cells;
                self.cells += 1;
                self.sequence(chunk.sequence).push((*token, cell));
                if index >= chunk.tokens.len() - chunk.logits as usize {
                    let tokens: Vec<Token> = self.sequence(chunk.sequence).iter().map(|(token, _)| *token).collect();
                    logits.values.extend(logits_after(&tokens));
                }
            }
        }
        let used = self.used();
        assert!(used <= self.limits.cells as usize, "{used} cells are used");
        self.world.lock().unwrap().used_cells = used;
        Ok(())
    }

    fn fork(&mut self, from: SequenceId, to: SequenceId, tokens: u32) {
        assert!(self.sequence(to).is_empty(), "a fork goes to an empty sequence");
        let whole = tokens as usize == self.sequence(from).len();
        assert!(tokens as usize <= self.sequence(from).len());
        if self.cuts || whole {
            *self.sequence(to) = self.sequence(from)[..tokens as usize].to_vec();
        }
    }

    fn truncate(&mut self, sequence: SequenceId, tokens: u32) -> bool {
        let cuts = self.cuts || tokens == 0 || tokens as usize == self.sequence(sequence).len();
        self.sequence(sequence).truncate(if cuts { tokens as usize } else { 0 });
        let used = self.used();
        self.world.lock().unwrap().used_cells = used;
        cuts
    }

    fn save(&mut self, sequence: SequenceId) -> Result<Vec<u8>> {
        Ok(self.sequence(sequence).iter().map(|(token, _)| *token as u8).collect())
    }

    fn restore(&mut self, sequence: SequenceId, saved: &[u8]) -> Result<()> {
        assert!(self.sequence(sequence).is_empty(), "what is restored goes to an empty sequence");
        if saved.iter().any(|token| u32::from(*token) >= VOCABULARY) {
            return Err(Error::InvalidInput("there are other tokens than there are".into()));
        }
        for token in saved {
            let cell = self.cells;
            self.cells += 1;
            self.sequence(sequence).push((Token::from(*token), cell));
        }
        let used = self.used();
        assert!(used <= self.limits.cells as usize, "{used} cells are used");
        let mut world = self.world.lock().unwrap();
        world.used_cells = used;
        world.restored += 1;
        Ok(())
    }

    fn embed(&mut self, texts: &[&[Token]]) -> Result<Vec<f32>> {
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        assert!(tokens <= self.limits.batch_tokens as usize, "{tokens} tokens are embedded at once");
        self.world.lock().unwrap().steps += 1;
        Ok(texts.iter().flat_map(|text| [text.len() as f32, text.first().copied().unwrap_or(0) as f32]).collect())
    }
}

/// Takes the likeliest token, or by a seed one of the three likeliest.
pub(super) struct FakeAnswer {
    seed: Option<u64>,
    count: u64,
    said: f64,
    fails_after: Option<u64>,
}

impl FakeAnswer {
    pub(super) fn new(seed: Option<u64>) -> FakeAnswer {
        FakeAnswer { seed, count: 0, said: 0.0, fails_after: None }
    }

    pub(super) fn failing_after(count: u64) -> FakeAnswer {
        FakeAnswer { fails_after: Some(count), ..FakeAnswer::new(None) }
    }

    fn choose(&self, logits: &[f32]) -> Token {
        let mut order: Vec<Token> = (0..logits.len() as Token).collect();
        order.sort_by(|one, other| logits[*other as usize].total_cmp(&logits[*one as usize]));
        let Some(seed) = self.seed else { return order[0] };
        let mut hash = DefaultHasher::new();
        (seed, self.count).hash(&mut hash);
        order[(hash.finish() % 3) as usize]
    }
}

impl Answer for FakeAnswer {
    fn advance(&mut self, logits: &mut [f32]) -> crate::Result<Advance> {
        if self.fails_after == Some(self.count) {
            return Err(crate::Error::Invalid("nothing can follow".into()));
        }
        let token = self.choose(logits);
        self.said += f64::from(logits[token as usize]);
        self.count += 1;
        logits.fill(f32::NAN);
        let finished = (token == END).then_some(FinishReason::End);
        let text = if finished.is_some() { String::new() } else { format!("{token} ") };
        Ok(Advance { token, text, chosen: None, finished })
    }

    fn rest(&mut self) -> String {
        ".".into()
    }

    fn logprob(&self) -> f64 {
        self.said
    }
}

/// What an answer is when nothing else is computed.
pub(super) fn alone(prompt: &[Token], seed: Option<u64>, max_tokens: usize, context: usize) -> (String, FinishReason) {
    let (text, reason, _) = said_alone(prompt, seed, max_tokens, context);
    (text, reason)
}

/// The same, and how likely a token of it is.
pub(super) fn said_alone(
    prompt: &[Token],
    seed: Option<u64>,
    max_tokens: usize,
    context: usize,
) -> (String, FinishReason, f64) {
    let (mut answer, mut tokens, mut text) = (FakeAnswer::new(seed), prompt.to_vec(), String::new());
    let most = max_tokens.min(context - prompt.len());
    if most == 0 {
        return (text, FinishReason::Length, 0.0);
    }
    loop {
        let advance = answer.advance(&mut logits_after(&tokens)).unwrap();
        text.push_str(&advance.text);
        if let Some(reason) = advance.finished {
            return (text, reason, answer.logprob() / (tokens.len() - prompt.len()).max(1) as f64);
        }
        tokens.push(advance.token);
        if tokens.len() - prompt.len() >= most {
            let mean = answer.logprob() / (tokens.len() - prompt.len()) as f64;
            return (text + &answer.rest(), FinishReason::Length, mean);
        }
    }
}
