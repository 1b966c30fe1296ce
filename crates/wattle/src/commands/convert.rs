//! Folders of Hugging Face models made into GGUF files, and GGUF files quantised, before they are sent.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use wattle_engine::huggingface::{self, Options};

use crate::output::progress_is_watched;

/// A file to send, and the folder that it is in, which is gone when this is dropped.
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    _folder: Option<TempDir>,
}

/// Makes what is to be sent: a folder is converted, and what was asked to be quantised is.
pub(crate) async fn prepare(path: &Path, quantization: Option<String>) -> Result<Prepared> {
    let is_folder = path.is_dir();
    if !is_folder && quantization.is_none() {
        return Ok(Prepared { path: path.to_owned(), _folder: None });
    }
    let path = path.to_owned();
    let work = move || {
        // Beside other temporary files: a model takes as much room again until it is sent.
        let folder = tempfile::Builder::new().prefix("wattle-convert-").tempdir()?;
        let mut made = path.clone();
        if is_folder {
            made = folder.path().join("model.gguf");
            let bar = bar("converting  {bar:40} {bytes}/{total_bytes}  {eta} left")?;
            huggingface::convert(&path, &made, Options { kind: None }, &mut |done, all| {
                bar.set_length(all);
                bar.set_position(done);
            })
            .with_context(|| format!("cannot convert {}", path.display()))?;
            bar.finish_and_clear();
        }
        if let Some(quantization) = quantization {
            let quantised = folder.path().join(format!("{}.gguf", quantization.to_lowercase()));
            let bar = bar("{spinner} quantising  {elapsed}")?;
            bar.enable_steady_tick(Duration::from_millis(200));
            quantize(&made, &quantised, &quantization)?;
            bar.finish_and_clear();
            made = quantised;
        }
        Ok(Prepared { path: made, _folder: Some(folder) })
    };
    tokio::task::spawn_blocking(work).await?
}

#[cfg(feature = "llama")]
fn quantize(from: &Path, to: &Path, quantization: &str) -> Result<()> {
    use std::{num::NonZeroU32, thread};

    let kind = quantization.parse().map_err(|error: wattle_engine::Error| anyhow::anyhow!("{error}"))?;
    let threads = thread::available_parallelism().ok().and_then(|count| NonZeroU32::try_from(count.get() as u32).ok());
    wattle_engine::llama::quantize(from, to, kind, threads.unwrap_or(NonZeroU32::MIN))
        .with_context(|| format!("cannot quantise {}", from.display()))
}

#[cfg(not(feature = "llama"))]
fn quantize(_: &Path, _: &Path, _: &str) -> Result<()> {
    anyhow::bail!("this binary was built without llama.cpp, which quantises: build it with the feature llama")
}

fn bar(template: &str) -> Result<ProgressBar> {
    let bar = if progress_is_watched() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template(template)?);
    Ok(bar)
}
