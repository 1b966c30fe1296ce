use std::collections::HashSet;

use wattle_core::{ColumnKind, grouped, nearest};

use super::{MAX_COLUMNS, MAX_NAME_BYTES, Overrides, shown};
use crate::{Error, Result};

/// The texts that mean "no value".
pub(super) struct Missing {
    extra: Vec<String>,
    numbers: Vec<f64>,
}

impl Missing {
    /// The usual texts and those that the person gave; spaces around them do not count.
    pub(super) fn new(overrides: &Overrides) -> Missing {
        let extra: Vec<String> = overrides.missing.iter().map(|text| text.trim_ascii().to_owned()).collect();
        Missing { numbers: extra.iter().filter_map(|text| number(text)).collect(), extra }
    }

    /// Whether this text of a CSV file means "no value".
    pub(super) fn contains(&self, text: &str) -> bool {
        let text = text.trim_ascii();
        matches!(text, "" | "NA" | "N/A" | "NaN" | "nan" | "null" | "NULL" | "None" | "?") || self.was_given(text)
    }

    /// Whether this text means "no value" in a file whose format has its own way to say so.
    pub(super) fn is_empty_or_given(&self, text: &str) -> bool {
        let text = text.trim_ascii();
        text.is_empty() || self.was_given(text)
    }

    /// The given texts that are numbers, for columns that come as numbers.
    pub(super) fn numbers(&self) -> &[f64] {
        &self.numbers
    }

    fn was_given(&self, text: &str) -> bool {
        self.extra.iter().any(|extra| extra == text)
    }
}

/// The finite number that this text writes, if it does.
pub(super) fn number(text: &str) -> Option<f64> {
    text.trim_ascii().parse().ok().filter(|value: &f64| value.is_finite())
}

/// Checks that the columns can be told apart by their names.
pub(super) fn check_names(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Err(Error::Invalid("the table has no columns: give it at least one".into()));
    }
    if names.len() > MAX_COLUMNS {
        return Err(Error::TooLarge(format!(
            "the table has {} columns, more than {MAX_COLUMNS}: leave some out",
            names.len()
        )));
    }
    let mut seen = HashSet::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(Error::Invalid(format!(
                "column {} has no name: name every column in the header (from pandas, save with index=False)",
                index + 1
            )));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(Error::TooLarge(format!(
                "the name of column {} is longer than {MAX_NAME_BYTES} bytes: {}",
                index + 1,
                shown(name)
            )));
        }
        if !seen.insert(name) {
            return Err(Error::Invalid(format!("two columns are named {}: rename one", shown(name))));
        }
    }
    Ok(())
}

/// The kind that the person wants for each column, where they said so.
pub(super) fn wanted_kinds(names: &[String], overrides: &Overrides) -> Result<Vec<Option<ColumnKind>>> {
    let known: HashSet<&str> = names.iter().map(String::as_str).collect();
    if let Some(name) = overrides.kinds.keys().find(|name| !known.contains(name.as_str())) {
        return Err(unknown_column(name, names.iter().map(String::as_str)));
    }
    Ok(names.iter().map(|name| overrides.kinds.get(name).copied()).collect())
}

/// The error that a column of this name does not exist.
pub(super) fn unknown_column<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Error {
    let hint = match nearest(name, names.clone()) {
        Some(nearest) => format!("did you mean {}?", shown(nearest)),
        None => {
            const LISTED: usize = 8;
            let mut listed: Vec<String> = names.clone().take(LISTED).map(shown).collect();
            if names.count() > LISTED {
                listed.push("…".into());
            }
            format!("the columns are {}", listed.join(", "))
        }
    };
    Error::Invalid(format!("there is no column {}: {hint}", shown(name)))
}

/// The error that a value of a column of numbers is none.
pub(super) fn not_a_number(place: &str, column: &str, value: &str) -> Error {
    Error::Invalid(format!(
        "{place}: {} in column {} is not a finite number: correct it, name it as a text that means \"no value\", or make the column a category",
        shown(value),
        shown(column)
    ))
}

/// What is known of a CSV file's columns while it is read for the first time.
pub(super) struct Inference {
    wanted: Vec<Option<ColumnKind>>,
    seen: Vec<Seen>,
}

/// The values of a column until now, without the missing ones.
#[derive(Default, Clone)]
struct Seen {
    numbers: u64,
    others: u64,
    /// The first value that is no number, as shown, and its line.
    first_other: Option<(u64, String)>,
}

impl Inference {
    /// Before the first row.
    pub(super) fn new(wanted: Vec<Option<ColumnKind>>) -> Inference {
        Inference { seen: vec![Seen::default(); wanted.len()], wanted }
    }

    /// Takes a value into account; false when it should have been a number and is not.
    pub(super) fn see(&mut self, column: usize, line: u64, text: &str, missing: &Missing) -> bool {
        let wanted = self.wanted[column];
        if wanted == Some(ColumnKind::Category) || missing.contains(text) {
            return true;
        }
        let seen = &mut self.seen[column];
        if number(text).is_some() {
            seen.numbers += 1;
            return true;
        }
        seen.others += 1;
        seen.first_other.get_or_insert_with(|| (line, shown(text)));
        wanted.is_none()
    }

    /// The columns' kinds, after the last row.
    pub(super) fn kinds(&self) -> Vec<ColumnKind> {
        let kind = |(wanted, seen): (&Option<ColumnKind>, &Seen)| match wanted {
            Some(kind) => *kind,
            None if seen.others > 0 => ColumnKind::Category,
            None => ColumnKind::Number,
        };
        self.wanted.iter().zip(&self.seen).map(kind).collect()
    }

    /// What a person should hear of: columns that are categories for the sake of a few values, likely slips.
    pub(super) fn warnings(&self, names: &[String]) -> Vec<String> {
        const SPOKEN_OF: usize = 20;
        let mut warnings: Vec<String> =
            names.iter().zip(&self.seen).filter_map(|(name, seen)| seen.warning(name)).collect();
        if warnings.len() > SPOKEN_OF {
            let more = warnings.len() - SPOKEN_OF;
            warnings.truncate(SPOKEN_OF);
            warnings.push(format!("{more} more columns are nearly all numbers and are read as categories"));
        }
        warnings
    }
}

impl Seen {
    fn warning(&self, name: &str) -> Option<String> {
        let (line, first) = self.first_other.as_ref()?;
        let values = self.numbers + self.others;
        // Nine of ten.
        if self.others > values / 10 {
            return None;
        }
        Some(format!(
            "column {}: {} of {} values are numbers, but line {line} has {first}, so all are read as categories: correct it, name it with --missing, or say --column {} to mean it",
            shown(name),
            grouped(self.numbers),
            grouped(values),
            shown(&format!("{name}=category")),
        ))
    }
}
