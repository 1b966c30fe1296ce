//! Times linear models on arrays that are in memory, for `scripts/bench_train.py`.
//!
//! `bench_linear FOLDER sgd EPOCHS BATCH RATE` fits `y_line.npy`; `bench_linear FOLDER lbfgs L2 TARGET` fits
//! `y_class.npy` until the objective is at most TARGET. Both read `x.npy` (rows × features, doubles in C order) first, and
//! print one line of JSON. Seconds count from the arrays, so that the encoding into shards is part of them.

#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use pulp::bytemuck;
use serde_json::{Value, json};
use wattle_train::kernel::Loss;
use wattle_train::optimise::{LbfgsOptions, Method, Optimiser, Problem, Progress, Schedule, SgdOptions, fit};
use wattle_train::runner::Local;
use wattle_train::shards::Shards;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = match arguments[..] {
        [folder, "sgd", epochs, batch, rate] => {
            let settings = SgdOptions {
                epochs: epochs.parse()?,
                batch_size: batch.parse()?,
                learning_rate: rate.parse()?,
                // Falling rates on both sides: scikit-learn's is inverse scaling unless told otherwise.
                schedule: Schedule::Cosine,
                ..SgdOptions::default()
            };
            run(Path::new(folder), "y_line.npy", Loss::SquaredError, 0.0, Method::Sgd(settings), f64::NEG_INFINITY)?
        }
        [folder, "lbfgs", l2, target] => {
            let method = Method::Lbfgs(LbfgsOptions::default());
            run(Path::new(folder), "y_class.npy", Loss::Logistic, l2.parse()?, method, target.parse()?)?
        }
        _ => {
            return Err("usage: bench_linear FOLDER sgd EPOCHS BATCH RATE | bench_linear FOLDER lbfgs L2 TARGET".into());
        }
    };
    println!("{report}");
    Ok(())
}

fn run(folder: &Path, y: &str, loss: Loss, l2: f64, method: Method, target: f64) -> Result<Value, Failure> {
    let (shape, values) = read_npy(&folder.join("x.npy"))?;
    let (_, targets) = read_npy(&folder.join(y))?;
    let [rows, features] = shape[..] else { return Err("x.npy is no matrix".into()) };
    let runner = Local::new(0)?;

    let started = Instant::now();
    let shards = runner.install(|| Shards::from_rows(features, &values, &targets, None, 0))?;
    let encoded_seconds = started.elapsed().as_secs_f64();
    let problem = Problem { loss, features, intercept: true, l1: 0.0, l2 };
    let mut reached = None;
    let mut observe = |progress: &Progress| {
        if reached.is_none() && progress.loss <= target {
            reached = Some((progress.iteration, started.elapsed().as_secs_f64()));
        }
        ControlFlow::Continue(())
    };
    let start = vec![0.0; problem.parameters()];
    let fitted = fit(&problem, &start, &shards, None, &Optimiser::from(method), &runner, &mut observe)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({
        "rows": rows,
        "features": features,
        "threads": runner.threads(),
        "seconds": seconds,
        "encoded_seconds": encoded_seconds,
        "iterations": fitted.iterations,
        "epochs_per_second": fitted.iterations as f64 / seconds,
        "epochs_per_second_once_encoded": fitted.iterations as f64 / (seconds - encoded_seconds),
        "loss": fitted.loss,
        "objective": fitted.objective,
        "reached_iterations": reached.map(|(iterations, _)| iterations),
        "reached_seconds": reached.map(|(_, seconds)| seconds),
        "peak_memory_bytes": peak_memory_bytes()?,
    }))
}

/// An array of doubles in C order, with its shape.
fn read_npy(path: &Path) -> Result<(Vec<usize>, Vec<f64>), Failure> {
    let mut file = File::open(path)?;
    let mut start = [0; 10];
    file.read_exact(&mut start)?;
    if &start[..8] != b"\x93NUMPY\x01\x00" {
        return Err(format!("{} is not an npy file of version 1", path.display()).into());
    }
    let mut header = vec![0; usize::from(u16::from_le_bytes([start[8], start[9]]))];
    file.read_exact(&mut header)?;
    let header = String::from_utf8(header)?;
    if !header.contains("'<f8'") || !header.contains("'fortran_order': False") {
        return Err(format!("{} does not hold doubles in C order", path.display()).into());
    }
    let shape = header.split_once('(').and_then(|(_, rest)| rest.split_once(')')).ok_or("no shape")?.0;
    let shape: Vec<usize> =
        shape.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    let mut values = vec![0.0; shape.iter().product()];
    file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
    Ok((shape, values))
}

fn peak_memory_bytes() -> io::Result<Option<u64>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map(|kib| kib * 1024))
}
