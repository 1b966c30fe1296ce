use serde::{Deserialize, Serialize};

use crate::nearest;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// 64-bit floating-point numbers.
    Number,
    /// Texts that name a class.
    Category,
}

/// One column of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The column's name, as in the file's header.
    pub name: String,
    /// What its values are.
    pub kind: ColumnKind,
    /// How many rows have no value here.
    pub missing: u64,
    /// How many different categories were seen, counted up to a bound; absent for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u64>,
    /// The least and the greatest number; absent for categories and where no value is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

/// The columns of a data set, in the order of the file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Schema {
    /// The columns.
    pub columns: Vec<Column>,
}

impl Schema {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The name of the column that is spelt most like `name`, for error messages.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.columns.iter().map(|column| column.name.as_str()))
    }
}
