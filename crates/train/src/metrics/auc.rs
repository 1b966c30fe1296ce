//! The area under the ROC curve.
//!
//! It is the probability that a random row of the class scores higher than a random row of another, a tie counting half
//! (Hanley and McNeil 1982). It is exact, from sorted scores, up to [`EXACT_SCORES`] scores; beyond, scores are counted in
//! bins that are even in the logit of the probability, and rows that share a bin count as ties.

/// Scores (rows times curves) that are kept and sorted: 64 MiB of them.
const EXACT_SCORES: usize = 1 << 22;

/// Bins of all curves together.
const BINS: usize = 1 << 20;

/// Logits beyond this, either way, share the last bin: a double near 1 tells nothing finer apart.
const LOGIT_BOUND: f64 = 40.0;

/// Collects scores for one curve (two classes) or one a class.
#[derive(Debug, Clone)]
pub(super) struct Auc {
    curves: Vec<Curve>,
    exact_scores: usize,
}

impl Auc {
    pub(super) fn new(classes: usize) -> Self {
        // Two classes have one curve, that of class 1.
        let curves = if classes == 2 { 1 } else { classes };
        Self { curves: vec![Curve::Exact(Vec::new()); curves], exact_scores: EXACT_SCORES / curves }
    }

    pub(super) fn push(&mut self, class: usize, probabilities: &[f64]) {
        if let [curve] = &mut self.curves[..] {
            curve.push(probabilities[1], class == 1);
        } else {
            for (index, (curve, &score)) in self.curves.iter_mut().zip(probabilities).enumerate() {
                curve.push(score, class == index);
            }
        }
        let count = self.curves.len();
        if matches!(&self.curves[0], Curve::Exact(scores) if scores.len() >= self.exact_scores) {
            for curve in &mut self.curves {
                curve.bin((BINS / count).max(1024));
            }
        }
    }

    pub(super) fn finish(self) -> Option<f64> {
        let areas: Vec<f64> = self.curves.into_iter().filter_map(Curve::area).collect();
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
    }
}

#[derive(Debug, Clone)]
enum Curve {
    Exact(Vec<(f64, bool)>),
    /// Per bin: rows of the class, rows of the others.
    Binned(Vec<(u64, u64)>),
}

impl Curve {
    fn push(&mut self, score: f64, of_class: bool) {
        match self {
            Self::Exact(scores) => scores.push((score, of_class)),
            Self::Binned(bins) => count(bins, score, of_class),
        }
    }

    fn bin(&mut self, bins: usize) {
        if let Self::Exact(scores) = self {
            let mut binned = vec![(0, 0); bins];
            for &(score, of_class) in scores.iter() {
                count(&mut binned, score, of_class);
            }
            *self = Self::Binned(binned);
        }
    }

    /// None where one side has no rows.
    fn area(self) -> Option<f64> {
        match self {
            Self::Exact(mut scores) => {
                scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
                area(scores.chunk_by(|a, b| a.0 == b.0).map(|ties| {
                    let of_class = ties.iter().filter(|(_, of_class)| *of_class).count() as u64;
                    (of_class, ties.len() as u64 - of_class)
                }))
            }
            Self::Binned(bins) => area(bins.into_iter()),
        }
    }
}

/// The area from groups of equal scores in rising order: (rows of the class, rows of the others).
fn area(groups: impl Iterator<Item = (u64, u64)>) -> Option<f64> {
    // Twice the number of pairs in the right order, exact in integers.
    let (mut of_class, mut others, mut twice_won) = (0u64, 0u64, 0u128);
    for (group_of_class, group_others) in groups {
        twice_won += u128::from(group_of_class) * u128::from(2 * others + group_others);
        of_class += group_of_class;
        others += group_others;
    }
    (of_class > 0 && others > 0).then(|| twice_won as f64 / (2.0 * of_class as f64 * others as f64))
}

fn count(bins: &mut [(u64, u64)], score: f64, of_class: bool) {
    let logit = (score / (1.0 - score)).ln().clamp(-LOGIT_BOUND, LOGIT_BOUND);
    let position = (logit + LOGIT_BOUND) / (2.0 * LOGIT_BOUND) * bins.len() as f64;
    let bin = &mut bins[(position as usize).min(bins.len() - 1)];
    if of_class { bin.0 += 1 } else { bin.1 += 1 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn auc(pairs: &[(usize, f64)]) -> Option<f64> {
        let mut auc = Auc::new(2);
        for &(class, score) in pairs {
            auc.push(class, &[1.0 - score, score]);
        }
        auc.finish()
    }

    #[test]
    fn small_curves_by_hand() {
        assert_eq!(auc(&[(0, 0.1), (0, 0.4), (1, 0.35), (1, 0.8)]), Some(0.75));
        assert_eq!(auc(&[(0, 0.5), (1, 0.5)]), Some(0.5));
        assert_eq!(auc(&[(0, 0.2), (1, 0.2), (1, 0.9)]), Some(0.75));
        assert_eq!(auc(&[(1, 0.2), (0, 0.9)]), Some(0.0));
        assert_eq!(auc(&[(1, 0.2)]), None);
    }

    #[test]
    fn bins_agree_with_the_exact_area() {
        let (mut exact, mut binned) = (Curve::Exact(Vec::new()), Curve::Exact(Vec::new()));
        binned.bin(BINS);
        for row in 0..20_000 {
            let uniform = |salt| (crate::seed::hash(salt, row) >> 11) as f64 / (1u64 << 53) as f64;
            let logit = 12.0 * uniform(1) - 6.0;
            let score = 1.0 / (1.0 + (-logit).exp());
            let of_class = uniform(2) < score;
            exact.push(score, of_class);
            binned.push(score, of_class);
        }
        assert!((exact.area().unwrap() - binned.area().unwrap()).abs() < 1e-5);
    }

    #[test]
    fn certain_scores_have_bins() {
        let mut curve = Curve::Exact(Vec::new());
        curve.bin(1024);
        curve.push(0.0, false);
        curve.push(1.0, true);
        assert_eq!(curve.area(), Some(1.0));
    }
}
