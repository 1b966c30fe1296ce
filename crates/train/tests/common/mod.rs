//! Tables and jobs for the tests.

use std::{fs, ops::ControlFlow, path::Path};

use serde_json::Value;
use wattle_store::table::{Overrides, Table, normalise};
use wattle_train::{
    Result,
    fit::{Artefact, Trained, fit, train},
    spec::{ResolvedSpec, TrainingSpec},
};

/// The table that this CSV text is.
pub(crate) fn table(folder: &Path, csv: &str) -> Table {
    let (input, output) = (folder.join("table.csv"), folder.join("table.parquet"));
    fs::write(&input, csv).unwrap();
    normalise(&input, &output, &Overrides::default(), &mut |_| {}).unwrap();
    Table::open(&output).unwrap()
}

/// A job with these keys, beside the name of the data set.
pub(crate) fn spec(mut keys: Value) -> ResolvedSpec {
    keys["data"] = "table".into();
    TrainingSpec::from_value(keys).unwrap().resolve().unwrap()
}

/// Trains without anybody watching.
#[allow(dead_code, reason = "not every test file needs the file")]
pub(crate) fn fitted(table: &Table, keys: Value, folder: &Path) -> Result<Artefact> {
    fit(table, &spec(keys), folder, &mut |_| ControlFlow::Continue(()))
}

/// Trains without anybody watching, and without writing.
#[allow(dead_code, reason = "not every test file needs the model itself")]
pub(crate) fn trained(table: &Table, keys: Value, folder: &Path) -> Result<Trained> {
    train(table, &spec(keys), folder, &mut |_| ControlFlow::Continue(()))
}
