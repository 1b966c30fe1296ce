#![allow(clippy::unwrap_used)]

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::runner::{Local, MapReduce};
use crate::seed::hash;
use crate::shards::{ShardsBuilder, ShardsOptions, TILE};

/// A number in [low, high) that `index` decides.
pub(crate) fn uniform(seed: u64, index: u64, range: Range<f64>) -> f64 {
    range.start + (range.end - range.start) * (hash(seed, index) >> 11) as f64 / (1u64 << 53) as f64
}

fn random(loss: Loss, rows: usize, features: usize, seed: u64, memory_bytes: u64, shard_rows: usize) -> Shards {
    let dir = tempfile::tempdir().unwrap();
    let spill_dir = dir.path().into();
    let options = ShardsOptions { features, shard_rows, weighted: true, memory_bytes, spill_dir, seed };
    let mut builder = ShardsBuilder::new(options).unwrap();
    for row in 0..rows as u64 {
        let values: Vec<f64> = (0..features as u64).map(|f| uniform(seed, row * 1000 + f, -2.0..2.0)).collect();
        let target = match loss {
            Loss::SquaredError => uniform(seed, row * 1000 + 997, -3.0..3.0),
            Loss::Logistic => (hash(seed, row * 1000 + 997) % 2) as f64,
            Loss::Multinomial { classes } => (hash(seed, row * 1000 + 997) % classes as u64) as f64,
        };
        builder.push(&values, target, uniform(seed, row * 1000 + 998, 0.0..2.0)).unwrap();
    }
    builder.finish().unwrap()
}

fn parameters(loss: Loss, features: usize, seed: u64) -> Vec<f64> {
    (0..loss.parameters(features) as u64).map(|index| uniform(seed ^ 77, index, -1.0..1.0)).collect()
}

fn pass(kernel: Kernel, shards: &Shards, parameters: &[f64], threads: usize) -> Vec<f64> {
    let mut sum = vec![f64::NAN; kernel.partial(shards.features())];
    let runner = Local::new(threads).unwrap();
    runner.map_reduce(kernel, shards, &shards.slices(), parameters, &mut sum).unwrap();
    sum
}

/// The loss by its definition, row by row.
fn by_definition(loss: Loss, shards: &Shards, parameters: &[f64]) -> f64 {
    let (weights, intercepts) = split(parameters, shards.features());
    let mut sum = 0.0;
    shards
        .visit_rows(0..shards.rows(), |_, row, target, weight| {
            let z: Vec<f64> = weights
                .chunks(row.len())
                .zip(intercepts)
                .map(|(weights, intercept)| intercept + row.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>())
                .collect();
            sum += weight
                * match loss {
                    Loss::SquaredError => 0.5 * (z[0] - target).powi(2),
                    Loss::Logistic => z[0].exp().ln_1p() - target * z[0],
                    Loss::Multinomial { .. } => z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[target as usize],
                };
        })
        .unwrap();
    sum
}

fn losses() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::SquaredError),
        Just(Loss::Logistic),
        (2usize..6).prop_map(|classes| Loss::Multinomial { classes })
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gradients_are_the_slopes_of_the_loss(loss in losses(), rows in 1usize..700, features in 1usize..12, seed: u64) {
        let shards = random(loss, rows, features, seed, u64::MAX, TILE);
        let parameters = parameters(loss, features, seed);
        let sum = pass(Kernel::Gradient(loss), &shards, &parameters, 1);
        let expected = by_definition(loss, &shards, &parameters);
        prop_assert!((sum[0] - expected).abs() <= 1e-12 * expected.abs(), "{} {expected}", sum[0]);
        prop_assert!((sum[1] - shards.weight_sum()).abs() <= 1e-12 * shards.weight_sum());
        let value = pass(Kernel::Value(loss), &shards, &parameters, 1);
        prop_assert_eq!(&value[..], &sum[..GRADIENT]);
        let h = 1e-5;
        for (index, slope) in sum[GRADIENT..].iter().enumerate() {
            let at = |shift: f64| {
                let mut moved = parameters.clone();
                moved[index] += shift;
                by_definition(loss, &shards, &moved)
            };
            let difference = (at(h) - at(-h)) / (2.0 * h);
            prop_assert!((slope - difference).abs() <= 1e-6 * (1.0 + sum[1]), "{index}: {slope} {difference}");
        }
    }
}

#[test]
fn threads_and_disk_change_no_bit() {
    for loss in [Loss::SquaredError, Loss::Logistic, Loss::Multinomial { classes: 3 }] {
        let (rows, features) = (30 * TILE + 77, 5);
        let memory = random(loss, rows, features, 3, u64::MAX, 4 * TILE);
        let spilled = random(loss, rows, features, 3, 0, 4 * TILE);
        assert_eq!((memory.spilled_count(), spilled.spilled_count()), (0, 8));
        let parameters = parameters(loss, features, 3);
        let kernel = Kernel::Gradient(loss);
        let expected = pass(kernel, &memory, &parameters, 1);
        for threads in [1, 2, 3, 8] {
            assert_eq!(pass(kernel, &memory, &parameters, threads), expected, "{loss:?} {threads}");
            assert_eq!(pass(kernel, &spilled, &parameters, threads), expected, "{loss:?} {threads}, spilled");
        }
    }
}

#[test]
fn any_range_of_rows_is_summed() {
    let shards = random(Loss::Logistic, 900, 3, 4, 0, TILE);
    let parameters = parameters(Loss::Logistic, 3, 4);
    let kernel = Kernel::Gradient(Loss::Logistic);
    let runner = Local::new(2).unwrap();
    let of = |range: Range<usize>| {
        let mut sum = vec![0.0; kernel.partial(3)];
        runner.map_reduce(kernel, &shards, &shards.slices_of(range), &parameters, &mut sum).unwrap();
        sum
    };
    let whole = of(0..900);
    for cut in [1, 7, 255, 256, 257, 511, 899] {
        for ((a, b), whole) in of(0..cut).iter().zip(of(cut..900)).zip(&whole) {
            assert!((a + b - whole).abs() < 1e-10 * (1.0 + whole.abs()), "{cut}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    // The dispatched pass against the same code compiled for the plain target.
    let shards = random(Loss::Multinomial { classes: 4 }, 1000, 7, 5, u64::MAX, 4 * TILE);
    let classes = 4;
    let parameters = parameters(Loss::Multinomial { classes }, 7, 5);
    let dispatched = pass(Kernel::Gradient(Loss::Multinomial { classes }), &shards, &parameters, 1);
    let mut plain = vec![0.0; dispatched.len()];
    for slice in shards.slices() {
        shards
            .visit(slice, &mut Vec::new(), |tile| {
                multinomial::softmax(&tile, &parameters, classes, true, &mut Vec::new(), &mut plain);
            })
            .unwrap();
    }
    assert_eq!(dispatched, plain);
}

#[test]
fn what_overflows_is_not_hidden() {
    for loss in [Loss::SquaredError, Loss::Logistic, Loss::Multinomial { classes: 3 }] {
        let shards = random(loss, 300, 2, 6, u64::MAX, TILE);
        let mut parameters = parameters(loss, 2, 6);
        parameters[0] = f64::NAN;
        assert!(!pass(Kernel::Gradient(loss), &shards, &parameters, 1)[0].is_finite(), "{loss:?}");
        parameters[0] = 1e308;
        parameters[1] = -1e308;
        assert!(!pass(Kernel::Gradient(loss), &shards, &parameters, 1)[0].is_finite(), "{loss:?}");
    }
}

#[test]
fn predictions_are_probabilities() {
    for (loss, outputs) in [(Loss::Logistic, 2), (Loss::Multinomial { classes: 5 }, 5), (Loss::SquaredError, 1)] {
        let shards = random(loss, 600, 3, 8, u64::MAX, TILE);
        let parameters = parameters(loss, 3, 8);
        let (mut rows, mut loss_sum) = (0, 0.0);
        predict(loss, &shards, &parameters, |target, got| {
            assert_eq!(got.len(), outputs);
            if outputs > 1 {
                assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-14);
                loss_sum -= got[target as usize].ln();
            }
            rows += 1;
        })
        .unwrap();
        assert_eq!(rows, 600);
        assert!(loss_sum >= 0.0);
    }
}
