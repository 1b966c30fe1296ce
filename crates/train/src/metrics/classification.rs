//! Log loss, accuracy, ROC AUC, and what each class gets right.

use serde::{Deserialize, Serialize};

use super::auc::Auc;

/// How good a classifier is, every row counted once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationMetrics {
    /// Rows that were counted.
    pub rows: u64,
    /// The mean of −ln of the true class's probability, which is taken to be at least 2.2e-16.
    pub log_loss: f64,
    /// The share of rows whose most probable class is the true one.
    pub accuracy: f64,
    /// The area under the ROC curve: of class 1 for two classes, else the mean over the classes that have rows, each
    /// against the rest. None where all rows are of one class.
    pub roc_auc: Option<f64>,
    /// Each class, in the order of the classes.
    pub classes: Vec<ClassMetrics>,
    /// Rows by true class, columns by predicted class; none above 100 classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Vec<Vec<u64>>>,
}

/// How good a classifier is for one class. A ratio whose denominator is none is 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Of the rows predicted to be of this class, the share that are.
    pub precision: f64,
    /// Of the rows of this class, the share that were predicted to be.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// Rows of this class.
    pub support: u64,
}

/// Sums what [`ClassificationMetrics`] needs.
#[derive(Debug, Clone)]
pub struct ClassificationAccumulator {
    classes: usize,
    rows: u64,
    log_loss: f64,
    confusion: Vec<u64>,
    auc: Auc,
}

/// A confusion matrix of more classes than this is no longer read by people.
const CONFUSION_CLASSES: usize = 100;

impl ClassificationAccumulator {
    /// For `classes` classes, at least two.
    pub fn new(classes: usize) -> Self {
        Self { classes, rows: 0, log_loss: 0.0, confusion: vec![0; classes * classes], auc: Auc::new(classes) }
    }

    /// Counts a row: the number of its true class, and the probability of each class (also of both classes where there
    /// are two).
    pub fn push(&mut self, class: usize, probabilities: &[f64]) {
        debug_assert_eq!(probabilities.len(), self.classes);
        self.rows += 1;
        self.log_loss -= probabilities[class].max(f64::EPSILON).ln();
        self.confusion[class * self.classes + most_probable(probabilities)] += 1;
        self.auc.push(class, probabilities);
    }

    /// The metrics of the rows so far; none without rows.
    pub fn finish(self) -> Option<ClassificationMetrics> {
        if self.rows == 0 {
            return None;
        }
        let count = |of: usize, predicted: usize| self.confusion[of * self.classes + predicted];
        let mut correct = 0;
        let classes = (0..self.classes)
            .map(|class| {
                let hits = count(class, class);
                let support: u64 = (0..self.classes).map(|predicted| count(class, predicted)).sum();
                let predicted: u64 = (0..self.classes).map(|of| count(of, class)).sum();
                correct += hits;
                ClassMetrics {
                    precision: ratio(hits, predicted),
                    recall: ratio(hits, support),
                    f1: ratio(2 * hits, predicted + support),
                    support,
                }
            })
            .collect();
        let confusion = (self.classes <= CONFUSION_CLASSES)
            .then(|| self.confusion.chunks(self.classes).map(<[u64]>::to_vec).collect());
        Some(ClassificationMetrics {
            rows: self.rows,
            log_loss: self.log_loss / self.rows as f64,
            accuracy: ratio(correct, self.rows),
            roc_auc: self.auc.finish(),
            classes,
            confusion,
        })
    }
}

/// The class that is predicted: the most probable one, and of equals the first.
pub fn most_probable(probabilities: &[f64]) -> usize {
    let mut best = 0;
    for (class, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = class;
        }
    }
    best
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn five_rows_of_three_classes_by_hand() {
        let mut sums = ClassificationAccumulator::new(3);
        sums.push(0, &[0.7, 0.2, 0.1]);
        sums.push(0, &[0.4, 0.5, 0.1]);
        sums.push(1, &[0.1, 0.8, 0.1]);
        sums.push(1, &[0.2, 0.6, 0.2]);
        sums.push(2, &[0.3, 0.3, 0.4]);
        let metrics = sums.finish().unwrap();
        assert_eq!(metrics.confusion.unwrap(), vec![vec![1, 1, 0], vec![0, 2, 0], vec![0, 0, 1]]);
        assert!((metrics.accuracy - 0.8).abs() < 1e-15);
        let expected = -(0.7f64.ln() + 0.4f64.ln() + 0.8f64.ln() + 0.6f64.ln() + 0.4f64.ln()) / 5.0;
        assert!((metrics.log_loss - expected).abs() < 1e-15);
        assert_eq!(metrics.roc_auc, Some(1.0));
        let [first, second, third] = &metrics.classes[..] else { panic!("three classes") };
        assert_eq!((first.precision, first.recall, first.support), (1.0, 0.5, 2));
        assert!((first.f1 - 2.0 / 3.0).abs() < 1e-15);
        assert!((second.precision - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!((second.recall, third.f1), (1.0, 1.0));
    }

    #[test]
    fn a_class_without_rows_has_zeros_and_no_part_in_the_auc() {
        let mut sums = ClassificationAccumulator::new(3);
        sums.push(0, &[0.9, 0.1, 0.0]);
        sums.push(1, &[0.8, 0.2, 0.0]);
        let metrics = sums.finish().unwrap();
        assert_eq!(metrics.classes[2], ClassMetrics { precision: 0.0, recall: 0.0, f1: 0.0, support: 0 });
        assert_eq!(metrics.roc_auc, Some(1.0));
    }

    #[test]
    fn a_certain_error_costs_much_but_not_everything() {
        let mut sums = ClassificationAccumulator::new(2);
        sums.push(1, &[1.0, 0.0]);
        let metrics = sums.finish().unwrap();
        assert!((metrics.log_loss - 36.043_653_389_117_15).abs() < 1e-9);
        assert_eq!(metrics.roc_auc, None);
    }
}
