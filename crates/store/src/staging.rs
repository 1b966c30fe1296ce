use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::TempPath;

use crate::Result;

/// The folder for uploads and conversions under way, on the same file system as the blobs.
#[derive(Debug, Clone)]
pub struct Staging {
    folder: PathBuf,
}

impl Staging {
    /// Makes the folder, or removes what an earlier run left in it.
    pub fn open(folder: &Path) -> Result<Staging> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            tracing::debug!(name = %entry.file_name().display(), "removing what an earlier run left in staging");
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Staging { folder: folder.to_owned() })
    }

    /// A new empty file whose name ends in `suffix`, for example `.onnx`, which only this user may read.
    pub fn file(&self, suffix: &str) -> Result<StagedFile> {
        let file = tempfile::Builder::new().suffix(suffix).tempfile_in(&self.folder)?;
        Ok(StagedFile { path: file.into_temp_path() })
    }
}

/// A file in staging, which is removed when this is dropped.
#[derive(Debug)]
pub struct StagedFile {
    path: TempPath,
}

impl StagedFile {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for writing, from its beginning, and empties it.
    pub fn create(&self) -> io::Result<fs::File> {
        fs::File::create(&self.path)
    }
}

impl AsRef<Path> for StagedFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    #[test]
    fn staged_files_go_when_dropped_and_leftovers_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("staging");
        let staging = Staging::open(&folder).unwrap();
        let file = staging.file(".csv").unwrap();
        file.create().unwrap().write_all(b"a,b\n").unwrap();
        let path = file.path().to_owned();
        assert_eq!(path.extension().unwrap(), "csv");
        assert_eq!(fs::read(&path).unwrap(), b"a,b\n");
        drop(file);
        assert!(!path.exists());

        fs::write(folder.join("left"), b"x").unwrap();
        fs::create_dir_all(folder.join("folder/within")).unwrap();
        Staging::open(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
