//! What every answer needs, whatever its protocol.

use std::{borrow::Cow, collections::HashSet};

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
pub(crate) fn cost(prediction: &Prediction) -> [(&'static str, Cow<'static, str>); 7] {
    let energy = &prediction.energy;
    [
        ("x-wattle-model", prediction.model.to_string().into()),
        (CPU_SECONDS, decimal(prediction.cpu_seconds).into()),
        ("x-wattle-energy-joules", decimal(energy.joules).into()),
        ("x-wattle-energy-joules-low", decimal(energy.joules_low).into()),
        ("x-wattle-energy-joules-high", decimal(energy.joules_high).into()),
        ("x-wattle-energy-label", energy.label.as_str().into()),
        ("x-wattle-energy-source", energy.source.to_string().into()),
    ]
}

/// An amount with nine decimals. Every answer has four of them, and to write any number's digits exactly takes longer than
/// to write those of a whole one.
fn decimal(amount: f64) -> String {
    const UNIT: u64 = 1_000_000_000;
    let billionths = (amount * UNIT as f64).round();
    // Whole numbers beyond this are no longer exact.
    if !(0.0..9e15).contains(&billionths) {
        return format!("{amount:.9}");
    }
    let mut rest = billionths as u64;
    let mut text = [b'0'; 24];
    let point = text.len() - 10;
    let mut at = text.len();
    while at > point - 1 || rest > 0 {
        at -= 1;
        if at == point {
            text[at] = b'.';
        } else {
            text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    String::from_utf8_lossy(&text[at..]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_have_nine_decimals() {
        let cases = [
            (0.0, "0.000000000"),
            (1.0, "1.000000000"),
            (0.000_000_001, "0.000000001"),
            (12.25, "12.250000000"),
            (-1.5, "-1.500000000"),
            (1e15, "1000000000000000.000000000"),
            (f64::NAN, "NaN"),
        ];
        for (amount, text) in cases {
            assert_eq!(decimal(amount), text);
        }
    }

    proptest! {
        #[test]
        fn amounts_are_what_they_say(amount in 0.0..1e7_f64) {
            let text = decimal(amount);
            prop_assert!((text.parse::<f64>().unwrap_or(f64::NAN) - amount).abs() <= 0.6e-9 + amount * 1e-15);
            prop_assert_eq!(text.split_once('.').map(|(_, decimals)| decimals.len()), Some(9));
        }
    }
}
