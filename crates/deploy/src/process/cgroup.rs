//! Control groups of version 2, for as many processes as this server starts.
//!
//! Source: the kernel's documentation, `admin-guide/cgroup-v2.rst`; systemd's `CGROUP_DELEGATION.md`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use rustix::{fs::getxattr, process::Pid};

use super::Limits;

const ROOT: &str = "/sys/fs/cgroup";
/// A group that has processes cannot rule over groups below it, so the server's own go down into this one.
const SERVER: &str = "wattle-server";
/// What the names of the processes' groups begin with.
const PROCESS: &str = "wattle-process-";
/// The period over which processor time is shared out, in microseconds.
const PERIOD_US: u32 = 100_000;
/// The least that the kernel takes of it.
const LEAST_QUOTA_US: f64 = 1000.0;

/// A group in which this server may make others.
pub(super) struct Groups {
    folder: PathBuf,
}

/// A process's group.
pub(super) struct Group {
    folder: PathBuf,
}

impl Groups {
    /// The server's own group, if it may rule there: the root of a container, or a group that systemd gave away
    /// (`Delegate=yes`). Anybody else's is left alone.
    pub(super) fn find() -> Option<Groups> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let folder = Path::new(ROOT).join(own);
        if !own.is_empty() && !is_given_away(&folder) {
            return None;
        }
        Groups::rule(folder).inspect_err(|error| tracing::debug!(%error, "no control groups")).ok()
    }

    /// Makes a group one in which others can be limited.
    fn rule(folder: PathBuf) -> io::Result<Groups> {
        let controllers = fs::read_to_string(folder.join("cgroup.controllers"))?;
        if !["cpu", "memory"].iter().all(|wanted| controllers.split_whitespace().any(|known| known == *wanted)) {
            return Err(io::Error::other("cpu and memory are not ruled here"));
        }
        // Only the machine's root, which has no type, may have both processes and groups below it.
        if folder.join("cgroup.type").exists() {
            let server = folder.join(SERVER);
            make(&server)?;
            for id in fs::read_to_string(folder.join("cgroup.procs"))?.split_whitespace() {
                // One that has ended meanwhile need not go.
                match fs::write(server.join("cgroup.procs"), id) {
                    Err(error) if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
        }
        fs::write(folder.join("cgroup.subtree_control"), "+cpu +memory")?;
        remove_left(&folder);
        Ok(Groups { folder })
    }

    /// Puts a process into a group of its own with these limits.
    pub(super) fn put(&self, id: Pid, limits: Limits, number: u64) -> io::Result<Group> {
        let group = Group { folder: self.folder.join(format!("{PROCESS}{}-{number}", process::id())) };
        make(&group.folder)?;
        group.fill(id, limits).inspect_err(|_| group.remove())?;
        Ok(group)
    }
}

impl Group {
    fn fill(&self, id: Pid, limits: Limits) -> io::Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            fs::write(self.folder.join("memory.max"), bytes.to_string())?;
            // Where there is no swap there is nothing to limit.
            let _ = fs::write(self.folder.join("memory.swap.max"), "0");
        }
        if let Some(processors) = limits.processors {
            let quota = (processors * f64::from(PERIOD_US)).max(LEAST_QUOTA_US) as u64;
            fs::write(self.folder.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
        }
        fs::write(self.folder.join("cgroup.procs"), id.to_string())
    }

    /// Removes the group, whose process has ended.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(group = %self.folder.display(), %error, "a control group is left");
        }
    }
}

/// Whether systemd has given a group away, which it notes on it.
fn is_given_away(folder: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 1];
        getxattr(folder, name, &mut value).is_ok_and(|length| length == 1 && value == *b"1")
    })
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes what a server left that was killed. Groups that still have processes stay.
fn remove_left(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PROCESS)) {
        let _ = fs::remove_dir(entry.path());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder that looks like a group; the kernel's part, which moves processes, is not played.
    fn group(controllers: &str, procs: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(folder.path().join("cgroup.procs"), procs).unwrap();
        fs::write(folder.path().join("cgroup.type"), "domain\n").unwrap();
        folder
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_server_goes_down_so_that_its_group_can_rule() {
        let folder = group("cpuset cpu io memory pids\n", "41\n");
        let left = folder.path().join(format!("{PROCESS}7-0"));
        fs::create_dir(&left).unwrap();
        let groups = Groups::rule(folder.path().to_owned()).unwrap();
        assert_eq!(read(&folder.path().join(SERVER).join("cgroup.procs")), "41");
        assert_eq!(read(&folder.path().join("cgroup.subtree_control")), "+cpu +memory");
        assert!(!left.exists(), "an earlier server's group is removed");

        let limits = Limits { memory_bytes: Some(1 << 30), processors: Some(1.5) };
        let group = groups.put(Pid::from_raw(42).unwrap(), limits, 3).unwrap();
        assert_eq!(read(&group.folder.join("memory.max")), "1073741824");
        assert_eq!(read(&group.folder.join("memory.swap.max")), "0");
        assert_eq!(read(&group.folder.join("cpu.max")), "150000 100000");
        assert_eq!(read(&group.folder.join("cgroup.procs")), "42");
    }

    #[test]
    fn a_limit_that_is_not_wanted_is_not_set() {
        let folder = group("cpu memory", "");
        let groups = Groups::rule(folder.path().to_owned()).unwrap();
        let limits = Limits { memory_bytes: None, processors: Some(0.001) };
        let group = groups.put(Pid::from_raw(42).unwrap(), limits, 0).unwrap();
        assert!(!group.folder.join("memory.max").exists());
        assert_eq!(read(&group.folder.join("cpu.max")), "1000 100000");
    }

    #[test]
    fn a_group_without_the_controllers_is_left_alone() {
        for controllers in ["", "cpuset memory", "cpu"] {
            let folder = group(controllers, "41\n");
            assert!(Groups::rule(folder.path().to_owned()).is_err());
            assert!(!folder.path().join(SERVER).exists());
        }
        assert!(Groups::rule("/nowhere".into()).is_err());
    }
}
