//! The documents, read as a reader would: every command that they show is run, and what they show of its output is what
//! comes out.
//!
//! - The lines of a `sh` block are run in order, all blocks of a page in one shell, beside a copy of `examples/`, with
//!   `wattle` and `WATTLE_URL` set to a server of the page's own. It stands for `wattle serve`, whose flags are checked.
//! - Beside them are `tiny.gguf`, a language model of random weights, and `minilm/`, a real one that embeds texts.
//! - A `text` block right below is their output, of both streams. `…` stands for any text within a line, or alone for any
//!   lines. Times, energies and dates differ between runs, so that only their presence counts. Where it has an `error:`,
//!   the last command must fail.
//! - `make` lines name a target of the Makefile; `make quickstart` runs `wattle quickstart`.
//! - A `python` block is run by the interpreter that the Python tests use.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use wattle_train::spec::TrainingSpec;

use crate::{
    language_models::{Decoder, minilm},
    support::{Server, root, wait_for},
};

/// The address that pages show.
const SHOWN_ADDRESS: &str = "127.0.0.1:8080";
/// The address that pages show of a container.
const SHOWN_CONTAINER: &str = "127.0.0.1:8081";
/// The page whose commands need a Docker Engine, so that it is checked with what else does.
pub(crate) const ON_CONTAINERS: &str = "docs/containers.md";

/// Pages without commands of a reader's: generated, mathematics, and measurements that last for minutes.
const NOT_RUN: [&str; 4] = ["docs/cli.md", "docs/configuration.md", "docs/formulas.md", "docs/benchmarks.md"];

/// A test for each page.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];

        $(#[test]
        fn $test() {
            check_page($page);
        })*
    };
}

pages! {
    the_readme_holds: "README.md",
    contributing_holds: "CONTRIBUTING.md",
    the_examples_hold: "examples/README.md",
    the_page_on_data_holds: "docs/data.md",
    the_page_on_training_holds: "docs/train.md",
    the_page_on_models_holds: "docs/models.md",
    the_page_on_serving_holds: "docs/serve.md",
    the_page_on_language_models_holds: "docs/language.md",
    the_page_on_rolling_out_holds: "docs/rollout.md",
    the_page_on_energy_holds: "docs/energy.md",
    the_page_on_observing_holds: "docs/observe.md",
    the_page_on_the_api_holds: "docs/api.md",
}

#[test]
fn no_page_is_left_out() {
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = format!("docs/{}", entry.unwrap().file_name().to_str().unwrap());
        let known = PAGES.contains(&name.as_str()) || name == ON_CONTAINERS || NOT_RUN.contains(&name.as_str());
        assert!(known || !name.ends_with(".md"), "{name} is not checked: name it in pages!");
    }
}

#[test]
fn links_between_pages_lead_to_their_headings() {
    let pages = PAGES.iter().chain(&NOT_RUN).chain(&[ON_CONTAINERS]).filter(|page| root().join(page).is_file());
    for page in pages {
        let text = read(page);
        for target in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => root().join(page),
                file => root().join(page).parent().unwrap().join(file),
            };
            assert!(path.exists(), "{page}: the link to {target} leads nowhere");
            if !anchor.is_empty() {
                let headings = fs::read_to_string(&path).unwrap();
                let found = headings.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor);
                assert!(found, "{page}: the link to {target} finds no such heading");
            }
        }
    }
}

#[test]
fn every_address_is_described() {
    let routes = read("crates/api/src/http/mod.rs");
    let page = read("docs/api.md");
    let paths: Vec<&str> = routes
        .split(".route(\"")
        .skip(1)
        .map(|rest| rest.split_once('"').unwrap().0)
        .filter(|path| *path != "/")
        .collect();
    assert!(paths.len() > 20, "the routes are no longer found where they were");
    let absent: Vec<&&str> = paths.iter().filter(|path| !page.contains(&format!("{path}`"))).collect();
    assert!(absent.is_empty(), "docs/api.md says nothing of {absent:?}");
}

#[test]
fn every_training_key_is_described() {
    let page = read("docs/train.md");
    let absent: Vec<&&str> = TrainingSpec::KEYS.iter().filter(|key| !page.contains(&format!("| `{key}` |"))).collect();
    assert!(absent.is_empty(), "docs/train.md says nothing of {absent:?}");
}

#[test]
fn shown_output_is_compared_as_it_says() {
    let same = |shown: &str, actual: &str| difference(shown, actual).is_none();
    assert!(same("a … c\n…\nend", "a b c\nx\n\ny\nend\n"));
    assert!(same("in 3.00 ms, 18.4 mJ (1 J to 2 J)", "in 1.2 s, 900 µJ (12.5 mJ to 30 mJ)"));
    assert!(same("at 2026-01-01 00:00:00 UTC", "at 2027-02-03 14:15:16 UTC"));
    assert!(same("a  b", "a b"));
    assert!(!same("a … c", "a b d"));
    assert!(!same("rows 3", "rows 4"));
    assert!(!same("in 3 ms", "in 3 mJ"));
    assert!(!same("a\nb", "a"));
    assert!(!same("a", "a\nb"));
}

/// What is run of a page.
enum Step {
    /// Lines of a shell, the output that is shown of them, and where they are.
    Shell { lines: String, shown: Option<String>, at: usize },
    /// A Python program and its output.
    Python { program: String, shown: Option<String>, at: usize },
}

impl Step {
    fn parts(&self) -> (&str, Option<&str>, usize) {
        match self {
            Step::Shell { lines: text, shown, at } | Step::Python { program: text, shown, at } => {
                (text, shown.as_deref(), *at)
            }
        }
    }

    fn must_fail(&self) -> bool {
        self.parts().1.is_some_and(|shown| shown.lines().any(|line| line.starts_with("error: ")))
    }
}

pub(crate) fn check_page(page: &str) {
    let curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    assert!(curl.is_ok(), "the documents call curl, which is missing: `scripts/setup.sh test` installs it");
    let steps = steps(&read(page));
    let server = Server::start();
    // The meter's first interval closes after a second, and a reader is never that quick.
    wait_for("the idle energy", || server.wattle(&["usage"]).contains("idle").then_some(()));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("reader")).unwrap();
    symlink(root().join("examples"), at("reader/examples")).unwrap();
    Decoder { context_tokens: 4096, ..Decoder::SMALL }.write(&at("reader/tiny.gguf"));
    symlink(minilm(), at("reader/minilm")).unwrap();
    fs::create_dir(at("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_wattle"), at("bin/wattle")).unwrap();
    // A terminal shows no bar and its prompt on a new line.
    fs::write(at(".curlrc"), "silent\nshow-error\nwrite-out = \"\\n\"\n").unwrap();
    fs::write(at("script"), script(&steps, folder.path(), &server.url)).unwrap();

    let path = std::env::var("PATH").unwrap();
    let status = Command::new("timeout")
        .args(["120", "bash"])
        .arg(at("script"))
        .current_dir(at("reader"))
        .env("PATH", format!("{}:{path}", at("bin").display()))
        .env("WATTLE_URL", &server.url)
        .env("CURL_HOME", folder.path())
        .env("XDG_CONFIG_HOME", folder.path())
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1")
        .stdin(Stdio::null())
        .stderr(File::create(at("errors")).unwrap())
        .status()
        .unwrap();
    for (index, step) in steps.iter().enumerate() {
        let (text, shown, line) = step.parts();
        let actual = fs::read_to_string(at(&format!("output.{index}"))).unwrap_or_default();
        let actual = actual.replace(server.url.trim_start_matches("http://"), SHOWN_ADDRESS);
        let done = at(&format!("done.{index}")).exists();
        assert!(
            done,
            "{page}:{line}: this ended with {status}:\n{text}\nand said:\n{actual}{}",
            fs::read_to_string(at("errors")).unwrap()
        );
        if let Some(problem) = shown.and_then(|shown| difference(shown, &actual)) {
            panic!("{page}:{line}: {problem}\nof the output of:\n{text}\nwhich is:\n{actual}");
        }
    }
}

/// The shell script that takes all steps, each with its output in a file and a mark that it went well.
fn script(steps: &[Step], folder: &Path, url: &str) -> String {
    let mut script = String::from("set -e -o pipefail\n");
    let container = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    if steps.iter().any(|step| matches!(step, Step::Python { .. })) {
        script += &format!("python=\"$({}/scripts/venv.sh test)\"\n", root().display());
    }
    for (index, step) in steps.iter().enumerate() {
        let lines = match step {
            Step::Shell { lines, .. } => lines.lines().map(|line| translated(line) + "\n").collect::<String>(),
            Step::Python { program, .. } => format!("\"$python\" -B - <<'END-OF-PROGRAM'\n{program}END-OF-PROGRAM\n"),
        };
        let lines =
            lines.replace(SHOWN_ADDRESS, url.trim_start_matches("http://")).replace(SHOWN_CONTAINER, &container);
        let output = format!("{}/output.{index}", folder.display());
        script += &match step.must_fail() {
            // The shell goes on where the last command failed as it should, and nowhere else.
            true => format!("set +e\n{{\n{lines}}} >{output} 2>&1\n[ $? -ne 0 ] || exit 1\nset -e\n"),
            false => format!("{{\n{lines}}} >{output} 2>&1\n"),
        };
        script += &format!("touch {}/done.{index}\n", folder.display());
    }
    script
}

/// A line as the harness runs it.
fn translated(line: &str) -> String {
    let command = line.split(" #").next().unwrap().trim();
    if let Some(target) = command.strip_prefix("make ") {
        let known = read("Makefile").lines().any(|line| line.starts_with(&format!("{target}:")));
        assert!(known, "the Makefile has no target {target}");
        return if target == "quickstart" { "wattle quickstart".into() } else { ":".into() };
    }
    match command.strip_prefix("wattle serve") {
        // With --help the flags before it are checked, and nothing starts.
        Some(flags) => format!("wattle serve {} --help >/dev/null", flags.trim_end_matches('&')),
        None => line.to_owned(),
    }
}

/// The blocks of a page that are run, each with the text block right below it.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // Whether only blank lines came since the last step.
    let mut adjacent = false;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            adjacent = adjacent && line.trim().is_empty();
            continue;
        };
        let block: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        let at = number + 2;
        match (language, steps.last_mut()) {
            ("sh", _) => steps.push(Step::Shell { lines: block, shown: None, at }),
            ("python", _) => steps.push(Step::Python { program: block, shown: None, at }),
            ("text", Some(Step::Shell { shown, .. } | Step::Python { shown, .. })) if adjacent => *shown = Some(block),
            _ => {}
        }
        adjacent = matches!(language, "sh" | "python");
    }
    steps
}

/// The first line in which the output is not as shown.
fn difference(shown: &str, actual: &str) -> Option<String> {
    let lines = |text: &str| -> Vec<String> { text.lines().map(steady).filter(|line| !line.is_empty()).collect() };
    let (shown, actual) = (lines(shown), lines(actual));
    let mut furthest = (0, 0);
    if lines_match(&shown, &actual, (0, 0), &mut furthest) {
        return None;
    }
    let line = |lines: &[String], at: usize| lines.get(at).map_or("the end".to_owned(), |line| format!("{line:?}"));
    Some(format!("shown is {}, and there is {}", line(&shown, furthest.0), line(&actual, furthest.1)))
}

fn lines_match(shown: &[String], actual: &[String], at: (usize, usize), furthest: &mut (usize, usize)) -> bool {
    *furthest = at.max(*furthest);
    match (shown.first().map(String::as_str), actual.first()) {
        (Some("…"), _) => {
            (0..=actual.len()).any(|skip| lines_match(&shown[1..], &actual[skip..], (at.0 + 1, at.1 + skip), furthest))
        }
        (Some(line), Some(other)) => {
            line_matches(line, other) && lines_match(&shown[1..], &actual[1..], (at.0 + 1, at.1 + 1), furthest)
        }
        (None, None) => true,
        _ => false,
    }
}

/// Whether a line is as shown, where `…` stands for anything.
fn line_matches(shown: &str, actual: &str) -> bool {
    let Some((head, tail)) = shown.split_once('…') else { return shown == actual };
    let Some(rest) = actual.strip_prefix(head) else { return false };
    let ends = rest.char_indices().map(|(index, _)| index).chain([rest.len()]);
    ends.into_iter().any(|end| line_matches(tail, &rest[end..]))
}

/// A line without what differs between runs: widths of columns, times, energies, dates.
fn steady(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut text = String::new();
    let mut index = 0;
    while index < words.len() {
        let open = words[index].trim_start_matches('(');
        let unit = words.get(index + 1).map_or("", |word| word.trim_end_matches([',', ')', '.', ':', ';']));
        let is_number = open.parse::<f64>().is_ok();
        let dated =
            |mark: char| open.matches(mark).count() == 2 && open.chars().all(|c| c.is_ascii_digit() || c == mark);
        let base = ["s", "J"]
            .into_iter()
            .find(|base| unit.strip_suffix(base).is_some_and(|prefix| ["", "n", "µ", "m", "k", "M"].contains(&prefix)));
        text.push(' ');
        match base {
            Some(base) if is_number => {
                let (before, after) =
                    (&words[index][..words[index].len() - open.len()], &words[index + 1][unit.len()..]);
                text.push_str(&format!("{before}# {base}{after}"));
                index += 1;
            }
            _ if dated('-') => text.push_str("DATE"),
            _ if dated(':') => text.push_str("TIME"),
            _ => text.push_str(words[index]),
        }
        index += 1;
    }
    text.trim().to_owned()
}

/// The relative targets of a page's links.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains(':') && !target.contains(' ') && !target.contains('`')).collect()
}

/// A heading's anchor, as GitHub makes it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}
