//! Identifiers, records and units that two layers share. No IO, no async.

#![forbid(unsafe_code)]

mod digest;
mod energy;
mod grouped;
mod language;
mod name;
mod nearest;
mod reference;
mod schema;
mod signature;
mod usage;

pub use digest::Digest;
pub use energy::{Energy, Label};
pub use grouped::grouped;
pub use language::LanguageModel;
pub use name::Name;
pub use nearest::nearest;
pub use reference::{ModelReference, ModelVersionId, Selector};
pub use schema::{Column, ColumnKind, Schema};
pub use signature::{Datatype, Signature, TensorSpec};
pub use usage::{Activity, Usage};

/// A text that does not name what it should; the message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);
