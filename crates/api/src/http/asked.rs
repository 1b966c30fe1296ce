//! How tokens are chosen and answers bounded, as the protocols beside OpenAI's chats ask it.

use wattle_serve::language::{Constraint, Generate, Prompt, Sampling};

use crate::{ApiError, Result};

/// The most stop strings, and bytes of one.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;

/// What a caller asks; what is absent has no effect.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) max_tokens: Option<u32>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<u32>,
    pub(super) seed: Option<i64>,
    pub(super) stop: Vec<String>,
}

impl Asked {
    /// The request for one answer to this prompt, which ends before `further_stops` too.
    ///
    /// # Errors
    /// If a value is out of its range; the message names it.
    pub(super) fn generate(
        &self,
        prompt: Prompt,
        constraint: Constraint,
        further_stops: Vec<String>,
    ) -> Result<Generate> {
        if self.max_tokens == Some(0) {
            return Err(ApiError::invalid("the most tokens of an answer must be at least 1"));
        }
        let mut stop: Vec<String> = self.stop.iter().filter(|text| !text.is_empty()).cloned().collect();
        if stop.len() > MAX_STOPS || stop.iter().any(|text| text.len() > MAX_STOP_BYTES) {
            let message = format!("there are at most {MAX_STOPS} stop strings of {MAX_STOP_BYTES} bytes each");
            return Err(ApiError::invalid(message));
        }
        stop.extend(further_stops);
        let plain = Sampling::default();
        let sampling = Sampling {
            temperature: within("temperature", self.temperature, plain.temperature, 100.0)?,
            top_p: within("top_p", self.top_p, plain.top_p, 1.0)?,
            top_k: self.top_k.unwrap_or(plain.top_k),
            seed: self.seed.map(i64::cast_unsigned),
            ..plain
        };
        Ok(Generate {
            prompt,
            choices: 1,
            best_of: 1,
            max_tokens: self.max_tokens,
            stop,
            ignore_end: false,
            sampling,
            constraint,
            logprobs: None,
        })
    }
}

fn within(name: &str, value: Option<f32>, plain: f32, most: f32) -> Result<f32> {
    let value = value.unwrap_or(plain);
    match (0.0..=most).contains(&value) {
        true => Ok(value),
        false => Err(ApiError::invalid(format!("{name} must be from 0 to {most}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let generate = |asked: Asked| asked.generate(Prompt::Tokens(vec![1]), Constraint::None, vec!["x".into()]);
        let all = generate(Asked { stop: vec!["y".into(), String::new()], top_k: Some(3), ..Asked::default() }).unwrap();
        assert_eq!((all.stop, all.sampling.top_k), (vec!["y".to_owned(), "x".to_owned()], 3));
        for wrong in [
            Asked { temperature: Some(-1.0), ..Asked::default() },
            Asked { temperature: Some(f32::NAN), ..Asked::default() },
            Asked { top_p: Some(1.5), ..Asked::default() },
            Asked { max_tokens: Some(0), ..Asked::default() },
            Asked { stop: vec!["a".into(); 17], ..Asked::default() },
            Asked { stop: vec!["a".repeat(1025)], ..Asked::default() },
        ] {
            assert!(generate(wrong.clone()).is_err(), "{wrong:?}");
        }
    }
}
