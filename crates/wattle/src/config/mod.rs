//! What a server is told: by its defaults, `wattle.toml`, the environment and flags, the later winning.
//!
//! [`keys`] is the one table of keys. [`Sources`] reads all of them into [`Settings`], a field for each key;
//! [`Loaded::resolve`] makes of these one [`Config`], with nothing left open. Nothing further down reads the environment
//! for any of it again.

pub(crate) mod keys;

mod file;
mod flags;
mod form;
mod problem;
pub(crate) mod reference;
mod resolve;
mod settings;
mod sources;
mod wanted;

pub(crate) use flags::{KeyFlags, hide_keys};
pub(crate) use problem::{Problem, Problems};
pub(crate) use resolve::{Config, Worker};
pub(crate) use settings::{LogFormat, Settings, home_folder};
pub(crate) use sources::{Loaded, Sources};
pub(crate) use wanted::Wanted;
