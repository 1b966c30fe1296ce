use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use wattle_core::ParseError;

/// What can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// A number as a linear function of the features, by least squares.
    LinearRegression,
    /// A class's probability as the logistic or softmax function of linear functions of the features.
    LogisticRegression,
}

impl Algorithm {
    /// The algorithm's name, as it is written in a job.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::LinearRegression => "linear-regression",
            Algorithm::LogisticRegression => "logistic-regression",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the loss is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerName {
    /// Limited-memory BFGS.
    Lbfgs,
    /// Gradient descent over all rows.
    Gd,
    /// Stochastic gradient descent over batches of rows.
    Sgd,
}

impl OptimizerName {
    /// The optimiser's name, as it is written in a job.
    pub fn as_str(self) -> &'static str {
        match self {
            OptimizerName::Lbfgs => "lbfgs",
            OptimizerName::Gd => "gd",
            OptimizerName::Sgd => "sgd",
        }
    }
}

impl fmt::Display for OptimizerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the learning rate falls while SGD goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// Not at all.
    Constant,
    /// With the inverse of the steps' number, to a power.
    InverseScaling,
    /// Along half a cosine, to zero at the end.
    Cosine,
    /// By a factor every few epochs.
    Step,
}

/// How much a row of each class counts in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum ClassWeights {
    /// The less, the more frequent the class is: every class counts the same.
    Balanced,
    /// These, by the class's text; 1 for a class that is not here.
    Each(BTreeMap<String, f64>),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "write \"balanced\", or a weight for each class")]
enum Written {
    Word(String),
    Each(BTreeMap<String, f64>),
}

impl TryFrom<Written> for ClassWeights {
    type Error = ParseError;

    fn try_from(written: Written) -> Result<ClassWeights, ParseError> {
        match written {
            Written::Word(word) => word.parse(),
            Written::Each(weights) => Ok(ClassWeights::Each(weights)),
        }
    }
}

impl From<ClassWeights> for Written {
    fn from(weights: ClassWeights) -> Written {
        match weights {
            ClassWeights::Balanced => Written::Word("balanced".into()),
            ClassWeights::Each(weights) => Written::Each(weights),
        }
    }
}

impl FromStr for ClassWeights {
    type Err = ParseError;

    /// Reads `balanced`, or pairs such as `yes=2,no=1`.
    fn from_str(text: &str) -> Result<ClassWeights, ParseError> {
        if text == "balanced" {
            return Ok(ClassWeights::Balanced);
        }
        let pair = |pair: &str| {
            let (class, weight) = pair.rsplit_once('=')?;
            Some((class.to_owned(), weight.trim().parse().ok().filter(|weight: &f64| weight.is_finite())?))
        };
        let weights: Option<BTreeMap<String, f64>> = text.split(',').map(pair).collect();
        weights.map(ClassWeights::Each).ok_or_else(|| {
            ParseError(format!(
                "invalid class weights {text:?}: write balanced, or CLASS=WEIGHT pairs such as yes=2,no=1"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_weights_are_a_word_or_pairs() {
        assert_eq!("balanced".parse(), Ok(ClassWeights::Balanced));
        let each = ClassWeights::Each(BTreeMap::from([("no".into(), 1.0), ("yes=1".into(), 2.5)]));
        assert_eq!("yes=1=2.5,no=1".parse(), Ok(each));
        for text in ["balance", "yes=nan", "yes=inf", "yes=", "yes"] {
            assert!(text.parse::<ClassWeights>().is_err(), "{text:?}");
        }
    }
}
