//! What may follow, guessed by looking up where the last tokens stood before (Saxena 2023, "Prompt lookup decoding").

use wattle_engine::tokens::Token;

use super::pace::Pace;

/// The most tokens of a draft.
const MOST: usize = 8;
/// The last tokens that are looked up: so many at first, and fewer where they did not stand before.
const NGRAM: std::ops::RangeInclusive<usize> = 2..=4;
/// How much a draft's fate changes what is expected of the next one.
const LEARNING: f64 = 0.2;
/// How much it changes what is expected of other answers' drafts.
const LEARNING_OF_ALL: f64 = 0.02;
/// After so many steps without a draft, one of the answers in them tries one again; after twice as many each time that it was
/// wrong, up to the second number.
const TRY_AGAIN: (usize, usize) = (32, 1024);
/// How long such a try is.
const TRIED: usize = 2;

/// How drafts of one answer fare.
#[derive(Debug, Clone)]
pub(super) struct Drafter {
    /// The chance that a drafted token is the one that is chosen, if all before it were.
    rate: f64,
    /// Steps since the last draft.
    since: usize,
    /// Steps until one is tried although it may not pay.
    patience: usize,
}

/// How drafts of all answers fare, which is what is expected of the next answer's.
#[derive(Debug)]
pub(super) struct Drafting {
    rate: f64,
    patience: usize,
}

impl Drafting {
    pub(super) fn new() -> Drafting {
        // As likely as not, until it is known better.
        Drafting { rate: 0.5, patience: TRY_AGAIN.0 }
    }

    /// For an answer of which nothing is known yet.
    pub(super) fn drafter(&self) -> Drafter {
        Drafter { rate: self.rate, since: 0, patience: self.patience }
    }

    /// Notes how many of an answer's drafted tokens were right.
    pub(super) fn learn(&mut self, drafter: &mut Drafter, drafted: usize, accepted: usize) {
        // What follows the first wrong one says nothing.
        for index in 0..drafted.min(accepted + 1) {
            let right = if index < accepted { 1.0 } else { 0.0 };
            drafter.rate += LEARNING * (right - drafter.rate);
            self.rate += LEARNING_OF_ALL * (right - self.rate);
        }
        let patience = if accepted > 0 { TRY_AGAIN.0 } else { (2 * drafter.patience).min(TRY_AGAIN.1) };
        (drafter.patience, self.patience) = (patience, patience);
    }
}

impl Drafter {
    /// Tokens that may follow these, no more than pay in a step of so many rows.
    pub(super) fn draft<'a>(&mut self, tokens: &'a [Token], most: usize, rows: usize, pace: &Pace) -> &'a [Token] {
        self.since += 1;
        let paid = self.paying(rows, pace);
        let most = if paid == 0 && self.since >= self.patience * rows { TRIED.min(most) } else { paid.min(most) };
        let draft = if most == 0 { &[] } else { look_up(tokens, most) };
        if !draft.is_empty() {
            self.since = 0;
        }
        draft
    }

    /// How many drafted tokens give the most tokens for the time of a step, in which all other rows have to wait for them.
    fn paying(&self, rows: usize, pace: &Pace) -> usize {
        let rate = |drafted: usize| {
            let gained: f64 = (1..=drafted).map(|index| self.rate.powi(index as i32)).sum();
            (rows as f64 + gained) / pace.seconds(0, rows + drafted)
        };
        let best = (0..=MOST).map(|drafted| (drafted, rate(drafted))).max_by(|one, other| one.1.total_cmp(&other.1));
        best.map_or(0, |(drafted, _)| drafted)
    }
}

/// What followed where the last tokens stood before, the latest time that they did.
fn look_up(tokens: &[Token], most: usize) -> &[Token] {
    for length in NGRAM.rev() {
        if tokens.len() <= length {
            continue;
        }
        let (before, last) = tokens.split_at(tokens.len() - length);
        // The end of an earlier place is before the last token.
        let ends = (length..=before.len() + length - 1).rev();
        let found = ends.into_iter().find(|end| tokens[end - length..*end] == *last);
        if let Some(end) = found {
            return &tokens[end..tokens.len().min(end + most)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed_again() {
        assert_eq!(look_up(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 2), [4, 5]);
        assert_eq!(look_up(&[7, 8, 1, 7, 8, 2, 7, 8], 8), [2, 7, 8]);
        assert_eq!(look_up(&[5, 5, 5, 5], 8), [5]);
        assert!(look_up(&[1, 2, 3, 4], 8).is_empty());
        assert!(look_up(&[1], 8).is_empty() && look_up(&[], 8).is_empty());
    }

    #[test]
    fn drafts_that_are_wrong_are_no_longer_made_but_tried_now_and_then() {
        let pace = Pace::new();
        let tokens = [1, 2, 3, 4, 1, 2];
        let mut drafting = Drafting::new();
        let mut drafter = drafting.drafter();
        let mut drafted = 0;
        for _ in 0..8000 {
            let draft = drafter.draft(&tokens, 8, 8, &pace).len();
            drafted += draft;
            if draft > 0 {
                drafting.learn(&mut drafter, draft, 0);
            }
        }
        assert!((6..=40).contains(&drafted), "{drafted}");
        for _ in 0..20 {
            drafting.learn(&mut drafter, 2, 2);
        }
        assert_eq!(drafter.draft(&tokens, 8, 1, &pace).len(), 4);
    }

    #[test]
    fn what_was_learnt_of_earlier_answers_is_expected_of_the_next() {
        let pace = Pace::new();
        let tokens = [1, 2, 3, 4, 1, 2];
        let mut drafting = Drafting::new();
        assert!(!drafting.drafter().draft(&tokens, 8, 8, &pace).is_empty());
        for _ in 0..100 {
            let mut drafter = drafting.drafter();
            drafting.learn(&mut drafter, 2, 0);
        }
        assert!(drafting.drafter().draft(&tokens, 8, 8, &pace).is_empty());
    }
}
