use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Name, ParseError};

/// One immutable version of a model, `line:3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelVersionId {
    /// The model.
    pub model: Name,
    /// The version's number, from 1.
    pub version: u32,
}

impl fmt::Display for ModelVersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() && f.precision().is_none() {
            return write!(f, "{}:{}", self.model, self.version);
        }
        f.pad(&format!("{}:{}", self.model, self.version))
    }
}

/// What a person writes to mean a version of a model: `line`, `line:3` or `line@champion`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelReference {
    /// The model.
    pub model: Name,
    /// Which of its versions.
    pub selector: Selector,
}

/// Which version of a model is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The highest version, when nothing else is said.
    Latest,
    /// This version.
    Version(u32),
    /// The version that this alias names now.
    Alias(Name),
}

impl FromStr for ModelReference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ModelReference, ParseError> {
        if let Some((model, alias)) = text.split_once('@') {
            return Ok(ModelReference { model: model.parse()?, selector: Selector::Alias(alias.parse()?) });
        }
        let Some((model, version)) = text.split_once(':') else {
            return Ok(ModelReference { model: text.parse()?, selector: Selector::Latest });
        };
        let version: NonZeroU32 = version.parse().map_err(|_| {
            ParseError(format!("invalid version {version:?}: write a number from 1, as in {model}:1, or an alias, as in {model}@champion"))
        })?;
        Ok(ModelReference { model: model.parse()?, selector: Selector::Version(version.get()) })
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Latest => write!(f, "{}", self.model),
            Selector::Version(version) => write!(f, "{}:{version}", self.model),
            Selector::Alias(alias) => write!(f, "{}@{alias}", self.model),
        }
    }
}

impl TryFrom<String> for ModelReference {
    type Error = ParseError;

    fn try_from(text: String) -> Result<ModelReference, ParseError> {
        text.parse()
    }
}

impl From<ModelReference> for String {
    fn from(reference: ModelReference) -> String {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_back_as_written() {
        for text in ["line", "line:3", "line@champion"] {
            assert_eq!(text.parse::<ModelReference>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "line:", "line:0", "line:-1", "line:x", "line@", "@x", "li/ne:1", "line:1@x"] {
            assert!(text.parse::<ModelReference>().is_err(), "{text:?}");
        }
    }
}
