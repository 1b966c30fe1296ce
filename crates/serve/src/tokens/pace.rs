//! How long a step takes, learnt from those that were: so much in any case, so much for each token of a prompt, so much for
//! each row of an answer.

/// How much an earlier step counts beside the next one.
const MEMORY: f64 = 0.97;
/// What is believed before anything was measured, in seconds: a model of a few hundred million weights on a few cores.
const BELIEVED: [f64; 3] = [0.01, 0.001, 0.001];
/// What the first step reads of prompts at most: it may be of a model that takes many times as long.
const FIRST_PROMPT_TOKENS: f64 = 128.0;
/// No part of a step takes less.
const LEAST: [f64; 3] = [1e-5, 1e-7, 1e-7];
/// How sure that belief is, against one measured step.
const SURENESS: f64 = 0.5;

/// Least squares over the steps so far, of which the latest count most.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Of `[1, prompt tokens, answer rows]` with itself.
    products: [[f64; 3]; 3],
    /// Of the same with the seconds.
    targets: [f64; 3],
    parts: [f64; 3],
    /// Whether any step was measured.
    is_known: bool,
}

impl Pace {
    pub(super) fn new() -> Pace {
        Pace { products: [[0.0; 3]; 3], targets: [0.0; 3], parts: BELIEVED, is_known: false }
    }

    /// What a step is expected to take, in seconds.
    pub(super) fn seconds(&self, prompt_tokens: usize, rows: usize) -> f64 {
        let [always, token, row] = self.parts;
        always + token * prompt_tokens as f64 + row * rows as f64
    }

    /// How many tokens of prompts fit into a step of so many rows that is to take so long; may be less than one. The first
    /// step is a short one, by which the next ones are known.
    pub(super) fn prompt_tokens(&self, rows: usize, seconds: f64) -> f64 {
        let fit = (seconds - self.seconds(0, rows)) / self.parts[1];
        if self.is_known { fit } else { fit.min(FIRST_PROMPT_TOKENS) }
    }

    /// Learns from a step.
    pub(super) fn learn(&mut self, prompt_tokens: usize, rows: usize, seconds: f64) {
        if !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        let features = [1.0, prompt_tokens as f64, rows as f64];
        // Long steps must not count more than short ones for being long: what matters is the error as a part of them.
        let weight = 1.0 / (self.seconds(prompt_tokens, rows).max(1e-4)).powi(2);
        for (one, products) in self.products.iter_mut().enumerate() {
            for (other, product) in products.iter_mut().enumerate() {
                *product = *product * MEMORY + weight * features[one] * features[other];
            }
            self.targets[one] = self.targets[one] * MEMORY + weight * features[one] * seconds;
        }
        self.parts = self.solve();
        self.is_known = true;
    }

    /// Ridge regression towards what was believed, each part scaled by it.
    fn solve(&self) -> [f64; 3] {
        let mut matrix = self.products;
        let mut right = self.targets;
        for part in 0..3 {
            let pull = SURENESS * (1.0 / (BELIEVED[part] * BELIEVED[part])) * 1e-2;
            matrix[part][part] += pull;
            right[part] += pull * BELIEVED[part];
        }
        let determinant = |m: &[[f64; 3]; 3]| {
            m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
                + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
        };
        let whole = determinant(&matrix);
        if !whole.is_finite() || whole.abs() < 1e-300 {
            return self.parts;
        }
        // Cramer's rule.
        std::array::from_fn(|part| {
            let mut replaced = matrix;
            for row in 0..3 {
                replaced[row][part] = right[row];
            }
            let value = determinant(&replaced) / whole;
            if value.is_finite() { value.max(LEAST[part]) } else { BELIEVED[part] }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_after_some_steps() {
        for (always, token, row) in [(0.02, 0.004, 0.0005), (0.001, 0.0001, 0.0001), (0.3, 0.05, 0.01)] {
            let mut pace = Pace::new();
            for step in 0..200 {
                let (tokens, rows) = ((step * 7) % 64, 1 + step % 8);
                pace.learn(tokens, rows, always + token * tokens as f64 + row * rows as f64);
            }
            for (tokens, rows) in [(0, 4), (40, 4), (100, 8)] {
                let real = always + token * tokens as f64 + row * rows as f64;
                let told = pace.seconds(tokens, rows);
                assert!((told / real - 1.0).abs() < 0.25, "{told} of {real}");
            }
        }
    }

    #[test]
    fn the_first_step_is_a_short_one() {
        let mut pace = Pace::new();
        assert!((pace.prompt_tokens(0, 2.0) - FIRST_PROMPT_TOKENS).abs() < 1e-9);
        pace.learn(128, 0, 0.02);
        assert!(pace.prompt_tokens(0, 2.0) > 1000.0);
        let mut slow = Pace::new();
        slow.learn(128, 0, 3.0);
        assert!(slow.prompt_tokens(0, 2.0) < 200.0, "{}", slow.prompt_tokens(0, 2.0));
    }

    #[test]
    fn nothing_measured_makes_it_senseless() {
        let mut pace = Pace::new();
        for seconds in [0.0, f64::NAN, f64::INFINITY, 1e9, 0.0, -1.0, 1e-9] {
            pace.learn(0, 1, seconds);
            pace.learn(1000, 0, seconds);
            assert!(pace.seconds(10, 10).is_finite() && pace.seconds(10, 10) > 0.0);
            assert!(!pace.prompt_tokens(3, 0.1).is_nan());
        }
    }
}
