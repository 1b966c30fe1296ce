use std::fmt::{self, Display};

use serde::Serialize;

/// The most problems that are told; whoever has more has another kind of file.
const MOST_TOLD: usize = 50;

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// `file:line`, a variable, or a flag.
    pub(crate) at: String,
    /// The key, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// What is wrong, and what to do.
    pub(crate) problem: String,
}

impl Problem {
    /// Something wrong with a key.
    pub(crate) fn of_key(at: impl Display, key: impl Into<String>, problem: impl Into<String>) -> Problem {
        Problem { at: at.to_string(), key: Some(key.into()), problem: problem.into() }
    }

    /// Something wrong that is no key's.
    pub(super) fn new(at: impl Display, problem: impl Into<String>) -> Problem {
        Problem { at: at.to_string(), key: None, problem: problem.into() }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key} {}", self.at, self.problem),
            None => write!(f, "{}: {}", self.at, self.problem),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => {
            let told = many.iter().take(MOST_TOLD).map(|problem| format!("\n  {problem}"));
            let rest = many.len().saturating_sub(MOST_TOLD);
            let rest = (rest > 0).then(|| format!("\n  and {rest} more"));
            format!("the configuration has {} problems:{}", many.len(), told.chain(rest).collect::<String>())
        }
    }
}
