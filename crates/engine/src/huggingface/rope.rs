//! How positions are rotated, where that is more than one base.

use std::f64::consts::TAU;

use serde_json::Value;

use super::config::Config;
use crate::{Error, Result, gguf};

/// The metadata of rotations, after the architecture's name.
pub(super) fn metadata(config: &Config, architecture: &str) -> Result<Vec<(String, gguf::Value)>> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let mut metadata = Vec::new();
    let within = config.rope().and_then(|rope| rope.get("rope_theta")).and_then(Value::as_f64);
    if let Some(base) = config.number("rope_theta")?.or(within) {
        metadata.push((key("freq_base"), gguf::Value::F32(base as f32)));
    }
    let Some(rope) = config.rope() else { return Ok(metadata) };
    match kind(rope) {
        "default" | "llama3" => {}
        kind @ ("linear" | "yarn") => {
            metadata.push((key("scaling.type"), kind.into()));
            metadata.push((key("scaling.factor"), gguf::Value::F32(number(rope, "factor")? as f32)));
            if kind == "yarn" {
                let original = rope.get("original_max_position_embeddings").and_then(Value::as_u64);
                let original = original.map_or_else(|| config.count("max_position_embeddings").map(u64::from), Ok)?;
                metadata.push((key("scaling.original_context_length"), gguf::Value::U32(original as u32)));
            }
        }
        other => {
            return Err(Error::InvalidModel(format!(
                "positions are scaled in the way {other:?}, which is not known: linear, llama3 and yarn are"
            )));
        }
    }
    Ok(metadata)
}

/// By how much each frequency is divided (Llama 3.1's scaling); nothing where none is.
pub(super) fn factors(config: &Config) -> Result<Option<Vec<f32>>> {
    let Some(rope) = config.rope().filter(|rope| kind(rope) == "llama3") else { return Ok(None) };
    let base = config.number("rope_theta")?.or_else(|| rope.get("rope_theta").and_then(Value::as_f64));
    let base = base.unwrap_or(10_000.0);
    let (factor, low, high) =
        (number(rope, "factor")?, number(rope, "low_freq_factor")?, number(rope, "high_freq_factor")?);
    let context = number(rope, "original_max_position_embeddings")?;
    if high <= low {
        return Err(Error::InvalidModel("config.json's high_freq_factor is not greater than low_freq_factor".into()));
    }
    let width = config.head_width()?;
    let of = |index: u32| {
        let wavelength = TAU * base.powf(f64::from(2 * index) / f64::from(width));
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok(Some((0..width / 2).map(|index| of(index) as f32).collect()))
}

fn kind(rope: &Value) -> &str {
    let kind = rope.get("rope_type").or_else(|| rope.get("type"));
    kind.and_then(Value::as_str).unwrap_or("default")
}

fn number(rope: &Value, key: &str) -> Result<f64> {
    let number = rope.get(key).and_then(Value::as_f64).filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| Error::InvalidModel(format!("config.json's rope_scaling has no usable {key}")))
}
