use serde::{Deserialize, Serialize};
use wattle_core::{ModelReference, Name};
use wattle_store::Settings;

use crate::{Error, Result};

/// What somebody wants deployed. What it says nothing of stays as the deployment has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentRequest {
    /// The model; an alias or the latest version is resolved once, now.
    pub model: ModelReference,
    /// The deployment's name; the model's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whether `POST /predict`, which names no deployment, goes here.
    #[serde(default)]
    pub default: bool,
    /// The share of the calls that it gets beside the stable revision, in percent; all calls when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<u8>,
    /// Whether it gets copies of the calls and never answers.
    #[serde(default)]
    pub shadow: bool,
    /// How it is served, where that differs from how the deployment is served already.
    #[serde(default)]
    pub settings: Settings,
    /// Whether what the settings leave open is the server's to decide again.
    #[serde(default)]
    pub reset_settings: bool,
}

/// The place of a revision in the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It takes all calls.
    All,
    /// It takes this share of them, in percent.
    Canary(u8),
    /// It gets copies.
    Shadow,
}

impl DeploymentRequest {
    /// A request for all calls, with nothing else decided.
    pub fn of(model: ModelReference) -> DeploymentRequest {
        DeploymentRequest {
            model,
            name: None,
            default: false,
            canary: None,
            shadow: false,
            settings: Settings::default(),
            reset_settings: false,
        }
    }

    pub(crate) fn role(&self) -> Result<Role> {
        match (self.canary, self.shadow) {
            (Some(_), true) => {
                Err(Error::Invalid("a revision is a canary or a shadow, not both: leave one of them out".into()))
            }
            (Some(percent), false) if !(1..=99).contains(&percent) => Err(Error::Invalid(format!(
                "a canary takes 1 to 99 percent of the calls, not {percent}: deploy without canary to give it all"
            ))),
            (Some(percent), false) => Ok(Role::Canary(percent)),
            (None, true) => Ok(Role::Shadow),
            (None, false) => Ok(Role::All),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_has_one_role() {
        let role = |text: &str| {
            let request: DeploymentRequest = serde_json::from_str(text).unwrap();
            request.role().map_err(|error| error.to_string())
        };
        assert_eq!(role(r#"{"model": "line"}"#), Ok(Role::All));
        assert_eq!(role(r#"{"model": "line", "canary": 10}"#), Ok(Role::Canary(10)));
        assert_eq!(role(r#"{"model": "line", "shadow": true}"#), Ok(Role::Shadow));
        assert!(role(r#"{"model": "line", "canary": 10, "shadow": true}"#).unwrap_err().contains("not both"));
        assert!(role(r#"{"model": "line", "canary": 100}"#).unwrap_err().contains("1 to 99"));
        assert!(role(r#"{"model": "line", "canary": 0}"#).unwrap_err().contains("not 0"));
    }
}
