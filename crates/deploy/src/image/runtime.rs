use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use wattle_core::Digest;
use wattle_store::digest_file_here;

use super::PROGRAM;
use crate::{Error, Result};

/// Where an image has the shared libraries.
pub(super) const LIBRARIES_DIR: &str = "/usr/lib/wattle";
/// The library of ONNX Runtime, which the program looks for beside itself.
const ONNX_RUNTIME: &str = "/usr/bin/libonnxruntime.so";

/// What runs in a container: the program, the libraries that it needs, and the loader that joins them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// By their paths.
    pub(super) files: Vec<RuntimeFile>,
}

/// A file of the runtime.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RuntimeFile {
    /// In the image, from its root.
    pub(super) path: PathBuf,
    /// On this machine.
    pub(super) source: PathBuf,
    /// Of its bytes.
    pub(super) digest: Digest,
}

impl Runtime {
    /// A program, with the library of ONNX Runtime that it uses and all that the two need of the system.
    ///
    /// # Errors
    /// If the system's loader does not tell what they need: then the program cannot run in an image without it.
    pub fn of(program: &Path, onnx_runtime: &Path) -> Result<Runtime> {
        // The loader lists instead of running the program, as `ldd` has it do.
        let needs = said(Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1").env_remove("LD_PRELOAD"))?;
        let (loader, mut libraries) = parse(&needs);
        let mut files = BTreeMap::from([
            (PathBuf::from(PROGRAM), program.to_owned()),
            (PathBuf::from(ONNX_RUNTIME), onnx_runtime.to_owned()),
        ]);
        let loader = loader.ok_or_else(|| {
            Error::Invalid(format!(
                "{} names no loader among what it needs, so that it cannot be put into an image: build it for Linux with the GNU C library",
                program.display()
            ))
        })?;
        libraries.append(&mut parse(&said(Command::new(&loader).arg("--list").arg(onnx_runtime))?).1);
        files.insert(loader.clone(), loader);
        for (name, source) in libraries {
            files.insert(Path::new(LIBRARIES_DIR).join(name), source);
        }
        let files = files.into_iter().map(|(path, source)| {
            let (digest, _) = digest_file_here(&source)?;
            Ok(RuntimeFile { path, source, digest })
        });
        Ok(Runtime { files: files.collect::<Result<_>>()? })
    }
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let program = command.get_program().to_string_lossy().into_owned();
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Invalid(format!("cannot tell which libraries {program} needs: {}", words.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The loader and the libraries, by name, of lines such as `libm.so.6 => /lib/libm.so.6 (0x00007f)`. What the kernel
/// itself gives has no path.
fn parse(text: &str) -> (Option<PathBuf>, BTreeMap<String, PathBuf>) {
    let (mut loader, mut libraries) = (None, BTreeMap::new());
    for line in text.lines() {
        let line = line.trim();
        let end = line.rfind(" (0x").unwrap_or(line.len());
        match line[..end].split_once(" => ") {
            Some((name, path)) if path.starts_with('/') && !name.contains('/') => {
                libraries.insert(name.to_owned(), PathBuf::from(path));
            }
            None if line.starts_with('/') => loader = Some(PathBuf::from(&line[..end])),
            _ => {}
        }
    }
    (loader, libraries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_loader_says_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f97)\n\
                    \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f98)\n";
        let (loader, libraries) = parse(text);
        assert_eq!(loader.unwrap(), Path::new("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(
            libraries.into_iter().collect::<Vec<_>>(),
            [("libm.so.6".to_owned(), PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6"))]
        );
    }
}
