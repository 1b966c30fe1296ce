use std::{fmt, str::FromStr};

use oci_client::Reference;

use super::Model;
use crate::Error;

/// The name of an image, as container engines know it: `wattle/iris:1`, `registry.example:5000/team/iris:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// As it was written.
    text: String,
    pub(super) whole: Reference,
}

impl ImageReference {
    /// The name of an image with these models where nobody names it: that of the first.
    pub fn of(models: &[Model]) -> ImageReference {
        let text = match models.first() {
            Some(Model { version, .. }) => {
                // Repositories are in lower case, begin and end with a letter or digit, and have no two marks in a row.
                let name = version.model.as_str().to_lowercase();
                let parts: Vec<_> = name.split(['-', '_']).filter(|part| !part.is_empty()).collect();
                format!("wattle/{}:{}", parts.join("-"), version.version)
            }
            None => format!("wattle/wattle:{}", env!("CARGO_PKG_VERSION")),
        };
        let whole = Reference::with_tag(String::new(), String::new(), String::new());
        text.parse().unwrap_or(ImageReference { text, whole })
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<ImageReference, Error> {
        let wrong = |why: String| {
            Error::Invalid(format!(
                "{text:?} is no name of an image ({why}): write one as registry.example/team/iris:1"
            ))
        };
        let whole: Reference = text.parse().map_err(|error: oci_client::ParseError| wrong(error.to_string()))?;
        if whole.digest().is_some() {
            return Err(wrong("a digest cannot be chosen".to_owned()));
        }
        let is_tagged = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let text = if is_tagged { text.to_owned() } else { format!("{text}:latest") };
        Ok(ImageReference { text, whole })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
