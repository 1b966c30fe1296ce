use wattle_engine::tokens::SequenceId;

/// The engine's sequences that nobody has.
#[derive(Debug)]
pub(super) struct Pool(Vec<SequenceId>);

impl Pool {
    pub(super) fn new(sequences: u32) -> Pool {
        Pool((0..sequences).rev().map(SequenceId).collect())
    }

    pub(super) fn take(&mut self) -> Option<SequenceId> {
        self.0.pop()
    }

    pub(super) fn give_back(&mut self, sequence: SequenceId) {
        self.0.push(sequence);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
