use std::{
    fs,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use wattle_core::ParseError;

/// An amount of memory, in bytes; also written as `512MiB` or `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Amount", into = "u64")]
pub struct Memory(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "write a number of bytes, or a text such as \"2GiB\"")]
enum Amount {
    Bytes(u64),
    Text(String),
}

impl Memory {
    /// Half of the memory that this process may still take: of what the system says is available, and of what is left
    /// under the limits of its control groups (a container's limit is one). 1 GiB where nothing says.
    pub fn half_of_available() -> Memory {
        Memory(available_bytes(Path::new("/")).map_or(1 << 30, |bytes| bytes / 2))
    }
}

impl FromStr for Memory {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Memory, ParseError> {
        const UNITS: [(&str, u64); 9] = [
            ("", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
        ];
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim());
        let bytes = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .and_then(|(_, bytes)| Some(number.parse::<f64>().ok()? * *bytes as f64))
            .filter(|bytes| *bytes < 2f64.powi(63));
        bytes.map(|bytes| Memory(bytes as u64)).ok_or_else(|| {
            ParseError(format!("invalid amount of memory {text:?}: write a number of bytes, or 512MiB, or 2GiB"))
        })
    }
}

impl TryFrom<Amount> for Memory {
    type Error = ParseError;

    fn try_from(amount: Amount) -> Result<Memory, ParseError> {
        match amount {
            Amount::Bytes(bytes) => Ok(Memory(bytes)),
            Amount::Text(text) => text.parse(),
        }
    }
}

impl From<Memory> for u64 {
    fn from(memory: Memory) -> u64 {
        memory.0
    }
}

/// What is left of memory, in bytes, by the files below `root`: the least that any of them says.
fn available_bytes(root: &Path) -> Option<u64> {
    let meminfo = named_number(&root.join("proc/meminfo"), "MemAvailable:").map(|kibibytes| kibibytes * 1024);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let left = groups.lines().filter_map(|line| group_left(root, line));
    meminfo.into_iter().chain(left).min()
}

/// What a line of `/proc/self/cgroup`, `<number>:<controllers>:<path>`, and the groups above it leave, in bytes.
///
/// Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
fn group_left(root: &Path, line: &str) -> Option<u64> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let (mount, limit, usage, cache) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    } else {
        return None;
    };
    let mount = root.join(mount);
    // A path from outside this process's namespace begins with `..`; what is mounted here is then that group itself.
    let below: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let left = |group: &Path| {
        let group = mount.join(group);
        // "max" is no number, and no limit.
        let limit = number(&group.join(limit))?;
        // Cached files count as used, but give way; MemAvailable reckons in the same way.
        let used = number(&group.join(usage))?;
        let cached = named_number(&group.join("memory.stat"), cache).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    };
    below.ancestors().filter_map(left).min()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after `name` in a file of a name and a number a line.
fn named_number(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn memory_has_units() {
        let bytes = |text: &str| text.parse().map(|Memory(bytes)| bytes).ok();
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("1.5 mib"), Some(3 << 19));
        assert_eq!(bytes("64MB"), Some(64_000_000));
        assert_eq!(bytes("123"), Some(123));
        for text in ["", "GiB", "-1GiB", "2 potatoes", "1e9", "99999999999999999TiB"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
        assert!(Memory::half_of_available().0 > 1 << 20);
    }

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_container_s_limit_counts_as_the_machine_s() {
        let meminfo = ("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:  4000 kB\n");
        let left = |files: &[(&str, &str)]| available_bytes(machine(&[&[meminfo], files].concat()).path());
        assert_eq!(available_bytes(machine(&[]).path()), None);
        assert_eq!(left(&[]), Some(4_096_000));
        // Version 2: the group above limits too, and its cached files give way.
        let v2 = [
            ("proc/self/cgroup", "0::/pod/job\n"),
            ("sys/fs/cgroup/pod/job/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/job/memory.current", "10\n"),
            ("sys/fs/cgroup/pod/memory.max", "3000000\n"),
            ("sys/fs/cgroup/pod/memory.current", "1000000\n"),
            ("sys/fs/cgroup/pod/memory.stat", "anon 600000\ninactive_file 400000\n"),
        ];
        assert_eq!(left(&v2), Some(2_400_000));
        let own = [("sys/fs/cgroup/pod/job/memory.max", "1000\n")];
        assert_eq!(left(&[&v2[..1], &v2[2..], &own].concat()), Some(990));
        // In a namespace of its own, the group is the root of what is mounted.
        let inside = [
            ("proc/self/cgroup", "0::/../other\n"),
            ("sys/fs/cgroup/memory.max", "500\n"),
            ("sys/fs/cgroup/memory.current", "600\n"),
        ];
        assert_eq!(left(&inside), Some(0));
        // Version 1, whose "no limit" is a very large number; the path is the host's and not mounted here.
        let v1 = [
            ("proc/self/cgroup", "5:cpu:/\n4:memory,hugetlb:/docker/1f\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "70\n"),
        ];
        let limit = |text| [("sys/fs/cgroup/memory/memory.limit_in_bytes", text)];
        assert_eq!(left(&[&v1[..], &limit("100\n")].concat()), Some(30));
        assert_eq!(left(&[&v1[..], &limit("9223372036854771712\n")].concat()), Some(4_096_000));
    }
}
