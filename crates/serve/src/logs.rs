//! What was said of each deployment lately: by the server, and by whatever serves its model elsewhere.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use wattle_core::Name;

/// Lines that are kept of a deployment.
const LINES: usize = 1000;
/// The longest line, in bytes; the rest of a longer one is cut off.
const LINE_BYTES: usize = 4 << 10;
/// Names of which lines are kept; the one of which nothing was said for longest goes first.
const NAMES: usize = 256;

/// A line of a deployment's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its place among all lines of the server; each is larger than the one before.
    pub number: u64,
    /// When it was said.
    pub at: DateTime<Utc>,
    /// Who said it: `server`, or what an instance is called where it runs.
    pub from: String,
    /// What was said.
    pub text: String,
}

/// The logs of all deployments of a server, as far back as they are kept.
#[derive(Debug)]
pub struct Logs {
    kept: Mutex<Kept>,
    /// The number of the last line.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    lines: BTreeMap<Name, VecDeque<LogLine>>,
}

impl Default for Logs {
    fn default() -> Logs {
        Logs { kept: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Logs {
    /// Keeps a line.
    pub fn add(&self, deployment: &Name, from: &str, text: &str) {
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        let text = text[..text.floor_char_boundary(LINE_BYTES)].to_owned();
        if !kept.lines.contains_key(deployment) && kept.lines.len() >= NAMES {
            let newest = |lines: &VecDeque<LogLine>| lines.back().map_or(0, |line| line.number);
            let oldest = kept.lines.iter().min_by_key(|(_, lines)| newest(lines)).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| kept.lines.remove(&oldest));
        }
        let lines = kept.lines.entry(deployment.clone()).or_default();
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(LogLine { number, at: Utc::now(), from: from.to_owned(), text });
        drop(kept);
        self.last.send_replace(number);
    }

    /// The last lines of a deployment, at most so many, the oldest first; nothing, if nothing was ever said of it.
    pub fn tail(&self, deployment: &Name, count: usize) -> Option<Vec<LogLine>> {
        let kept = self.kept();
        let lines = kept.lines.get(deployment)?;
        Some(lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect())
    }

    /// The lines of a deployment that came after the one of this number.
    pub fn after(&self, deployment: &Name, number: u64) -> Vec<LogLine> {
        let kept = self.kept();
        let lines = kept.lines.get(deployment).into_iter().flatten();
        lines.filter(|line| line.number > number).cloned().collect()
    }

    /// Told the number of the last line whenever one comes, whatever it is about.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let logs = Logs::default();
        assert_eq!(logs.tail(&name("a"), 5), None);
        (0..LINES + 10).for_each(|number| logs.add(&name("a"), "server", &number.to_string()));
        logs.add(&name("b"), "wattle-b-1", &"é".repeat(LINE_BYTES));
        let texts = |lines: Vec<LogLine>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(texts(logs.tail(&name("a"), 2).unwrap()), ["1008", "1009"]);
        assert_eq!(logs.tail(&name("a"), usize::MAX).unwrap().len(), LINES);
        assert_eq!(logs.tail(&name("b"), 9).unwrap()[0].text.len(), LINE_BYTES);
        let last = logs.tail(&name("a"), 1).unwrap()[0].number;
        assert!(logs.after(&name("a"), last).is_empty());
        assert_eq!(texts(logs.after(&name("a"), last - 1)), ["1009"]);
        assert_eq!(*logs.changes().borrow(), last + 1);
    }

    #[test]
    fn names_that_come_and_go_do_not_pile_up() {
        let logs = Logs::default();
        logs.add(&name("first"), "server", "hello");
        (0..NAMES + 5).for_each(|number| {
            logs.add(&name(&format!("n{number}")), "server", "hello");
            logs.add(&name("kept"), "server", "still here");
        });
        assert_eq!(logs.kept().lines.len(), NAMES);
        assert!(logs.tail(&name("first"), 1).is_none() && logs.tail(&name("kept"), 1).is_some());
    }
}
