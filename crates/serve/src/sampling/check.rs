use crate::{
    Error, Result,
    language::{Constraint, Generate},
};

/// The most answers to one prompt.
const MOST_ANSWERS: u32 = 128;
/// The most stop strings.
const MOST_STOPS: usize = 16;
/// The longest stop string, in bytes.
const MOST_STOP_BYTES: usize = 1 << 10;
/// The most alternatives that are told of a token.
const MOST_LOGPROBS: u32 = 100;
/// The largest schema, grammar or regular expression, in bytes.
const MOST_CONSTRAINT_BYTES: usize = 256 << 10;
/// The most tokens whose logits are changed.
const MOST_BIASES: usize = 1024;

/// Refuses what makes no sense, by the names that callers use.
pub(crate) fn check(request: &Generate, vocabulary: u32) -> Result<()> {
    let refuse = |why: String| Err(Error::Invalid(why));
    let sampling = &request.sampling;
    within("n", request.choices, 1, MOST_ANSWERS)?;
    within("best_of", request.best_of, request.choices, MOST_ANSWERS)?;
    within("temperature", sampling.temperature, 0.0, 100.0)?;
    within("top_k", sampling.top_k, 0, u32::MAX)?;
    within("top_p", sampling.top_p, 0.0, 1.0)?;
    within("min_p", sampling.min_p, 0.0, 1.0)?;
    within("typical_p", sampling.typical_p, 0.0, 1.0)?;
    within("repetition_penalty", sampling.repetition_penalty, 0.01, 100.0)?;
    within("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)?;
    within("presence_penalty", sampling.presence_penalty, -2.0, 2.0)?;
    if let Some(logprobs) = request.logprobs {
        within("logprobs", logprobs, 0, MOST_LOGPROBS)?;
    }
    if sampling.logit_bias.len() > MOST_BIASES {
        return refuse(format!("logit_bias names more than {MOST_BIASES} tokens: name fewer"));
    }
    for (token, bias) in &sampling.logit_bias {
        if *token >= vocabulary {
            return refuse(format!("logit_bias names the token {token}, and the vocabulary has {vocabulary}"));
        }
        within("logit_bias", *bias, -100.0, 100.0)?;
    }
    if request.stop.len() > MOST_STOPS {
        return refuse(format!("there are {} stop strings, and {MOST_STOPS} is the most", request.stop.len()));
    }
    if let Some(stop) = request.stop.iter().find(|stop| stop.is_empty() || stop.len() > MOST_STOP_BYTES) {
        return refuse(format!("a stop string has {} bytes: use 1 to {MOST_STOP_BYTES}", stop.len()));
    }
    let bytes = match &request.constraint {
        Constraint::None | Constraint::Json => 0,
        Constraint::JsonSchema(text) | Constraint::Regex(text) | Constraint::Lark(text) => text.len(),
    };
    if bytes > MOST_CONSTRAINT_BYTES {
        return refuse(format!(
            "the answer's form takes {bytes} bytes to say, and {MOST_CONSTRAINT_BYTES} is the most"
        ));
    }
    Ok(())
}

/// An error unless the value lies within its bounds, which NaN does not.
fn within<T: PartialOrd + Copy + std::fmt::Display>(name: &str, value: T, least: T, most: T) -> Result<()> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(Error::Invalid(format!("{name} is {value}: use a value from {least} to {most}")))
}
