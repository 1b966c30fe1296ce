//! Reading `wattle.toml`: every value with its line, and everything that is wrong, not just the first.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use toml::de::{DeTable, DeValue};
use wattle_core::nearest;

use super::{
    Problem,
    form::{Written, shortened},
    keys::{Key, SECTIONS, keys},
};

/// The form of the file that this build reads.
pub(crate) const VERSION: u32 = 1;

/// A file is this large at most; one with every key and its description has less than a quarter of it.
const MOST_BYTES: u64 = 64 << 10;
/// After so many problems the rest of the file is not looked at: it is some other file.
const MOST_PROBLEMS: usize = 200;

/// A value of the file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: &'static Key,
    pub(super) written: Written,
    pub(super) line: usize,
    /// The value as it stands there.
    pub(super) shown: String,
}

/// The text of a file.
///
/// # Errors
/// Besides those of the disk, one when it is larger than such a file ever is.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it is larger than {MOST_BYTES} bytes")));
    }
    Ok(text)
}

/// The values of a file, in its order, and what is wrong with it.
pub(super) fn parse(text: &str, path: &Path) -> (Vec<Found>, Vec<Problem>) {
    let mut reader = Reader { text, path, found: Vec::new(), problems: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut wrong_lines = Vec::new();
    for error in errors.iter().take(MOST_PROBLEMS) {
        let line = reader.line(error.span().unwrap_or_default());
        // One slip can be told in several ways; the first is the closest.
        if !wrong_lines.contains(&line) {
            wrong_lines.push(line);
            reader.problems.push(Problem::new(reader.at(line), error.message()));
        }
    }
    match document.get_ref().get("version") {
        Some(version) => {
            let line = reader.line(version.span());
            if !is_version(version.get_ref()) && !wrong_lines.contains(&line) {
                let problem = format!(
                    "is {}, and this build reads version {VERSION} only: write `version = {VERSION}`, or use the build that the file was written for",
                    shortened(reader.source(version.span()))
                );
                // Its other keys may mean something else.
                return (Vec::new(), vec![Problem::of_key(reader.at(line), "version", problem)]);
            }
        }
        None if errors.is_empty() => {
            let problem = format!("is absent: write `version = {VERSION}` on the first line");
            reader.problems.push(Problem::of_key(reader.at(1), "version", problem));
        }
        None => {}
    }
    let syntax_problems = reader.problems.len();
    reader.walk(document.get_ref(), "");
    // What the parser made of a line with an error may be anything.
    let is_sound = |line: usize| !wrong_lines.contains(&line);
    let places: Vec<String> = wrong_lines.iter().map(|line| reader.at(*line)).collect();
    let mut problems = reader.problems;
    let of_keys = problems.split_off(syntax_problems);
    problems.extend(of_keys.into_iter().filter(|problem| !places.contains(&problem.at)));
    (reader.found.into_iter().filter(|found| is_sound(found.line)).collect(), problems)
}

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    found: Vec<Found>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Goes through a table of keys. It never goes deeper than the sections do.
    fn walk(&mut self, table: &DeTable<'_>, section: &str) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            if self.problems.len() >= MOST_PROBLEMS {
                return;
            }
            let line = self.line(name.span());
            let name = name.get_ref().as_ref();
            let path = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            // A name in quotes may hold points, and is then none of ours.
            let is_plain = !name.contains('.');
            if path == "version" {
                continue;
            } else if let Some(key) = keys().iter().find(|key| is_plain && key.path == path) {
                let shown = match value.get_ref() {
                    DeValue::Table(_) => "a table".into(),
                    _ => shortened(self.source(value.span())),
                };
                self.found.push(Found { key, written: written(value.get_ref()), line, shown });
            } else if is_plain && is_section(&path) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.walk(inner, &path),
                    _ => {
                        let problem = format!("is a section: write [{path}], and its keys below");
                        self.problems.push(Problem::of_key(self.at(line), path, problem));
                    }
                }
            } else {
                let is_table = matches!(value.get_ref(), DeValue::Table(_));
                self.problems.push(Problem::of_key(self.at(line), shortened(&path), unknown(section, name, is_table)));
            }
        }
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    fn source(&self, span: Range<usize>) -> &str {
        self.text.get(span).unwrap_or_default()
    }
}

fn is_section(path: &str) -> bool {
    SECTIONS
        .iter()
        .any(|(section, _)| section.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// What to say of a name that nothing has.
fn unknown(section: &str, name: &str, is_table: bool) -> String {
    let path = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let sections = || SECTIONS.iter().map(|(section, _)| *section);
    if is_table {
        return match nearest(&path, sections()) {
            Some(known) => format!("is no section: did you mean [{known}]?"),
            None => format!("is no section: use one of {}", sections().collect::<Vec<_>>().join(", ")),
        };
    }
    match nearest_key(section, name) {
        Some(known) => format!("is no key: did you mean {}?", known.path),
        None => "is no key: `wattle config show` lists all".into(),
    }
}

/// The key that was meant: of this section if one is near, of this name if it is another section's, or else any that is
/// near.
fn nearest_key(section: &str, name: &str) -> Option<&'static Key> {
    let by_path = |path: &str| keys().iter().find(|key| key.path == path);
    let named = || keys().iter().map(Key::section_and_name);
    let here = nearest(name, named().filter(|(of, _)| *of == section).map(|(_, name)| name));
    let elsewhere = || named().find(|(_, other)| *other == name).map(|(of, name)| format!("{of}.{name}"));
    let anywhere = || nearest(&format!("{section}.{name}"), keys().iter().map(|key| key.path)).map(str::to_owned);
    by_path(&here.map(|name| format!("{section}.{name}")).or_else(elsewhere).or_else(anywhere)?)
}

fn is_version(value: &DeValue<'_>) -> bool {
    value.as_integer().is_some_and(|number| number.to_string() == VERSION.to_string())
}

fn written(value: &DeValue<'_>) -> Written {
    match value {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(number) => {
            let value = i128::from_str_radix(number.as_str(), number.radix());
            Written::Number(value.map_or_else(|_| number.to_string(), |value| value.to_string()))
        }
        DeValue::Float(number) => Written::Number(number.as_str().to_owned()),
        DeValue::Array(values) => Written::List(values.iter().map(|value| written_shallow(value.get_ref())).collect()),
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => Written::Other,
    }
}

/// A value of an array; no key takes arrays of arrays.
fn written_shallow(value: &DeValue<'_>) -> Written {
    match value {
        DeValue::Array(_) => Written::Other,
        value => written(value),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        parse(text, Path::new("w.toml")).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_come_with_their_lines() {
        let text = "version = 1\nlimits.max_waiting = 0x10\n[server]\n# where\nlisten = \"[::]:80\"\nallow_hosts = [\n  \"a\",\n]\n[log]\nformat = 'json'\n[server.tls]\n";
        let (found, problems) = parse(text, Path::new("w.toml"));
        let found: Vec<_> = found.iter().map(|found| (found.key.path, found.line, found.written.clone())).collect();
        let texts = |text: &str| Written::Text(text.into());
        let expected = [
            ("limits.max_waiting", 2, Written::Number("16".into())),
            ("server.listen", 5, texts("[::]:80")),
            ("server.allow_hosts", 6, Written::List(vec![texts("a")])),
            ("log.format", 10, texts("json")),
        ];
        assert_eq!(found, expected);
        assert!(problems.iter().all(|problem| problem.key.as_deref() == Some("server.tls")), "{problems:?}");
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest() {
        for (text, told) in [
            ("[server]\nlistn = 1", "w.toml:3: server.listn is no key: did you mean server.listen?"),
            ("[server]\nmax_waiting = 1", "w.toml:3: server.max_waiting is no key: did you mean limits.max_waiting?"),
            ("[server]\ngrace = 1", "w.toml:3: server.grace is no key: did you mean server.grace_seconds?"),
            ("listen = 1", "w.toml:2: listen is no key: did you mean server.listen?"),
            ("[limit]\nmax_waiting = 1\nx = 2", "w.toml:2: limit is no section: did you mean [limits]?"),
            ("[qqqq]", "w.toml:2: qqqq is no section: use one of server, "),
            ("zzz = 1", "w.toml:2: zzz is no key: `wattle config show` lists all"),
            ("limits = 3", "w.toml:2: limits is a section: write [limits], and its keys below"),
            ("\"server.listen\" = \"a\"", "w.toml:2: server.listen is no key: did you mean server.listen?"),
        ] {
            let problems = problems(&format!("version = 1\n{text}"));
            assert!(problems.len() == 1 && problems[0].starts_with(told), "{text}: {problems:?}");
        }
    }

    #[test]
    fn the_version_decides_what_is_read() {
        let other = "version = 2\n[limit]\nx = 1";
        assert_eq!(
            problems(other),
            [
                "w.toml:1: version is 2, and this build reads version 1 only: write `version = 1`, or use the build that the file was written for"
            ]
        );
        assert_eq!(problems("version = \"1\"").len(), 1);
        assert_eq!(problems("[log]\n"), ["w.toml:1: version is absent: write `version = 1` on the first line"]);
        assert!(problems("version = 1").is_empty());
    }

    #[test]
    fn every_slip_is_told_and_none_twice() {
        let text = "version = 1\n[limits]\nmax_waiting = many\nmax_computing = \n[log]\nformat = \"text\"\nfilte = \"info\"\nformat = \"json\"";
        let problems = problems(text);
        let lines: Vec<&str> = problems.iter().map(|problem| problem.split(':').nth(1).unwrap()).collect();
        assert_eq!(lines, ["3", "4", "8", "7"], "{problems:?}");
    }

    proptest! {
        /// Whatever bytes are in the file, reading them ends, and what is told is bounded and one line each.
        #[test]
        fn fuzz_configuration_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            check(&String::from_utf8_lossy(&bytes));
        }

        /// The same for texts that look like a configuration, with any part gone wrong.
        #[test]
        fn fuzz_configuration_text(parts in proptest::collection::vec(part(), 0..40)) {
            check(&parts.concat());
        }
    }

    fn part() -> impl Strategy<Value = String> {
        let names = keys().iter().map(|key| key.path.to_owned());
        let sections = SECTIONS.iter().map(|(name, _)| format!("\n[{name}]\n"));
        let fixed = [
            "version = 1\n",
            " = ",
            "\n",
            "\"",
            "'''",
            "[",
            "]]",
            "{",
            "}",
            ",",
            ".",
            "#",
            "\u{0}",
            "é",
            "1e999",
            "0x",
            "-",
            "inf",
        ];
        let all: Vec<String> = names.chain(sections).chain(fixed.map(str::to_owned)).collect();
        prop_oneof![proptest::sample::select(all), "[a-z_.\"=\\[\\]0-9 \n]{0,12}"]
    }

    fn check(text: &str) {
        let (found, problems) = parse(text, Path::new("w.toml"));
        assert!(found.len() <= keys().len());
        assert!(problems.len() <= 2 * MOST_PROBLEMS + 1);
        for problem in problems {
            let told = problem.to_string();
            assert!(!told.contains('\n') && told.len() < 1000, "{told:?}");
        }
    }
}
