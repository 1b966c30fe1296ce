//! Where the ONNX Runtime shared library is, and its one environment in this process.

use std::{
    env,
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

use ort::environment::Environment;

use crate::{Error, Result};

/// The version of ONNX Runtime that this build fetches and is tested with.
pub const VERSION: &str = "1.32.0";

/// The library that will be loaded: `ORT_DYLIB_PATH`, beside the binary, or in the user's cache, in this order.
///
/// # Errors
/// [`Error::RuntimeMissing`] says where it was looked for and how to get it.
pub fn library_path() -> Result<PathBuf> {
    let looked_at = match env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        Some(path) => vec![PathBuf::from(path)],
        None => candidates(),
    };
    match looked_at.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::RuntimeMissing { looked_at, version: VERSION }),
    }
}

/// The process's environment; the library is loaded at the first call. A failure is not remembered, so that a library
/// that appears later is found.
pub(super) fn environment() -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());

    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = library_path()?;
    let broken = |reason: String| Error::RuntimeBroken { path: path.clone(), reason };
    let environment = ort::init_from(&path)
        .map_err(|error| broken(error.to_string()))?
        .with_name("wattle")
        .with_telemetry(false)
        .build()
        .map_err(|error| broken(error.to_string()))?;
    environment.set_log_level(ort::logging::LogLevel::Error);
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

fn candidates() -> Vec<PathBuf> {
    const FILE: &str = "libonnxruntime.so";
    let beside = env::current_exe().ok().and_then(|binary| binary.parent().map(|folder| folder.join(FILE)));
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .map(|cache| cache.join("wattle/onnxruntime").join(VERSION).join(FILE));
    beside.into_iter().chain(cache).collect()
}
