use serde::{Deserialize, Serialize};

/// Who answers the calls of a deployment, and who gets copies of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The revisions that answer: first the stable one, then its canary, if one runs. Their shares add up to 100; there is
    /// none where nothing is deployed.
    pub shares: Vec<Share>,
    /// The revision that gets copies of the calls and never answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<u32>,
}

/// A revision's share of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The revision.
    pub revision: u32,
    /// Its share, in percent.
    pub percent: u8,
}

impl Traffic {
    /// Everything to one revision.
    pub fn all(revision: u32) -> Traffic {
        Traffic { shares: vec![Share { revision, percent: 100 }], shadow: None }
    }

    /// The revision that is there to stay: the canary is measured by it, and goes where it came from.
    pub fn stable(&self) -> Option<u32> {
        self.shares.first().map(|share| share.revision)
    }

    /// The revision that is tried on a part of the calls, and its share.
    pub fn canary(&self) -> Option<Share> {
        self.shares.get(1).copied()
    }

    /// The revision that is tried: the canary, or without one the shadow.
    pub fn candidate(&self) -> Option<u32> {
        self.canary().map(|share| share.revision).or(self.shadow)
    }

    /// `percent` of the calls to `revision`, the rest to the stable one; the shadow stays, unless this was the shadow.
    #[must_use]
    pub fn with_canary(&self, revision: u32, percent: u8) -> Traffic {
        let stable = self.shares.first().map(|share| Share { percent: 100 - percent, ..*share });
        Traffic {
            shares: stable.into_iter().chain([Share { revision, percent }]).collect(),
            shadow: self.shadow.filter(|shadow| *shadow != revision),
        }
    }

    /// Copies to `revision`; the shares stay, unless this was the canary.
    #[must_use]
    pub fn with_shadow(&self, revision: u32) -> Traffic {
        let kept = match self.canary() {
            Some(canary) if canary.revision == revision => self.without_candidate(),
            _ => self.clone(),
        };
        Traffic { shadow: Some(revision), ..kept }
    }

    /// Without the revision that is tried: the stable one takes over from the canary, and there is no shadow where there
    /// was no canary.
    #[must_use]
    pub fn without_candidate(&self) -> Traffic {
        let shares = self.shares.first().map(|share| Share { percent: 100, ..*share }).into_iter().collect();
        Traffic { shares, shadow: self.shadow.filter(|_| self.canary().is_some()) }
    }

    /// Every revision that is called: the stable one, the canary, the shadow.
    pub fn revisions(&self) -> impl Iterator<Item = u32> {
        self.shares.iter().map(|share| share.revision).chain(self.shadow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(shares: &[(u32, u8)], shadow: Option<u32>) -> Traffic {
        let shares =
            shares.iter().map(|(revision, percent)| Share { revision: *revision, percent: *percent }).collect();
        Traffic { shares, shadow }
    }

    #[test]
    fn a_candidate_comes_grows_and_goes_beside_the_stable_revision() {
        let stable = Traffic::all(1);
        assert_eq!((stable.stable(), stable.canary(), stable.candidate()), (Some(1), None, None));
        let canary = stable.with_canary(2, 10);
        assert_eq!(canary, traffic(&[(1, 90), (2, 10)], None));
        assert_eq!(canary.with_canary(2, 20), traffic(&[(1, 80), (2, 20)], None));
        assert_eq!(canary.with_canary(3, 5), traffic(&[(1, 95), (3, 5)], None), "another canary takes its place");
        assert_eq!(canary.without_candidate(), stable);

        let shadowed = stable.with_shadow(2);
        assert_eq!((shadowed.candidate(), shadowed.without_candidate()), (Some(2), stable));
        assert_eq!(shadowed.with_canary(2, 10), canary, "a shadow that becomes the canary");
        assert_eq!(canary.with_shadow(2), shadowed, "a canary that becomes the shadow");

        let both = shadowed.with_canary(3, 10);
        assert_eq!(both, traffic(&[(1, 90), (3, 10)], Some(2)));
        assert_eq!((both.candidate(), both.without_candidate()), (Some(3), shadowed));
        assert_eq!(both.revisions().collect::<Vec<_>>(), [1, 3, 2]);
    }
}
