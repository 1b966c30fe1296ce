//! A request on its way: what its answers have in common, and each of them.

use std::time::Instant;

use tokio::sync::mpsc;
use wattle_engine::tokens::{Limits, SequenceId, Token};

use super::{Caller, Request, draft::Drafter, fair::Flow, scheduler::Place};
use crate::{
    Result,
    language::{Answer, FinishReason, Piece, TokenUsage},
};

/// A request.
pub(super) struct Group {
    pub(super) prompt: Vec<Token>,
    /// The answers that have not begun.
    pub(super) answers: Vec<Box<dyn Answer>>,
    /// How many there are in all.
    pub(super) count: usize,
    pub(super) ended: usize,
    /// How many are told.
    pub(super) choices: usize,
    pub(super) max_tokens: usize,
    pub(super) caller: Caller,
    pub(super) arrived: Instant,
    pub(super) usage: TokenUsage,
    pub(super) pieces: mpsc::UnboundedSender<Result<Piece>>,
    /// Where only the likeliest answers are told: what there is of each, and how likely a token of it is.
    pub(super) held: Vec<(Vec<Piece>, f64)>,
    /// Its place among those that wait, until its prompt is read.
    pub(super) place: Option<Place>,
    pub(super) _share: Option<Place>,
}

/// An answer that has begun.
pub(super) struct Branch {
    /// The request's number.
    pub(super) group: u64,
    pub(super) index: usize,
    pub(super) answer: Box<dyn Answer>,
    /// The prompt and the answer so far.
    pub(super) tokens: Vec<Token>,
    pub(super) prompt_tokens: usize,
    /// How many of the tokens the engine has.
    pub(super) computed: usize,
    pub(super) sequence: Option<SequenceId>,
    /// How many of the tokens were computed at some time.
    pub(super) reached: usize,
    /// In the order in which answers began.
    pub(super) number: u64,
    pub(super) drafter: Drafter,
    pub(super) last_token: Option<Instant>,
    /// Tokens that were chosen since the last piece.
    pub(super) untold: u32,
    /// Whether a step with it has failed already.
    pub(super) failed_before: bool,
    /// Whether its caller has time: others are read before it, and it makes room for them.
    pub(super) is_batch: bool,
}

impl Group {
    /// A request that fits, and where its caller gets the pieces.
    pub(super) fn new(
        request: Request,
        limits: &Limits,
        places: Option<(Place, Option<Place>)>,
    ) -> (Group, mpsc::UnboundedReceiver<Result<Piece>>) {
        let Request { prompt, answers, choices, max_tokens, caller } = request;
        let left = (limits.context_tokens.min(limits.cells) as usize).saturating_sub(prompt.len());
        let count = answers.len();
        let choices = (choices as usize).clamp(1, count.max(1));
        let (pieces, told) = mpsc::unbounded_channel();
        let (place, share) = places.map_or((None, None), |(place, share)| (Some(place), share));
        let group = Group {
            count,
            choices,
            answers,
            ended: 0,
            max_tokens: max_tokens.map_or(left, |most| (most as usize).min(left)),
            caller,
            arrived: Instant::now(),
            usage: TokenUsage::default(),
            pieces,
            held: if choices < count { (0..count).map(|_| (Vec::new(), 0.0)).collect() } else { Vec::new() },
            place,
            _share: share,
            prompt,
        };
        (group, told)
    }

    pub(super) fn flow(&self) -> Flow {
        Flow::new(self.caller.tenant.as_deref(), self.caller.priority)
    }

    /// Whether only some of the answers are told.
    pub(super) fn chooses(&self) -> bool {
        self.choices < self.count
    }

    /// Tells a part of an answer, or keeps it until it is known which ones are told.
    pub(super) fn tell(&mut self, index: usize, piece: Piece) {
        if self.chooses() {
            self.held[index].0.push(piece);
        } else {
            // Whoever does not listen any more is noticed before the next step.
            let _ = self.pieces.send(Ok(piece));
        }
    }

    /// An answer has ended; says whether all have.
    pub(super) fn end(&mut self, branch: &Branch, reason: FinishReason) -> bool {
        self.tell(branch.index, Piece::Ended { choice: branch.index as u32, reason });
        let tokens = (branch.tokens.len() - branch.prompt_tokens).max(1);
        if self.chooses() {
            self.held[branch.index].1 = branch.answer.logprob() / tokens as f64;
        }
        self.ended += 1;
        self.ended == self.count
    }

    /// Tells the rest when all answers have ended.
    pub(super) fn finish(mut self) {
        self.held.sort_by(|one, other| other.1.total_cmp(&one.1));
        for (choice, (pieces, _)) in self.held.into_iter().take(self.choices).enumerate() {
            for piece in pieces {
                let _ = self.pieces.send(Ok(renumbered(piece, choice as u32)));
            }
        }
        let _ = self.pieces.send(Ok(Piece::Done(self.usage)));
    }
}

fn renumbered(piece: Piece, choice: u32) -> Piece {
    match piece {
        Piece::Text { text, tokens, count, .. } => Piece::Text { choice, text, tokens, count },
        Piece::Ended { reason, .. } => Piece::Ended { choice, reason },
        other => other,
    }
}

impl Branch {
    /// Tokens that are to be computed before another one can be chosen.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens of the answer.
    pub(super) fn answered(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }
}
