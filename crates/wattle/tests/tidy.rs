//! What rots without anybody noticing: paths in documents, long files, leftovers, traces of one machine, the changelog.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A file that grows past this asks to be two.
const MAX_RUST_LINES: usize = 600;

/// Documents at the root that every reader expects.
const ROOT_DOCUMENTS: [&str; 5] = ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"];

/// Folders whose files documents name in backticks.
const NAMED_FOLDERS: [&str; 6] = ["crates/", "scripts/", "examples/", "docs/", "tests/", ".config/"];

/// Leftovers of unfinished work, written in two halves so that this file does not hold them.
const BANNED_WORDS: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO:"),
    concat!("XX", "X"),
    concat!("for", " now"),
];

/// Folders that exist on one machine only, and settings that name a package registry other than the public one.
const MACHINE_TRACES: [&str; 8] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
    concat!("index", "-url"),
    concat!("find", "-links"),
    concat!("trusted", "-host"),
    concat!("[source", "."),
];

/// Where every package in `Cargo.lock` comes from.
const PUBLIC_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn documents_at_the_root_exist() {
    let missing: Vec<&str> = ROOT_DOCUMENTS.into_iter().filter(|name| !root().join(name).is_file()).collect();
    assert!(missing.is_empty(), "missing at the root: {missing:?}");
}

#[test]
fn documents_name_only_what_exists() {
    let mut problems = Vec::new();
    for document in documents() {
        let text = read(&document);
        for span in backticked(&text) {
            problems.extend(problem_with_path(span).map(|problem| format!("{}: {problem}", shown(&document))));
        }
        for target in relative_links(&text) {
            if !document.parent().unwrap().join(target).exists() {
                problems.push(format!("{}: the link to {target} leads nowhere", shown(&document)));
            }
        }
    }
    report(&problems);
}

#[test]
fn formulas_cite_functions_that_exist() {
    let document = root().join("docs/formulas.md");
    let text = read(&document);
    let cited: Vec<&str> = backticked(&text).into_iter().filter(|span| span.contains(".rs::")).collect();
    assert!(cited.len() > 20, "docs/formulas.md cites only {cited:?}");
    report(&cited.into_iter().filter_map(problem_with_function).collect::<Vec<_>>());
}

#[test]
fn rust_files_stay_short() {
    let mut problems = Vec::new();
    for file in tracked_files().into_iter().filter(|file| has_extension(file, &["rs"])) {
        let lines = read(&file).lines().count();
        if lines > MAX_RUST_LINES {
            problems.push(format!("{} has {lines} lines; split it at {MAX_RUST_LINES}", shown(&file)));
        }
    }
    report(&problems);
}

#[test]
fn no_leftovers_of_unfinished_work() {
    report(&lines_with(&BANNED_WORDS));
}

#[test]
fn no_traces_of_one_machine() {
    report(&lines_with(&MACHINE_TRACES));
}

#[test]
fn packages_come_from_the_public_registry() {
    let lock = read(&root().join("Cargo.lock"));
    let foreign: Vec<String> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .map(|source| source.trim_matches('"').to_owned())
        .filter(|source| source != PUBLIC_REGISTRY)
        .collect();
    report(&foreign);
}

#[test]
fn the_changelog_has_something_unreleased() {
    let changelog = read(&root().join("CHANGELOG.md"));
    let unreleased = changelog
        .split("\n## ")
        .find(|section| section.starts_with("[Unreleased]"))
        .expect("CHANGELOG.md needs a section '## [Unreleased]'");
    assert!(
        unreleased.lines().any(|line| line.starts_with("- ")),
        "the section '[Unreleased]' of CHANGELOG.md is empty"
    );
}

#[test]
fn examples_and_their_readme_agree() {
    let folder = root().join("examples");
    let readme = read(&folder.join("README.md"));
    // The first cell of each table's row names a file.
    let named: Vec<&str> =
        readme.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    let mut problems = Vec::new();
    for name in &named {
        if !folder.join(name).is_file() {
            problems.push(format!("examples/README.md names {name}, which does not exist"));
        }
    }
    for file in tracked_files() {
        let Ok(name) = file.strip_prefix(&folder) else { continue };
        let name = name.to_str().unwrap();
        if has_extension(&file, &["csv", "npy", "toml", "parquet"]) && !named.contains(&name) {
            problems.push(format!("examples/README.md does not say what {name} is"));
        }
    }
    report(&problems);
}

#[test]
fn stale_paths_are_found() {
    assert_eq!(problem_with_path("crates/wattle/tests/tidy.rs"), None);
    assert_eq!(problem_with_path("crates/wattle/tests/tidy.rs::problem_with_path"), None);
    assert_eq!(problem_with_path("crates/{core,store}"), None);
    assert!(problem_with_path("crates/wattle/tests/gone.rs").is_some());
    assert!(problem_with_path(concat!("crates/wattle/tests/tidy.rs::was_", "never_here")).is_some());
    assert_eq!(problem_with_function("wattle/tests/tidy.rs::problem_with_function"), None);
    assert!(problem_with_function("wattle/tests/tidy.rs::problem_with").is_some());
    assert!(problem_with_function("wattle/tests/gone.rs::root").is_some());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", shown(path)))
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
}

/// The files that git tracks or would track; without git (an unpacked archive) every file outside build folders.
fn tracked_files() -> Vec<PathBuf> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    match listing {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => String::from_utf8(output.stdout)
            .unwrap()
            .split_terminator('\0')
            .map(|name| root().join(name))
            .filter(|file| file.is_file())
            .collect(),
        _ => {
            let mut files = Vec::new();
            walk(&root(), &mut files);
            files
        }
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_file() {
            files.push(path);
        } else if path.is_dir() && !path.is_symlink() && !["target", ".git", "__pycache__", "shared"].contains(&name) {
            walk(&path, files);
        }
    }
}

fn documents() -> Vec<PathBuf> {
    tracked_files().into_iter().filter(|file| has_extension(file, &["md"])).collect()
}

/// Every line of the project's own text that holds one of the words, as `file:line: word`.
fn lines_with(words: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    let texts = ["rs", "md", "toml", "py", "sh", "yaml", "yml", "json", "sql", "txt", "html", "css", "js"];
    for file in tracked_files() {
        let makefile = file.file_name().is_some_and(|name| name == "Makefile" || name == "run");
        if !makefile && !has_extension(&file, &texts) {
            continue;
        }
        for (number, line) in read(&file).lines().enumerate() {
            for word in words.iter().filter(|word| contains_word(line, word)) {
                problems.push(format!("{}:{}: {word:?}", shown(&file), number + 1));
            }
        }
    }
    problems
}

/// Whether the line holds the word with neither a letter, a digit nor a part of a path beside it.
fn contains_word(line: &str, word: &str) -> bool {
    let beside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        let path = word.starts_with('/');
        let free_before = !before.is_some_and(|c| beside(c) || (path && ".-})*~$".contains(c)));
        let free_after = path || !word.ends_with(char::is_alphabetic) || !after.is_some_and(beside);
        free_before && free_after
    })
}

/// The texts between single backticks, outside fenced blocks.
fn backticked(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut spans = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

fn relative_links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap())
        .filter(|target| !target.is_empty() && !target.contains(':') && !target.contains(' ') && !target.contains('`'))
        .collect()
}

/// What is wrong with a span that names a path of the project, or a function in one (`path.rs::name`).
fn problem_with_path(span: &str) -> Option<String> {
    if !NAMED_FOLDERS.iter().any(|folder| span.starts_with(folder)) {
        return None;
    }
    let end = span.find(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c))).unwrap_or(span.len());
    let (path, rest) = span.split_at(end);
    // A pattern such as `crates/{a,b}`, `crates/*` or `jobs/<id>` stands for several files.
    if rest.starts_with(['{', '*', '<']) {
        return None;
    }
    let file = root().join(path);
    if !file.exists() {
        return Some(format!("`{path}` does not exist"));
    }
    let name = rest.strip_prefix("::")?.rsplit("::").next()?;
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
    let name = &name[..end];
    let known = file.is_dir() || read(&file).contains(name);
    (!known).then(|| format!("`{path}` holds no {name}"))
}

/// What is wrong with a citation `file::function`, where the file is below `crates/`.
fn problem_with_function(citation: &str) -> Option<String> {
    let (path, name) = citation.split_once("::")?;
    let Ok(text) = fs::read_to_string(root().join("crates").join(path)) else {
        return Some(format!("`crates/{path}` does not exist"));
    };
    let known = [format!("fn {name}("), format!("fn {name}<")].iter().any(|head| text.contains(head.as_str()));
    (!known).then(|| format!("`crates/{path}` has no function {name}"))
}
