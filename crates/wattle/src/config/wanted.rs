use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use wattle_core::{Digest, ModelReference, ParseError, Selector};

/// A version to serve, `iris:3`, and where it is to be sure of it, what its artefact is: `iris:3@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) reference: ModelReference,
    pub(crate) digest: Option<Digest>,
}

impl FromStr for Wanted {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Wanted, ParseError> {
        let (reference, digest) = match text.split_once("@sha256:") {
            Some((reference, hex)) => (reference, Some(format!("sha256:{hex}").parse()?)),
            None => (text, None),
        };
        let reference: ModelReference = reference.parse()?;
        match reference.selector {
            Selector::Version(_) => Ok(Wanted { reference, digest }),
            _ => Err(ParseError(format!("{text:?} names no version: write it as iris:3 or iris:3@sha256:…"))),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.digest {
            Some(digest) => write!(f, "{}@{digest}", self.reference),
            None => self.reference.fmt(f),
        }
    }
}

impl Serialize for Wanted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_version_is_named_exactly() {
        let hex = "ab".repeat(32);
        let wanted: Wanted = format!("iris:3@sha256:{hex}").parse().unwrap();
        assert_eq!((wanted.to_string(), wanted.digest.unwrap().hex()), (format!("iris:3@sha256:{hex}"), hex));
        assert_eq!("iris:3".parse::<Wanted>().unwrap().digest, None);
        for text in ["iris", "iris@champion", "iris:3@sha256:12", "", "a b:1"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
