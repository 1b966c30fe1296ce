use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::Result;

/// Nobody but its owner may enter.
const OWN: u32 = 0o700;
/// The longest path of a socket: systems take 108 bytes, some fewer.
const MAX_PATH_BYTES: usize = 100;
/// The longest name of a socket.
const MAX_NAME_BYTES: usize = "18446744073709551615.sock".len();

/// A folder for sockets that nobody else may enter.
pub(super) struct Sockets {
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

impl Sockets {
    /// This folder, emptied, or one for temporary files where the paths in it would be too long for sockets.
    pub(super) fn new(folder: &Path) -> Result<Sockets> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        if folder.as_os_str().len() + 1 + MAX_NAME_BYTES > MAX_PATH_BYTES {
            let own = fs::Permissions::from_mode(OWN);
            let temporary = tempfile::Builder::new().prefix("wattle-").permissions(own).tempdir()?;
            return Ok(Sockets { folder: temporary.path().to_owned(), _temporary: Some(temporary) });
        }
        fs::DirBuilder::new().recursive(true).mode(OWN).create(folder)?;
        Ok(Sockets { folder: folder.to_owned(), _temporary: None })
    }

    /// Where the socket of this number is.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}.sock"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_are_in_a_folder_of_their_owner_however_long_the_path_is() {
        let folder = tempfile::tempdir().unwrap();
        for run in [folder.path().join("run"), folder.path().join("long".repeat(40))] {
            fs::create_dir_all(run.join("left")).unwrap();
            let sockets = Sockets::new(&run).unwrap();
            assert!(!run.join("left").exists());
            let path = sockets.path(u64::MAX);
            UnixListener::bind(&path).unwrap();
            let mode = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }
}
