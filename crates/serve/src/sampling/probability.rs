//! Probabilities of tokens, by the logits as the model gave them.

use wattle_engine::tokens::Token;

/// Logits that are looked at together.
const BLOCK: usize = 64;

/// The natural logarithm of the sum of all exponentials, by which logits become log-probabilities.
pub(super) fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        return f64::from(most);
    }
    let sum: f64 = logits.iter().filter(|logit| !logit.is_nan()).map(|logit| f64::from(logit - most).exp()).sum();
    f64::from(most) + sum.ln()
}

/// The likeliest tokens, the likeliest first; of equal ones the lower first.
pub(super) fn likeliest(logits: &[f32], count: usize) -> Vec<(Token, f32)> {
    let mut found = Vec::new();
    // What a token has to be above once so many were found; most are not, and are passed over a block at a time.
    let mut least: Option<f32> = None;
    if count == 0 {
        return found;
    }
    for (block, logits) in logits.chunks(BLOCK).enumerate() {
        if least.is_some_and(|least| !logits.iter().fold(false, |above, logit| above | (*logit > least))) {
            continue;
        }
        let tokens = (block * BLOCK) as Token..;
        let above = |logit: f32| least.map_or(!logit.is_nan(), |least| logit > least);
        found.extend(tokens.zip(logits.iter().copied()).filter(|(_, logit)| above(*logit)));
        if found.len() >= count.saturating_mul(2) {
            first(&mut found, count);
            least = found.last().map(|last| last.1);
        }
    }
    first(&mut found, count);
    found
}

/// Leaves the largest of these, in descending order.
pub(super) fn first(all: &mut Vec<(Token, f32)>, count: usize) {
    let order = |one: &(Token, f32), other: &(Token, f32)| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0));
    if count < all.len() {
        if count > 0 {
            all.select_nth_unstable_by(count - 1, order);
        }
        all.truncate(count);
    }
    all.sort_unstable_by(order);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one() {
        let logits = [1.0_f32, -3.0, f32::NAN, 500.0, 499.5, f32::NEG_INFINITY];
        let sum = log_sum(&logits);
        let all: f64 = logits.iter().filter(|logit| !logit.is_nan()).map(|logit| (f64::from(*logit) - sum).exp()).sum();
        assert!((all - 1.0).abs() < 1e-9);
        assert_eq!(likeliest(&logits, 2).iter().map(|one| one.0).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(likeliest(&[2.0, 2.0, 1.0], 5).iter().map(|one| one.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(likeliest(&logits, 0).is_empty());
    }

    #[test]
    fn the_likeliest_are_those_that_sorting_all_finds() {
        // Values that repeat, so that equal ones meet at every bound.
        let logits: Vec<f32> = (0..5000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as f32).collect();
        for count in [1, 40, 300, 5000, 6000] {
            let mut all: Vec<(Token, f32)> = (0..).zip(logits.iter().copied()).collect();
            first(&mut all, count);
            assert_eq!(likeliest(&logits, count), all);
        }
    }
}
