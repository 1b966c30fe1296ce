//! What there is to read about the keys: a page, and a file to start from.

use super::{
    Settings, file,
    keys::{Key, SECTIONS, keys},
};

/// `docs/configuration.md`: the same on every machine.
pub(crate) fn page() -> String {
    let mut page = format!(
        r"# Configuration

Made by `make docs` from the program itself. What a server is to do is said by, the later winning: the defaults below;
a file; the environment; flags of `wattle serve`. They are read once, when it starts.

- The file is the one of `--config FILE` or `WATTLE_CONFIG`, or else `~/.config/wattle/wattle.toml`, if that exists.
  `--no-config` reads none, and one that lies in the current folder is never read unasked.
- It is TOML and begins with `version = {version}`. An unknown key, a wrong type and a value out of range are errors, each told with
  its line. A relative path in it is one below its folder.
- The variable of a key is made of its section and its name: `WATTLE_LIMITS_MAX_WAITING`. Some have a second
  name, which counts where the first says nothing. An empty variable says nothing, and commas stand between the names of a list.
- Sizes are numbers of bytes, or have a unit: `512MiB`, `2GiB`, `1.5GB`.

`wattle config show` tells every key's value and where it came from, `wattle config show --default` prints a file to
start from, and `wattle config check FILE` tells everything that is wrong with one.
",
        version = file::VERSION
    );
    for (section, about) in SECTIONS {
        page.push_str(&format!(
            "\n## {section}\n\n{about}\n\n| key | meaning | takes | default | flag |\n|---|---|---|---|---|\n"
        ));
        for key in keys_of(section) {
            let flag = key.flag.map(|flag| format!("`--{flag}`")).unwrap_or_default();
            let short = key.short_variable.map(|name| format!(" Also `{name}`.")).unwrap_or_default();
            let default = match key.default_words {
                Some(words) => words.to_owned(),
                None => format!("`{}`", key.default_text()),
            };
            let cells = [format!("{}{short}", key.about), key.expects.clone(), default, flag];
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            page.push_str(&format!("| `{}` | {} |\n", key.section_and_name().1, cells.join(" | ")));
        }
    }
    page
}

/// A file in which every key stands with its default and its meaning, commented out: what nobody has changed follows the
/// defaults of later builds.
pub(crate) fn default_file(defaults: &Settings) -> String {
    let mut file = format!(
        "# The configuration of `wattle serve`. Every key is here with its default; take the `#` away before those that you\n\
         # change. `wattle config check FILE` tells what is wrong with it.\n\nversion = {}\n",
        file::VERSION
    );
    for (section, about) in SECTIONS {
        file.push_str(&format!("\n# {about}\n[{section}]\n"));
        for key in keys_of(section) {
            let default = key.default_words.map(|words| format!(" Default: {words}.")).unwrap_or_default();
            file.push_str(&wrapped(&format!("{} Takes {}.{default}", key.about, key.expects)));
            let value = key.write(defaults);
            let name = key.section_and_name().1;
            // A value that nobody knows is left to be written.
            file.push_str(&if value.is_empty() { format!("#{name} =\n") } else { format!("#{name} = {value}\n") });
        }
    }
    file
}

fn keys_of(section: &str) -> impl Iterator<Item = &'static Key> {
    keys().iter().filter(move |key| key.section_and_name().0 == section)
}

/// Text as a comment of lines that are not too long.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 118;
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, String::len);
        if line + 1 + word.len() > WIDTH {
            lines.push("#".into());
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn the_default_file_says_what_holds_without_it() {
        let defaults = Settings::defaults();
        let file = default_file(&defaults);
        assert!(file.lines().all(|line| line.chars().count() <= 120), "{file}");
        // Also once every key that has a default is taken in.
        let uncommented = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') && !key.ends_with('=') => format!("{key}\n"),
            _ => format!("{line}\n"),
        };
        let taken_in: String = file.lines().map(uncommented).collect();
        for (text, values) in
            [(&file, 0), (&taken_in, keys().iter().filter(|key| !key.write(&defaults).is_empty()).count())]
        {
            let (found, problems) = file::parse(text, Path::new("w.toml"));
            assert_eq!((problems, found.len()), (vec![], values));
            let mut settings = defaults.clone();
            assert!(found.iter().all(|found| found.key.set(&mut settings, &found.written, Path::new(""))), "{found:?}");
            assert_eq!(settings, defaults);
        }
    }

    #[test]
    fn the_page_has_every_key_and_nothing_of_this_machine() {
        let page = page();
        for key in keys() {
            assert!(page.contains(&format!("| `{}` | {}", key.section_and_name().1, key.about)), "{}", key.path);
        }
        let home = std::env::home_dir().unwrap();
        assert!(!page.contains(home.to_str().unwrap()), "{page}");
    }
}
