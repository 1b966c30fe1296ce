//! What every answer needs, whatever its protocol.

use std::collections::HashSet;

use wattle_core::TensorSpec;
use wattle_engine::Tensor;
use wattle_serve::{Prediction, Replica};

use crate::{ApiError, Code, Result};

/// Under which name an answer tells the processor time that it took.
pub(crate) const CPU_SECONDS: &str = "x-wattle-cpu-seconds";

/// A small body can have a large answer; one that would be too large is refused before it is computed.
pub(crate) fn check_answer(replica: &Replica, inputs: &[Tensor], max_values: usize) -> Result<()> {
    let rows = inputs.iter().map(Tensor::rows).max().unwrap_or(0);
    let width = |spec: &TensorSpec| {
        spec.shape.iter().skip(1).fold(1_usize, |width, size| width.saturating_mul(usize::try_from(*size).unwrap_or(1)))
    };
    let widths = replica.signature().outputs.iter().map(width).fold(0_usize, usize::saturating_add);
    let values = rows.saturating_mul(widths);
    if values <= max_values {
        return Ok(());
    }
    let message =
        format!("the answer would have {values} values, and {max_values} is the most: send fewer rows in a call");
    Err(ApiError::new(Code::TooLarge, message))
}

/// An output may be large and its name is short, so that a small body could ask for any amount of it: each once at most.
pub(crate) fn check_wanted<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut asked = HashSet::new();
    match names.find(|name| !asked.insert(*name)) {
        None => Ok(()),
        Some(twice) => Err(ApiError::invalid(format!("output {twice:?} is asked for twice: ask for it once"))),
    }
}

/// What the call cost, and which version answered: names and texts, which REST has as headers and gRPC as parameters.
pub(crate) fn cost(prediction: &Prediction) -> [(&'static str, String); 7] {
    let energy = &prediction.usage.energy;
    [
        ("x-wattle-model", prediction.model.to_string()),
        (CPU_SECONDS, format!("{:.9}", prediction.usage.cpu_seconds)),
        ("x-wattle-energy-joules", format!("{:.9}", energy.joules)),
        ("x-wattle-energy-joules-low", format!("{:.9}", energy.joules_low)),
        ("x-wattle-energy-joules-high", format!("{:.9}", energy.joules_high)),
        ("x-wattle-energy-label", energy.label.to_string()),
        ("x-wattle-energy-source", energy.source.to_string()),
    ]
}
