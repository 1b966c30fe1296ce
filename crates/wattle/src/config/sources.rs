use std::{
    env,
    ffi::OsString,
    fmt::{self, Display},
    path::{Path, PathBuf},
};

use wattle_core::nearest;

use super::{
    Problem, Settings, file,
    form::{Written, shortened},
    keys::{Key, SECTIONS, keys},
    settings::home_folder,
};
use crate::flags::ServeFlags;

/// Names the file.
const CONFIG_VARIABLE: &str = "WATTLE_CONFIG";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File { path: PathBuf, line: usize },
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl Origin {
    /// One word for it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::File { .. } => "file",
            Origin::Variable(_) => "environment",
            Origin::Flag(_) => "flag",
        }
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Where a server's settings are looked for.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The environment's variables.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Values of flags, by the path of their key.
    pub(crate) flags: Vec<(&'static Key, Vec<String>)>,
}

/// What was found: a value for each key, what is wrong, and what is only odd.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) file: Option<PathBuf>,
    pub(crate) settings: Settings,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    /// One for each key.
    origins: Vec<Origin>,
}

impl Sources {
    /// What the command line and this process's environment name. Without `--config` the file is that of the user's own
    /// settings; one in the current folder is never taken unasked, since that may be anybody's.
    pub(crate) fn new(flags: &ServeFlags) -> Sources {
        let environment: Vec<_> =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        let variable = || environment.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
        let named = flags.config.clone().or_else(|| variable().map(|(_, path)| path.into()));
        let own = || home_folder("XDG_CONFIG_HOME", ".config").map(|base| base.join("wattle/wattle.toml"));
        let file = match flags.no_config {
            true => None,
            false => named.or_else(|| own().filter(|path| path.exists())),
        };
        Sources { file, environment, flags: flags.keys.0.clone() }
    }

    /// Reads them all.
    pub(crate) fn load(self) -> Loaded {
        let mut loaded = Loaded {
            settings: Settings::said_by_nobody(),
            origins: vec![Origin::Default; keys().len()],
            problems: Vec::new(),
            warnings: Vec::new(),
            file: self.file,
        };
        if let Some(path) = loaded.file.clone() {
            match file::read(&path) {
                Ok(text) => loaded.take_file(&path, &text),
                Err(error) => {
                    loaded.problems.push(Problem::new(path.display(), format!("the file cannot be read: {error}")));
                }
            }
        }
        loaded.take_environment(&self.environment);
        for (key, values) in &self.flags {
            let Some(flag) = key.flag else { continue };
            let shown = shortened(values.join(","));
            let mut values: Vec<Written> = values.iter().cloned().map(Written::Bare).collect();
            let written = if key.takes_many { Written::List(values) } else { values.pop().unwrap_or(Written::Other) };
            loaded.take(key, &written, &shown, Path::new(""), Origin::Flag(flag));
        }
        loaded.settings = loaded.settings.complete();
        loaded
    }
}

impl Loaded {
    /// Every key and where its value came from.
    pub(crate) fn origins(&self) -> impl Iterator<Item = (&'static Key, &Origin)> {
        keys().iter().zip(&self.origins)
    }

    /// Where a key's value came from.
    pub(crate) fn origin(&self, path: &str) -> &Origin {
        self.origins().find(|(key, _)| key.path == path).map_or(&Origin::Default, |(_, origin)| origin)
    }

    fn take_file(&mut self, path: &Path, text: &str) {
        // A name without a folder has an empty one, and then paths in the file stay as they are.
        let folder = path.parent().unwrap_or(Path::new(""));
        let (found, problems) = file::parse(text, path);
        self.problems.extend(problems);
        for found in found {
            let origin = Origin::File { path: path.to_owned(), line: found.line };
            self.take(found.key, &found.written, &found.shown, folder, origin);
        }
    }

    fn take_environment(&mut self, environment: &[(String, OsString)]) {
        // A variable that is empty says nothing, as where a script clears it.
        let said = |name: &str| environment.iter().find(|(other, value)| other == name && !value.is_empty());
        for key in keys() {
            let names = key.variables();
            let Some((name, value)) = names.iter().find_map(|name| said(name)) else { continue };
            match value.to_str() {
                Some(text) => {
                    let origin = Origin::Variable(name.clone());
                    self.take(key, &Written::Bare(text.to_owned()), &shortened(text), Path::new(""), origin);
                }
                None => self.problems.push(Problem::of_key(name, key.path, "must be UTF-8")),
            }
        }
        for (name, _) in environment {
            self.warnings.extend(slip(name).map(|known| {
                Problem::new(name, format!("is a variable of no key, and has no effect: did you mean {known}?"))
            }));
        }
    }

    fn take(&mut self, key: &'static Key, written: &Written, shown: &str, folder: &Path, origin: Origin) {
        if !key.set(&mut self.settings, written, folder) {
            let problem = format!("must be {}, not {shown}", key.expects);
            self.problems.push(Problem::of_key(origin, key.path, problem));
        } else if let Some(index) = keys().iter().position(|other| other.path == key.path) {
            self.origins[index] = origin;
        }
    }
}

/// The variable that was meant by one that no key has. Others may begin in the same way: Kubernetes, for example, sets
/// some for each service, so only one that looks like a key's is told.
fn slip(name: &str) -> Option<String> {
    let known: Vec<String> = keys().iter().flat_map(Key::variables).collect();
    if known.iter().any(|other| other == name) {
        return None;
    }
    SECTIONS.iter().find_map(|(section, _)| {
        let prefix = format!("WATTLE_{}_", section.replace('.', "_").to_uppercase());
        let names = || known.iter().filter_map(|known| known.strip_prefix(&prefix));
        nearest(name.strip_prefix(&prefix)?, names()).map(|known| format!("{prefix}{known}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{os::unix::ffi::OsStringExt, time::Duration};

    use super::*;

    fn variables(variables: &[(&str, &str)]) -> Vec<(String, OsString)> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect()
    }

    fn key(path: &str) -> &'static Key {
        keys().iter().find(|key| key.path == path).unwrap()
    }

    fn told(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_later_source_wins_and_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.toml");
        let text = "version = 1\n[server]\ngrace_seconds = 1.5\ndata_dir = \"data\"\n[limits]\nmax_waiting = 1\nmax_computing = 1\n";
        std::fs::write(&path, text).unwrap();
        let sources = Sources {
            file: Some(path.clone()),
            environment: variables(&[
                ("WATTLE_LIMITS_MAX_WAITING", "2"),
                ("WATTLE_LIMITS_MAX_COMPUTING", "2"),
                ("WATTLE_SERVER_ALLOW_HOSTS", "a, b"),
                ("WATTLE_SERVER_GRACE_SECONDS", ""),
            ]),
            flags: vec![(key("limits.max_waiting"), vec!["3".into()])],
        };
        let loaded = sources.load();
        let said = &loaded.settings;
        assert_eq!((said.max_waiting, said.max_computing, said.grace), (3, 2, Duration::from_millis(1500)));
        assert_eq!(said.data_dir, Some(folder.path().join("data")));
        assert_eq!(said.allow_hosts, ["a", "b"]);
        assert_eq!(*loaded.origin("limits.max_waiting"), Origin::Flag("max-waiting"));
        assert_eq!(*loaded.origin("limits.max_computing"), Origin::Variable("WATTLE_LIMITS_MAX_COMPUTING".into()));
        assert_eq!(*loaded.origin("server.grace_seconds"), Origin::File { path, line: 3 });
        assert_eq!(*loaded.origin("log.filter"), Origin::Default);
        assert!(loaded.problems.is_empty() && loaded.resolve().is_ok());
    }

    #[test]
    fn a_key_s_full_name_counts_before_its_short_one() {
        let both = [("WATTLE_LISTEN", "127.0.0.1:1"), ("WATTLE_SERVER_LISTEN", "127.0.0.1:2")];
        for (given, port) in [(&both[..], 2), (&both[..1], 1)] {
            let loaded = Sources { environment: variables(given), ..Sources::default() }.load();
            assert_eq!(loaded.settings.listen.port(), port);
        }
    }

    #[test]
    fn variables_that_are_wrong_are_told() {
        let mut environment = variables(&[("WATTLE_LIMITS_MAX_WAITING", "many"), ("WATTLE_LOG", "wattle_serve=loud")]);
        environment.push(("WATTLE_DATA_DIR".into(), OsString::from_vec(vec![0xff])));
        let loaded = Sources { environment, ..Sources::default() }.load();
        let expected = [
            "WATTLE_DATA_DIR: server.data_dir must be UTF-8",
            "WATTLE_LIMITS_MAX_WAITING: limits.max_waiting must be a whole number from 0 to 1000000, not many",
            "WATTLE_LOG: log.filter must be a filter, as in info or warn,wattle_serve=debug, not wattle_serve=loud",
        ];
        assert_eq!(told(&loaded.problems), expected);
        assert!(
            loaded.resolve().unwrap_err().to_string().starts_with("the configuration has 3 problems:\n  WATTLE_DATA")
        );
    }

    #[test]
    fn a_slip_in_a_variable_is_told_and_those_of_others_are_not() {
        let environment = variables(&[
            ("WATTLE_LIMITS_MAX_WAITIN", "1"),
            ("WATTLE_SERVER_SERVICE_HOST", "10.0.0.1"),
            ("WATTLE_SERVER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("WATTLE_URL", "http://127.0.0.1:1"),
            ("WATTLE_LOG", "info"),
        ]);
        let loaded = Sources { environment, ..Sources::default() }.load();
        let expected = "WATTLE_LIMITS_MAX_WAITIN: is a variable of no key, and has no effect: did you mean WATTLE_LIMITS_MAX_WAITING?";
        assert_eq!((told(&loaded.warnings), told(&loaded.problems)), (vec![expected.to_owned()], vec![]));
    }

    #[test]
    fn watts_that_make_no_sense_together_are_told_where_they_were_said() {
        let environment = variables(&[("WATTLE_ENERGY_FULL_WATTS", "10")]);
        let error = Sources { environment, ..Sources::default() }.load().resolve().unwrap_err();
        let told = "WATTLE_ENERGY_FULL_WATTS: ";
        assert!(error.to_string().starts_with(told) && error.to_string().contains("idle_watts"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_or_is_no_such_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = |name: &str| {
            let sources = Sources { file: Some(folder.path().join(name)), ..Sources::default() };
            sources.load().resolve().unwrap_err().to_string()
        };
        assert!(told("gone.toml").contains("gone.toml: the file cannot be read: "));
        std::fs::write(folder.path().join("large.toml"), "#".repeat(1 << 20)).unwrap();
        assert!(told("large.toml").contains("larger than"));
        std::fs::write(folder.path().join("bytes.toml"), [0xff; 10]).unwrap();
        assert!(told("bytes.toml").contains("UTF-8"));
    }
}
