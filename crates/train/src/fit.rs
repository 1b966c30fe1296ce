//! A whole training job: encode, fit, judge, write.

use std::{
    fs::{self, File},
    io::Write,
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wattle_core::Signature;
use wattle_store::table::Table;

use crate::{
    Result,
    encode::{Encoded, Target, encode},
    events::{Progress, Stage, cpu_seconds},
    export::export,
    kernel::predict,
    metrics::{ClassificationAccumulator, RegressionAccumulator},
    optimise::{self, EarlyStopping, Fitted, Optimiser, Problem, Stop},
    predictor::Predictor,
    runner::Local,
    shards::Shards,
    spec::{Algorithm, ResolvedSpec},
};

/// The name of the model's file in the job's folder.
pub const MODEL_FILE: &str = "model.onnx";

/// The most parameters that are written out beside the model's file, where people read them.
const MAX_REPORTED_PARAMETERS: usize = 10_000;

/// What a training job made, beside the model's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Artefact {
    /// What was trained.
    pub algorithm: Algorithm,
    /// What the model takes and gives.
    pub signature: Signature,
    /// What is known of it: `train` and `held_out` metrics, `coefficients` and `intercept` in original units
    /// (null beyond 10,000), `iterations`, `loss`, `objective`, `stopped`, `converged` (it ended in a minimum, not
    /// early or out of iterations), `rows`, `held_out_rows`, `skipped_rows`, `dropped_features`, and for classifiers `classes`.
    pub metrics: Value,
}

/// A model, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The model.
    pub predictor: Predictor,
    /// As [`Artefact::metrics`].
    pub metrics: Value,
}

/// Trains the model that `spec` describes on `table`, and writes it into `work_dir` as [`MODEL_FILE`].
///
/// The file depends on the table and the job alone, bit for bit, whatever the number of threads and the memory.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) when the data does not allow this training,
/// [`Error::Diverged`](crate::Error::Diverged) when the optimiser does not find a minimum,
/// [`Error::Cancelled`](crate::Error::Cancelled) when `observe` breaks off.
pub fn fit(
    table: &Table,
    spec: &ResolvedSpec,
    work_dir: &Path,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Artefact> {
    let Trained { predictor, metrics } = train(table, spec, work_dir, observe)?;
    broken_off(observe(progress(Stage::Writing, 0, 1, 0.0, Instant::now())))?;
    let exported = export(&predictor, spec.algorithm.as_str(), &spec.target);
    write(&work_dir.join(MODEL_FILE), &exported.bytes)?;
    Ok(Artefact { algorithm: spec.algorithm, signature: exported.signature, metrics })
}

/// Trains the model that `spec` describes on `table`. Encoded rows beyond the job's memory are put into `spill_dir`.
///
/// # Errors
/// As [`fit`].
pub fn train(
    table: &Table,
    spec: &ResolvedSpec,
    spill_dir: &Path,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained> {
    let reading = Instant::now();
    let encoded = encode(table, spec, spill_dir, &mut |done, of| {
        observe(progress(Stage::Reading, done, of, done as f64 / reading.elapsed().as_secs_f64(), reading))
    })?;
    let fitted = minimise(&encoded, spec, observe)?;
    let Encoded { encoder, target, train, held_out, skipped_rows, dropped_features } = encoded;

    let evaluating = Instant::now();
    let tell = |done| progress(Stage::Evaluating, done, 2, 0.0, evaluating);
    let predictor = Predictor::new(encoder, target, fitted.parameters.clone());
    broken_off(observe(tell(0)))?;
    let on_train = evaluate(&predictor, &train, &fitted.parameters)?;
    broken_off(observe(tell(1)))?;
    let on_held_out = held_out.as_ref().map(|shards| evaluate(&predictor, shards, &fitted.parameters)).transpose()?;

    let (coefficients, intercept) = match fitted.parameters.len() {
        ..=MAX_REPORTED_PARAMETERS => predictor.in_original_units(),
        _ => (Value::Null, Value::Null),
    };
    let mut metrics = json!({
        "train": on_train,
        "held_out": on_held_out,
        "coefficients": coefficients,
        "intercept": intercept,
        "iterations": fitted.iterations,
        "loss": fitted.loss,
        "objective": fitted.objective,
        "stopped": fitted.stop,
        "converged": matches!(fitted.stop, Stop::Converged | Stop::NoProgress),
        "rows": train.rows(),
        "held_out_rows": held_out.as_ref().map_or(0, Shards::rows),
        "skipped_rows": skipped_rows,
        "dropped_features": dropped_features,
    });
    if let Target::Classes(classes) = &predictor.target {
        metrics["classes"] = json!(classes.names());
    }
    Ok(Trained { predictor, metrics })
}

fn minimise(
    encoded: &Encoded,
    spec: &ResolvedSpec,
    observe: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Fitted> {
    let problem = Problem {
        loss: encoded.target.loss(),
        features: encoded.encoder.width(),
        intercept: spec.intercept,
        l1: spec.l1,
        l2: spec.l2,
    };
    let options = Optimiser {
        method: spec.optimizer.clone(),
        early_stopping: spec.early_stopping.map(|patience| EarlyStopping { patience, ..EarlyStopping::default() }),
        seed: spec.seed,
    };
    // Without early stopping nobody needs the loss of the held-out rows in every iteration.
    let watched = encoded.held_out.as_ref().filter(|_| spec.early_stopping.is_some());
    let start = vec![0.0; problem.parameters()];
    let runner = Local::new(spec.threads)?;
    let fitting = Instant::now();
    optimise::fit(&problem, &start, &encoded.train, watched, &options, &runner, &mut |at| {
        observe(Progress {
            loss: Some(at.loss),
            validation_loss: at.validation_loss,
            ..progress(Stage::Fitting, at.iteration, at.of, at.rows_per_second, fitting)
        })
    })
}

/// The metrics of a model on some rows, each row counted once whatever its weight.
fn evaluate(predictor: &Predictor, shards: &Shards, parameters: &[f64]) -> Result<Value> {
    Ok(match &predictor.target {
        Target::Number => {
            let mut sums = RegressionAccumulator::default();
            predict(predictor.loss(), shards, parameters, |target, outputs| sums.push(target, outputs[0]))?;
            json!(sums.finish())
        }
        Target::Classes(classes) => {
            let mut sums = ClassificationAccumulator::new(classes.len());
            predict(predictor.loss(), shards, parameters, |target, outputs| sums.push(target as usize, outputs))?;
            json!(sums.finish())
        }
    })
}

fn progress(stage: Stage, iteration: u64, of: u64, rows_per_second: f64, since: Instant) -> Progress {
    let left = of.saturating_sub(iteration) as f64;
    Progress {
        stage,
        iteration,
        of,
        loss: None,
        validation_loss: None,
        rows_per_second: (rows_per_second.is_finite() && rows_per_second > 0.0).then_some(rows_per_second),
        seconds_left: (iteration > 0).then(|| since.elapsed().as_secs_f64() / iteration as f64 * left),
        cpu_seconds: cpu_seconds(),
    }
}

fn broken_off(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(crate::Error::Cancelled),
    }
}

/// Writes a whole file or none: a crash leaves nothing that looks like a model.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(())
}
