//! From logits to an answer's text: which token follows, what it looks like, and when the answer ends.

mod answer;
mod check;
mod choose;
mod constrain;
mod probability;
mod text;
mod words;

#[cfg(test)]
mod tests;

use wattle_engine::tokens::Token;

pub use constrain::compact;
pub use words::Words;

use crate::{
    Result,
    language::{Answer, Generate},
};
pub(crate) use check::check;

use answer::Sampled;

/// What chooses each of a request's answers: the same seed gives the same answer, and the second answer has the next seed.
///
/// # Errors
/// [`crate::Error::Invalid`] naming the field and what it may be; or saying why a schema, a grammar or a regular expression
/// cannot be used.
pub fn answers(request: &Generate, prompt: &[Token], words: &Words) -> Result<Vec<Box<dyn Answer>>> {
    check(request, words.vocabulary().len())?;
    let constraint = constrain::constraint(&request.constraint, words)?;
    let seed = request.sampling.seed.unwrap_or_else(|| fastrand::u64(..));
    let answers = (0..request.best_of).map(|index| {
        let constraint = constraint.as_ref().map(|constraint| constraint.deep_clone());
        Box::new(Sampled::new(request, prompt, words, seed.wrapping_add(u64::from(index)), constraint))
            as Box<dyn Answer>
    });
    Ok(answers.collect())
}
