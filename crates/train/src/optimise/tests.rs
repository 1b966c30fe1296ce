#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use super::*;
use crate::kernel::{GRADIENT, Kernel, predict};
use crate::runner::Local;
use crate::seed::hash;
use crate::shards::{ShardsBuilder, ShardsOptions, TILE};

fn uniform(seed: u64, index: usize) -> f64 {
    2.0 * (hash(seed, index as u64) >> 11) as f64 / (1u64 << 53) as f64 - 1.0
}

struct Data {
    features: usize,
    values: Vec<f64>,
    targets: Vec<f64>,
}

impl Data {
    /// Rows of independent features; `target` makes the target of a row and its noise in [-1, 1).
    fn new(rows: usize, features: usize, seed: u64, target: impl Fn(&[f64], f64) -> f64) -> Self {
        let values: Vec<f64> = (0..rows * features).map(|index| uniform(seed, index)).collect();
        let targets =
            (0..rows).map(|row| target(&values[row * features..(row + 1) * features], uniform(!seed, row))).collect();
        Self { features, values, targets }
    }

    fn shards(&self) -> Shards {
        Shards::from_rows(self.features, &self.values, &self.targets, None, 1).unwrap()
    }

    fn problem(&self, loss: Loss) -> Problem {
        Problem { loss, features: self.features, intercept: true, l1: 0.0, l2: 0.0 }
    }

    /// Weights and intercept by the normal equations (with l2 on the weights), solved by Gaussian elimination.
    fn closed_form(&self, l2: f64) -> Vec<f64> {
        let n = self.features + 1;
        let rows = self.targets.len() as f64;
        let mut system = vec![vec![0.0; n + 1]; n];
        for (row, target) in self.values.chunks(self.features).zip(&self.targets) {
            let mut row = row.to_vec();
            row.push(1.0);
            for i in 0..n {
                for j in 0..n {
                    system[i][j] += row[i] * row[j] / rows;
                }
                system[i][n] += row[i] * target / rows;
            }
        }
        for (feature, row) in system.iter_mut().enumerate().take(self.features) {
            row[feature] += l2;
        }
        for pivot in 0..n {
            let best = (pivot..n).max_by(|&a, &b| system[a][pivot].abs().total_cmp(&system[b][pivot].abs())).unwrap();
            system.swap(pivot, best);
            for row in 0..n {
                if row != pivot {
                    let factor = system[row][pivot] / system[pivot][pivot];
                    let pivot_row = system[pivot].clone();
                    for (value, above) in system[row].iter_mut().zip(pivot_row) {
                        *value -= factor * above;
                    }
                }
            }
        }
        (0..n).map(|i| system[i][n] / system[i][i]).collect()
    }
}

fn solve(problem: &Problem, shards: &Shards, options: impl Into<Optimiser>) -> Result<Fitted> {
    let start = vec![0.0; problem.parameters()];
    let mut observe = |_: &Progress| ControlFlow::Continue(());
    fit(problem, &start, shards, None, &options.into(), &Local::new(2)?, &mut observe)
}

fn lbfgs() -> Method {
    Method::Lbfgs(LbfgsOptions::default())
}

fn gradient(problem: &Problem, shards: &Shards, parameters: &[f64]) -> Vec<f64> {
    let kernel = Kernel::Gradient(problem.loss);
    let mut sum = vec![0.0; kernel.partial(problem.features)];
    Local::new(1).unwrap().map_reduce(kernel, shards, &shards.slices(), parameters, &mut sum).unwrap();
    let mut gradient: Vec<f64> = sum[GRADIENT..].iter().map(|value| value / sum[1]).collect();
    for (slope, weight) in gradient[..problem.weights()].iter_mut().zip(parameters) {
        *slope += problem.l2 * weight;
    }
    gradient
}

fn assert_close(got: &[f64], want: &[f64], relative: f64) {
    let scale = want.iter().fold(0.0f64, |scale, value| scale.max(value.abs()));
    for (got_one, want_one) in got.iter().zip(want) {
        assert!((got_one - want_one).abs() <= relative * scale, "{got:?} instead of {want:?}");
    }
}

fn line(row: &[f64], noise: f64) -> f64 {
    100.0 + row.iter().enumerate().map(|(index, x)| (index as f64 - 2.0) * 30.0 * x).sum::<f64>() + 20.0 * noise
}

fn coin(row: &[f64], noise: f64) -> f64 {
    let z: f64 = row.iter().enumerate().map(|(index, x)| (index as f64 - 1.0) * x).sum();
    f64::from(z + 1.5 * noise > 0.3)
}

fn third(row: &[f64], noise: f64) -> f64 {
    let scores = [row[0] + noise, row[1] - noise, 0.2 + row[0] * noise];
    (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap() as f64
}

#[test]
fn lbfgs_is_the_closed_form_of_least_squares() {
    let data = Data::new(3000, 7, 1, line);
    let shards = data.shards();
    let fitted = solve(&data.problem(Loss::SquaredError), &shards, lbfgs()).unwrap();
    assert_eq!(fitted.stop, Stop::Converged);
    assert!(fitted.iterations < 40, "{}", fitted.iterations);
    assert_close(&fitted.parameters, &data.closed_form(0.0), 1e-8);
    let ridge = Problem { l2: 0.3, ..data.problem(Loss::SquaredError) };
    assert_close(&solve(&ridge, &shards, lbfgs()).unwrap().parameters, &data.closed_form(0.3), 1e-8);
}

#[test]
fn lbfgs_is_the_closed_form_on_nearly_collinear_features() {
    let mut data = Data::new(2000, 5, 2, line);
    for row in data.values.chunks_mut(5) {
        row[4] = row[0] + row[1] + 0.01 * row[4];
        row[3] = row[2] + 0.03 * row[3];
    }
    let fitted = solve(&data.problem(Loss::SquaredError), &data.shards(), lbfgs()).unwrap();
    assert_close(&fitted.parameters, &data.closed_form(0.0), 1e-4);
}

#[test]
fn lbfgs_bears_unscaled_features() {
    let mut data = Data::new(1000, 3, 3, line);
    for row in data.values.chunks_mut(3) {
        row[0] *= 1e3;
        row[2] *= 1e-2;
    }
    let fitted = solve(&data.problem(Loss::SquaredError), &data.shards(), lbfgs()).unwrap();
    let want = data.closed_form(0.0);
    for (got, want) in fitted.parameters.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-4 * want.abs(), "{fitted:?} {want}");
    }
}

#[test]
fn a_line_without_noise_is_found() {
    let data = Data::new(50, 1, 4, |row, _| 2.0 * row[0] + 1.0);
    for method in [
        lbfgs(),
        Method::Gd(GdOptions { learning_rate: 0.5, ..GdOptions::default() }),
        Method::Sgd(SgdOptions { epochs: 3000, learning_rate: 0.05, ..SgdOptions::default() }),
    ] {
        let fitted = solve(&data.problem(Loss::SquaredError), &data.shards(), method.clone()).unwrap();
        assert_close(&fitted.parameters, &[2.0, 1.0], 1e-7);
        assert!(fitted.loss < 1e-12, "{method:?}");
    }
}

#[test]
fn without_an_intercept_it_stays_zero() {
    let data = Data::new(400, 2, 5, line);
    for method in [lbfgs(), Method::Gd(GdOptions::default()), Method::Sgd(SgdOptions::default())] {
        let problem = Problem { intercept: false, l1: 0.01, ..data.problem(Loss::SquaredError) };
        let fitted = solve(&problem, &data.shards(), method).unwrap();
        assert_eq!(fitted.parameters[2], 0.0);
        assert!(fitted.parameters[0] != 0.0);
    }
}

#[test]
fn logistic_optima_have_no_slope() {
    let data = Data::new(4000, 4, 6, coin);
    let shards = data.shards();
    let problem = Problem { l2: 0.001, ..data.problem(Loss::Logistic) };
    let fitted = solve(&problem, &shards, lbfgs()).unwrap();
    assert!(gradient(&problem, &shards, &fitted.parameters).iter().all(|slope| slope.abs() < 1e-9));
    let descended = solve(
        &problem,
        &shards,
        Method::Gd(GdOptions { learning_rate: 4.0, iterations: 5000, ..GdOptions::default() }),
    )
    .unwrap();
    assert_close(&descended.parameters, &fitted.parameters, 1e-6);

    let data = Data::new(4000, 2, 7, third);
    let problem = Problem { l2: 0.001, ..data.problem(Loss::Multinomial { classes: 3 }) };
    let shards = data.shards();
    let fitted = solve(&problem, &shards, lbfgs()).unwrap();
    assert!(gradient(&problem, &shards, &fitted.parameters).iter().all(|slope| slope.abs() < 1e-9));
}

#[test]
fn two_classes_are_the_same_to_both_logistic_losses() {
    let data = Data::new(2000, 3, 8, coin);
    let shards = data.shards();
    // The softmax spreads the weights over both classes, so that it needs twice the penalty for the same optimum.
    let binary = Problem { l2: 0.01, ..data.problem(Loss::Logistic) };
    let softmax = Problem { l2: 0.02, ..data.problem(Loss::Multinomial { classes: 2 }) };
    let (a, b) = (solve(&binary, &shards, lbfgs()).unwrap(), solve(&softmax, &shards, lbfgs()).unwrap());
    let probabilities = |loss, parameters: &[f64]| {
        let mut all = Vec::new();
        predict(loss, &shards, parameters, |_, outputs| all.push(outputs[1])).unwrap();
        all
    };
    assert_close(&probabilities(softmax.loss, &b.parameters), &probabilities(binary.loss, &a.parameters), 1e-7);
}

#[test]
fn l1_leaves_out_what_does_not_matter() {
    let data = Data::new(3000, 8, 9, |row, noise| 3.0 * row[0] - 2.0 * row[3] + 5.0 + noise);
    let coins = Data::new(3000, 8, 9, |row, noise| f64::from(3.0 * row[0] - 2.0 * row[3] + noise > 0.0));
    let thirds = Data::new(3000, 8, 9, third);
    for (data, loss, l1) in [
        (&data, Loss::SquaredError, 0.05),
        (&coins, Loss::Logistic, 0.01),
        (&thirds, Loss::Multinomial { classes: 3 }, 0.01),
    ] {
        let problem = Problem { l1, ..data.problem(loss) };
        let shards = data.shards();
        let fitted = solve(&problem, &shards, lbfgs()).unwrap();
        let slopes = gradient(&problem, &shards, &fitted.parameters);
        // The conditions of Karush, Kuhn and Tucker.
        let mut zeros = 0;
        for (weight, slope) in fitted.parameters[..problem.weights()].iter().zip(&slopes) {
            if *weight == 0.0 {
                assert!(slope.abs() <= l1 * (1.0 + 1e-9), "{loss:?} {slope}");
                zeros += 1;
            } else {
                assert!((slope + l1 * weight.signum()).abs() < 1e-7, "{loss:?} {slope} {fitted:?}");
            }
        }
        assert!(zeros >= 6, "{loss:?} {fitted:?}");
        assert!(slopes[problem.weights()..].iter().all(|slope| slope.abs() < 1e-7));
        if loss == Loss::SquaredError {
            let method = Method::Gd(GdOptions { learning_rate: 0.9, ..GdOptions::default() });
            assert_close(&solve(&problem, &shards, method).unwrap().parameters, &fitted.parameters, 1e-6);
        }
    }
}

#[test]
fn sgd_comes_near_with_every_schedule() {
    let data = Data::new(20_000, 4, 10, line);
    let problem = data.problem(Loss::SquaredError);
    let best = solve(&problem, &data.shards(), lbfgs()).unwrap();
    for (schedule, relative) in [
        (Schedule::Constant, 0.02),
        (Schedule::InverseScaling { power: 0.5 }, 0.01),
        (Schedule::Cosine, 0.005),
        (Schedule::Step { every: 5, factor: 0.3 }, 0.01),
    ] {
        let fitted =
            solve(&problem, &data.shards(), Method::Sgd(SgdOptions { schedule, ..SgdOptions::default() })).unwrap();
        assert_close(&fitted.parameters, &best.parameters, relative);
        assert!(fitted.loss < best.loss * 1.01);
    }
    let penalised = Problem { l1: 5.0, l2: 0.1, ..problem };
    let best = solve(&penalised, &data.shards(), lbfgs()).unwrap();
    // Momentum must not weaken the penalty.
    for (momentum, learning_rate) in [(0.0, 0.1), (0.9, 0.01)] {
        let settings = SgdOptions { momentum, schedule: Schedule::Cosine, learning_rate, ..SgdOptions::default() };
        let fitted = solve(&penalised, &data.shards(), Method::Sgd(settings)).unwrap();
        assert!(fitted.objective < best.objective * 1.001, "{momentum}: {fitted:?} {best:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_model_on_any_threads_and_from_disk() {
    let data = Data::new(20 * TILE + 10, 3, 11, coin);
    let build = |memory_bytes| {
        let dir = tempfile::tempdir().unwrap();
        let spill_dir = dir.path().into();
        let options =
            ShardsOptions { features: 3, shard_rows: 2 * TILE, weighted: false, memory_bytes, spill_dir, seed: 4 };
        let mut builder = ShardsBuilder::new(options).unwrap();
        for (row, &target) in data.values.chunks(3).zip(&data.targets) {
            builder.push(row, target, 1.0).unwrap();
        }
        builder.finish().unwrap()
    };
    let problem = Problem { l2: 0.01, ..data.problem(Loss::Logistic) };
    for method in [
        lbfgs(),
        Method::Gd(GdOptions { iterations: 20, ..GdOptions::default() }),
        Method::Sgd(SgdOptions { batch_size: 100, epochs: 3, ..SgdOptions::default() }),
        Method::Sgd(SgdOptions { batch_size: 1500, epochs: 3, ..SgdOptions::default() }),
    ] {
        let mut models = Vec::new();
        for (threads, memory_bytes) in [(1, u64::MAX), (2, u64::MAX), (3, 0), (8, 60_000)] {
            let fitted = fit(
                &problem,
                &[0.0; 4],
                &build(memory_bytes),
                None,
                &Optimiser { method: method.clone(), early_stopping: None, seed: 12 },
                &Local::new(threads).unwrap(),
                &mut |_| ControlFlow::Continue(()),
            )
            .unwrap();
            models.push(fitted);
        }
        assert!(models.windows(2).all(|pair| pair[0] == pair[1]), "{method:?}");
    }
}

#[test]
fn early_stopping_keeps_the_best_for_the_validation_rows() {
    // Few rows and many features of noise: the longer it fits, the worse it gets elsewhere.
    let target = |row: &[f64], noise: f64| row[0] + 3.0 * noise;
    let (train, validation) = (Data::new(60, 40, 12, target), Data::new(500, 40, 13, target));
    let (train_shards, validation_shards) = (train.shards(), validation.shards());
    let problem = train.problem(Loss::SquaredError);
    let method = Method::Gd(GdOptions { learning_rate: 0.2, ..GdOptions::default() });
    let stopping = EarlyStopping { patience: 3, min_delta: 0.0 };
    let options = Optimiser { method, early_stopping: Some(stopping), seed: 0 };
    let mut seen = Vec::new();
    let mut observe = |progress: &Progress| {
        seen.push(progress.validation_loss.unwrap());
        ControlFlow::Continue(())
    };
    let start = vec![0.0; problem.parameters()];
    let runner = Local::new(1).unwrap();
    let fitted =
        fit(&problem, &start, &train_shards, Some(&validation_shards), &options, &runner, &mut observe).unwrap();
    assert_eq!(fitted.stop, Stop::EarlyStopping);
    let best = seen.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(fitted.validation_loss, Some(best));
    assert_eq!(seen.len(), seen.iter().position(|&loss| loss == best).unwrap() + 4);
    assert_eq!(fitted.iterations as usize, seen.len() - 1);
}

#[test]
fn a_learning_rate_too_high_says_so() {
    let data = Data::new(500, 3, 14, line);
    for method in [
        Method::Gd(GdOptions { learning_rate: 50.0, ..GdOptions::default() }),
        Method::Sgd(SgdOptions { learning_rate: 50.0, ..SgdOptions::default() }),
    ] {
        let error = solve(&data.problem(Loss::SquaredError), &data.shards(), method).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        assert!(error.to_string().contains("lower the learning rate"));
    }
}

#[test]
fn the_observer_can_stop_it() {
    let data = Data::new(500, 3, 15, line);
    let problem = data.problem(Loss::SquaredError);
    for method in [lbfgs(), Method::Gd(GdOptions::default()), Method::Sgd(SgdOptions::default())] {
        let mut iterations = 0;
        let mut observe = |progress: &Progress| {
            iterations = progress.iteration;
            if progress.iteration == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let runner = Local::new(1).unwrap();
        let error = fit(&problem, &[0.0; 4], &data.shards(), None, &method.into(), &runner, &mut observe).unwrap_err();
        assert!(matches!(error, Error::Cancelled));
        assert_eq!(iterations, 3);
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let data = Data::new(20, 1, 16, line);
    let shards = data.shards();
    let problem = data.problem(Loss::SquaredError);
    let refused = |problem: &Problem, options: Optimiser| matches!(solve(problem, &shards, options), Err(Error::Invalid(message)) if !message.ends_with('.'));
    let sgd = SgdOptions::default();
    assert!(refused(&Problem { l1: -1.0, ..problem }, lbfgs().into()));
    assert!(refused(&Problem { l2: f64::NAN, ..problem }, lbfgs().into()));
    assert!(refused(&problem, Method::Sgd(SgdOptions { momentum: 1.0, ..sgd }).into()));
    assert!(refused(&problem, Method::Sgd(SgdOptions { batch_size: 0, ..sgd }).into()));
    assert!(refused(&problem, Method::Gd(GdOptions { learning_rate: 0.0, ..GdOptions::default() }).into()));
    let early_stopping = Some(EarlyStopping::default());
    assert!(refused(&problem, Optimiser { early_stopping, ..lbfgs().into() }));
    let empty = Shards::from_rows(1, &[], &[], None, 0).unwrap();
    assert!(matches!(solve(&problem, &empty, lbfgs()), Err(Error::Invalid(_))));
}

#[test]
fn options_read_kebab_case_and_refuse_unknown_keys() {
    let options: Optimiser = serde_json::from_str(
        r#"{"method": {"sgd": {"learning-rate": 0.5, "schedule": {"inverse-scaling": {"power": 0.25}}}}}"#,
    )
    .unwrap();
    let Method::Sgd(settings) = &options.method else { panic!("sgd") };
    assert_eq!((settings.learning_rate, settings.batch_size), (0.5, 256));
    assert_eq!(settings.schedule, Schedule::InverseScaling { power: 0.25 });
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<Optimiser>(&text).unwrap(), options);
    assert!(serde_json::from_str::<Optimiser>(r#"{"method": {"lbfgs": {"learning-rate": 0.5}}}"#).is_err());
}
