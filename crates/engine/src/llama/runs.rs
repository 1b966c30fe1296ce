//! Which tokens of a batch llama.cpp computes together.

use std::ops::Range;

use crate::tokens::{Chunk, SequenceId};

/// From so many tokens on llama.cpp's attention goes over cells tile by tile, and skips those that no token of a tile looks
/// at; so tokens of several sequences are computed together only as long as they are fewer. Measured with a model of 135
/// million weights and 7 answers of 530 tokens: 96 tokens of a prompt took 455 ms with them, and 262 ms beside them.
pub(super) const TILE_TOKENS: usize = 64;

/// Tokens of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// The chunk's index.
    pub(super) chunk: usize,
    /// Which of its tokens.
    pub(super) tokens: Range<usize>,
}

/// Splits a batch whose sequences share their cells: prompts apart from each other and from answers.
pub(super) fn shared(chunks: &[Chunk<'_>]) -> Vec<Vec<Span>> {
    let mut runs: Vec<Vec<Span>> = Vec::new();
    let mut tokens = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        let count = chunk.tokens.len();
        if tokens == 0 || tokens + count >= TILE_TOKENS {
            runs.push(Vec::new());
            tokens = 0;
        }
        tokens += count;
        runs.last_mut().into_iter().for_each(|run| run.push(Span { chunk: index, tokens: 0..count }));
    }
    runs
}

/// Splits a batch whose sequences have cells of their own: answers together and prompts together, both in the order of the
/// sequences. For llama.cpp computes as many tokens of each at once, and only of sequences that follow each other by number; so
/// a prompt between two answers has its first token computed with them.
pub(super) fn divided(chunks: &[Chunk<'_>]) -> Vec<Vec<Span>> {
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    order.sort_by_key(|index| chunks[*index].sequence);
    let is_there = |number: Option<u32>| {
        number.is_some_and(|number| order.binary_search_by_key(&SequenceId(number), |at| chunks[*at].sequence).is_ok())
    };
    let (mut answers, mut prompts) = (Vec::new(), Vec::new());
    for index in &order {
        let Chunk { sequence: SequenceId(number), tokens, .. } = chunks[*index];
        let first = match tokens.len() {
            count if count < TILE_TOKENS => count,
            count if count > TILE_TOKENS && is_there(number.checked_sub(1)) && is_there(number.checked_add(1)) => 1,
            _ => 0,
        };
        let spans = [(&mut answers, 0..first), (&mut prompts, first..tokens.len())];
        for (run, tokens) in spans.into_iter().filter(|(_, tokens)| !tokens.is_empty()) {
            run.push(Span { chunk: *index, tokens });
        }
    }
    [answers, prompts].into_iter().filter(|run| !run.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of sequences, and how many tokens each has in the batch.
    fn split(chunks: &[(u32, usize)], by: fn(&[Chunk<'_>]) -> Vec<Vec<Span>>) -> Vec<Vec<(u32, Range<usize>)>> {
        let tokens = [0; 600];
        let chunks: Vec<Chunk<'_>> = chunks
            .iter()
            .map(|(sequence, count)| Chunk {
                sequence: SequenceId(*sequence),
                start: 0,
                tokens: &tokens[..*count],
                logits: 1,
            })
            .collect();
        let told = |span: Span| (chunks[span.chunk].sequence.0, span.tokens);
        by(&chunks).into_iter().map(|run| run.into_iter().map(told).collect()).collect()
    }

    #[test]
    fn a_long_prompt_is_computed_apart_from_those_that_share_its_cells() {
        assert_eq!(split(&[(2, 1), (0, 1), (1, 40)], shared), [vec![(2, 0..1), (0, 0..1), (1, 0..40)]]);
        assert_eq!(split(&[(2, 1), (0, 1), (1, 64)], shared), [vec![(2, 0..1), (0, 0..1)], vec![(1, 0..64)]]);
        assert_eq!(split(&[(0, 200), (1, 1)], shared), [vec![(0, 0..200)], vec![(1, 0..1)]]);
        assert!(split(&[], shared).is_empty());
    }

    #[test]
    fn answers_with_cells_of_their_own_are_computed_together_and_in_order() {
        assert_eq!(split(&[(2, 1), (0, 1), (1, 40)], divided), [vec![(0, 0..1), (1, 0..40), (2, 0..1)]]);
        assert_eq!(
            split(&[(2, 1), (0, 1), (1, 100), (3, 80)], divided),
            [vec![(0, 0..1), (1, 0..1), (2, 0..1)], vec![(1, 1..100), (3, 0..80)]]
        );
        // What is left of the prompt must be a tile.
        assert_eq!(split(&[(2, 1), (0, 1), (1, 64)], divided), [vec![(0, 0..1), (2, 0..1)], vec![(1, 0..64)]]);
        assert_eq!(split(&[(0, 200)], divided), [vec![(0, 0..200)]]);
        assert!(split(&[], divided).is_empty());
    }
}
