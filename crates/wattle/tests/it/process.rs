//! Processes as the kernel shows them in `/proc`.

use std::{fs, path::PathBuf, time::Duration};

/// The children of a process that are still at work, with the words that they were started with.
pub(crate) fn children(parent: u32) -> Vec<(u32, Vec<String>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if stat(id).is_some_and(|(_, its_parent)| its_parent == parent) {
            let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let words = words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            found.push((id, words.collect()));
        }
    }
    found
}

/// The training process of a server, if it has one.
pub(crate) fn trainer(server: u32) -> Option<u32> {
    let is_trainer = |words: &[String]| words.windows(2).any(|pair| pair == ["worker", "train"]);
    children(server).into_iter().find(|(_, words)| is_trainer(words)).map(|(id, _)| id)
}

/// The processes of a server that serve a model each.
pub(crate) fn workers(server: u32) -> Vec<u32> {
    let is_worker = |words: &[String]| words.windows(2).any(|pair| pair == ["worker", "serve"]);
    children(server).into_iter().filter(|(_, words)| is_worker(words)).map(|(id, _)| id).collect()
}

/// Whether a process is at work; one that has ended and that nobody has asked about is not.
pub(crate) fn is_alive(id: u32) -> bool {
    stat(id).is_some()
}

/// The most memory that a process has had resident, in bytes; `None` when it is gone.
pub(crate) fn peak_memory(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// How many files and sockets a process has open.
pub(crate) fn descriptors(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count)
}

/// How nice a process is to others.
pub(crate) fn niceness(id: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
}

/// Whether a process does something of its own on Ctrl-C.
pub(crate) fn catches_interrupt(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    // The lowest bit is signal 1; SIGINT is 2.
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10 != 0)
}

/// The threads of a process: each one's name, state and where in the kernel it waits.
pub(crate) fn threads(id: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    threads
        .map(|thread| {
            let stat = read(thread.path().join("stat"));
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
            format!("{} {state} {}", read(thread.path().join("comm")), read(thread.path().join("wchan")))
        })
        .collect()
}

/// A pause between two looks at something that changes by itself.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(2);

/// State and parent of a process that has not ended.
fn stat(id: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name of the program, in brackets, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, 'Z' | 'X')).then_some((state, parent))
}
