//! How tokens are chosen and answers bounded, as the protocols beside OpenAI's chats ask it.

use wattle_serve::language::{Constraint, Generate, Prompt, Sampling};

use crate::{ApiError, Result};

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
    /// The request for one answer to this prompt, which ends before `further_stops` too. What its numbers may be is the
    /// scheduler's to say.
    ///
    /// # Errors
    /// If it leaves no answer.
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
        stop.extend(further_stops);
        let plain = Sampling::default();
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(plain.temperature),
            top_p: self.top_p.unwrap_or(plain.top_p),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_absent_has_no_effect() {
        let generate = |asked: Asked| asked.generate(Prompt::Tokens(vec![1]), Constraint::None, vec!["x".into()]);
        let all =
            generate(Asked { stop: vec!["y".into(), String::new()], top_k: Some(3), ..Asked::default() }).unwrap();
        assert_eq!((all.stop, all.sampling.top_k), (vec!["y".to_owned(), "x".to_owned()], 3));
        assert!(generate(Asked { max_tokens: Some(0), ..Asked::default() }).is_err());
    }
}
