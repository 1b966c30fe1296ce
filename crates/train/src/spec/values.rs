use std::{collections::BTreeMap, fmt, fs, str::FromStr};

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
            Some((class.to_owned(), weight.trim().parse().ok()?))
        };
        let weights: Option<BTreeMap<String, f64>> = text.split(',').map(pair).collect();
        weights.map(ClassWeights::Each).ok_or_else(|| {
            ParseError(format!("invalid class weights {text:?}: write balanced, or pairs such as yes=2,no=1"))
        })
    }
}

/// An amount of memory, in bytes; also written as `512MiB` or `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Amount", into = "u64")]
pub struct Memory(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "write a number of bytes, or a text such as \"2GiB\"")]
enum Amount {
    Bytes(u64),
    Text(String),
}

impl Memory {
    /// Half of the memory that the system says is available; 1 GiB where it does not say.
    pub fn half_of_available() -> Memory {
        let kibibytes = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        Memory(kibibytes.map_or(1 << 30, |kibibytes| kibibytes * 512))
    }
}

impl FromStr for Memory {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Memory, ParseError> {
        const UNITS: [(&str, u64); 9] = [
            ("", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
        ];
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim());
        let bytes = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .and_then(|(_, bytes)| Some(number.parse::<f64>().ok()? * *bytes as f64))
            .filter(|bytes| *bytes < 2f64.powi(63));
        bytes.map(|bytes| Memory(bytes as u64)).ok_or_else(|| {
            ParseError(format!("invalid amount of memory {text:?}: write a number of bytes, or 512MiB, or 2GiB"))
        })
    }
}

impl TryFrom<Amount> for Memory {
    type Error = ParseError;

    fn try_from(amount: Amount) -> Result<Memory, ParseError> {
        match amount {
            Amount::Bytes(bytes) => Ok(Memory(bytes)),
            Amount::Text(text) => text.parse(),
        }
    }
}

impl From<Memory> for u64 {
    fn from(memory: Memory) -> u64 {
        memory.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units() {
        let bytes = |text: &str| text.parse().map(|Memory(bytes)| bytes).ok();
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("1.5 mib"), Some(3 << 19));
        assert_eq!(bytes("64MB"), Some(64_000_000));
        assert_eq!(bytes("123"), Some(123));
        for text in ["", "GiB", "-1GiB", "2 potatoes", "1e9", "99999999999999999TiB"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
        assert!(Memory::half_of_available().0 > 1 << 20);
    }

    #[test]
    fn class_weights_are_a_word_or_pairs() {
        assert_eq!("balanced".parse(), Ok(ClassWeights::Balanced));
        let each = ClassWeights::Each(BTreeMap::from([("no".into(), 1.0), ("yes=1".into(), 2.5)]));
        assert_eq!("yes=1=2.5,no=1".parse(), Ok(each));
        assert!("balance".parse::<ClassWeights>().is_err());
    }
}
