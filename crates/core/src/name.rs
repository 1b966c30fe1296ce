use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::ParseError;

/// The name of a data set, a model, an alias or a deployment: 1 to 64 ASCII letters, digits, `-` and `_`, starting
/// with a letter or a digit. Clones share the text.
///
/// Names become parts of addresses and of shell commands, so slashes, dots, colons and `@` are not allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid name to a free text such as a file's stem, or `None` when nothing of it can be kept.
    pub fn from_free_text(text: &str) -> Option<Name> {
        let kept: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
        let kept = kept.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let end = kept.len().min(Name::MAX_LENGTH);
        kept[..end].parse().ok()
    }
}

impl FromStr for Name {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Name, ParseError> {
        let head = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let tail = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if head && tail && text.len() <= Name::MAX_LENGTH {
            return Ok(Name(text.into()));
        }
        let shown: String = text.chars().take(Name::MAX_LENGTH).collect();
        Err(ParseError(format!(
            "invalid name {shown:?}: use 1 to {} letters, digits, '-' or '_', starting with a letter or a digit",
            Name::MAX_LENGTH
        )))
    }
}

impl TryFrom<String> for Name {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Name, ParseError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.as_ref().to_owned()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for text in ["", ".", "..", "a/b", "a.b", "a:1", "a@b", "-a", "_a", "a b", "ä", &"a".repeat(65)] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        for text in ["a", "9", "line", "my_model-2", &"a".repeat(64)] {
            assert!(text.parse::<Name>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn free_text_becomes_a_name() {
        let name = |text| Name::from_free_text(text).map(String::from);
        assert_eq!(name("breast cancer (2).v1"), Some("breast-cancer--2--v1".into()));
        assert_eq!(name("__x__"), Some("x".into()));
        assert_eq!(name("äö"), None);
    }
}
