//! Which columns of a table become which inputs of a model.

use std::collections::{HashMap, HashSet};

use wattle_core::{Signature, nearest};

use crate::{ApiError, Result};

/// Where the inputs of a model are in a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Layout {
    /// Each input is the column at this place.
    Columns(Vec<usize>),
    /// All columns together are the rows of the only input.
    Matrix,
}

impl Layout {
    /// Finds the inputs among columns of these names. A table that an array was made of is named by numbers, which say no
    /// more than the order.
    ///
    /// # Errors
    /// A column that is absent, or that is there twice.
    pub(super) fn of<S: AsRef<str>>(signature: &Signature, names: &[S]) -> Result<Layout> {
        let mut places = HashMap::with_capacity(names.len());
        let mut twice = HashSet::new();
        for (place, name) in names.iter().enumerate() {
            if places.insert(name.as_ref(), place).is_some() {
                twice.insert(name.as_ref());
            }
        }
        let found = signature.inputs.iter().map(|spec| places.get(spec.name.as_str()).copied());
        if let Some(found) = found.collect::<Option<Vec<usize>>>() {
            return match signature.inputs.iter().find(|spec| twice.contains(spec.name.as_str())) {
                Some(spec) => {
                    let message = format!("two columns are named {:?}: rename one, or leave it out", spec.name);
                    Err(ApiError::invalid(message))
                }
                None => Ok(Layout::Columns(found)),
            };
        }
        if is_matrix(signature) {
            return Ok(Layout::Matrix);
        }
        if names.iter().enumerate().all(|(index, name)| name.as_ref() == index.to_string()) {
            return Layout::by_order(signature, names.len());
        }
        let absent = signature.inputs.iter().find(|spec| !places.contains_key(spec.name.as_str()));
        Err(absent_column(signature, absent.map_or("", |spec| &spec.name), names.iter().map(AsRef::as_ref)))
    }

    /// The inputs in the order of so many columns without names.
    ///
    /// # Errors
    /// More or fewer columns than the model takes.
    pub(super) fn by_order(signature: &Signature, columns: usize) -> Result<Layout> {
        if is_matrix(signature) {
            return Ok(Layout::Matrix);
        }
        match signature.inputs.len() {
            inputs if inputs == columns => Ok(Layout::Columns((0..columns).collect())),
            inputs => {
                let names: Vec<&str> = signature.inputs.iter().take(8).map(|spec| spec.name.as_str()).collect();
                let names = names.join(", ");
                let message = format!(
                    "the table has {columns} columns without names, the model takes {inputs}: name its columns {names}"
                );
                Err(ApiError::invalid(message))
            }
        }
    }

    /// For each of so many columns, the input that it becomes.
    pub(super) fn targets(&self, columns: usize) -> Vec<Option<usize>> {
        let mut targets = vec![None; columns];
        match self {
            Layout::Matrix => {}
            Layout::Columns(places) => {
                for (input, place) in places.iter().enumerate() {
                    targets[*place] = Some(input);
                }
            }
        }
        targets
    }
}

/// Whether the only input takes rows of several values, so that a table's columns are one matrix. A model exported from
/// scikit-learn does.
pub(super) fn is_matrix(signature: &Signature) -> bool {
    matches!(signature.inputs.as_slice(), [only] if matches!(only.shape.as_slice(), [_, width] if *width != 1))
}

/// The error that a column is absent among those of these names.
pub(super) fn absent_column<'a>(
    signature: &Signature,
    absent: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> ApiError {
    let hint = match nearest(absent, names.filter(|name| signature.input(name).is_none())) {
        Some(nearest) => format!("rename {nearest:?} if that is what it is, or send it too"),
        None => "send it too".into(),
    };
    ApiError::invalid(format!("column {absent:?} is absent: {hint}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_core::{Datatype, TensorSpec};

    use super::*;

    fn signature(inputs: &[(&str, i64)]) -> Signature {
        let spec = |(name, width): &(&str, i64)| TensorSpec {
            name: (*name).into(),
            datatype: Datatype::Fp64,
            shape: vec![-1, *width],
            missing: true,
        };
        Signature { inputs: inputs.iter().map(spec).collect(), outputs: Vec::new() }
    }

    #[test]
    fn inputs_are_found_by_name_and_only_nameless_columns_by_order() {
        let two = signature(&[("bmi", 1), ("bp", 1)]);
        let of = |names: &[&str]| Layout::of(&two, names);
        assert_eq!(of(&["bp", "more", "bmi"]).unwrap(), Layout::Columns(vec![2, 0]));
        assert_eq!(of(&["0", "1"]).unwrap(), Layout::Columns(vec![0, 1]));
        let refusal = |names: &[&str]| of(names).unwrap_err().message;
        assert_eq!(
            refusal(&["bp", "bni"]),
            "column \"bmi\" is absent: rename \"bni\" if that is what it is, or send it too"
        );
        assert_eq!(refusal(&["bmi", "age"]), "column \"bp\" is absent: send it too");
        assert!(refusal(&["bmi", "bp", "bmi"]).contains("two columns are named \"bmi\""));
        assert!(refusal(&["0", "1", "2"]).contains("3 columns without names, the model takes 2"));
        assert_eq!(of(&["bp", "more", "bmi"]).unwrap().targets(3), [Some(1), None, Some(0)]);
    }

    #[test]
    fn a_table_is_the_matrix_that_an_only_input_takes() {
        assert_eq!(Layout::of(&signature(&[("X", 4)]), &["a", "b"]).unwrap(), Layout::Matrix);
        assert_eq!(Layout::of(&signature(&[("X", -1)]), &["a", "b"]).unwrap(), Layout::Matrix);
        assert_eq!(Layout::of(&signature(&[("X", 4)]), &["id", "X"]).unwrap(), Layout::Columns(vec![1]));
        // A column under another name is not taken for the one that the model was trained on.
        assert!(Layout::of(&signature(&[("x", 1)]), &["y"]).is_err());
        assert_eq!(Layout::of(&signature(&[("x", 1)]), &["0"]).unwrap(), Layout::Columns(vec![0]));
    }
}
