//! MLflow's scoring protocol: a table or tensors in one of its forms, and predictions as its server answers them.
//!
//! Source: `mlflow.pyfunc.scoring_server` and `mlflow.utils.proto_json_utils` of MLflow 3.17. A table is what pandas would
//! make of it; tensors are what NumPy would. Columns that the model does not take are left out, as MLflow leaves them out
//! where a model has a signature, and so are `params`, of which no model here knows any.

mod json;
mod layout;
mod records;
mod split;
mod table;
mod write;

pub use json::inputs_from_json;
pub use table::inputs_from_table;
pub use write::{Form, Predictions};
