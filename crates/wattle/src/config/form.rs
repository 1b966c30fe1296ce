//! How values are written: what is taken, how it is read, and how it is shown.

use std::{
    fmt::Display,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use wattle_train::spec::Memory;

use super::Wanted;

/// A value as somebody wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Written {
    /// In the environment or on the command line, where everything is text.
    Bare(String),
    /// A string of TOML.
    Text(String),
    /// A number of TOML, in digits that Rust reads.
    Number(String),
    /// An array of TOML, or a flag that was given several times.
    List(Vec<Written>),
    /// What no key takes, such as a date.
    Other,
}

impl Written {
    fn text(&self) -> Option<&str> {
        match self {
            Written::Bare(text) | Written::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self) -> Option<&str> {
        match self {
            Written::Bare(text) | Written::Number(text) => Some(text.trim()),
            _ => None,
        }
    }
}

/// Reads a value; a relative path is one below the folder. `None` when it is not what is expected.
pub(super) type Read<T> = Box<dyn Fn(&Written, &Path) -> Option<T> + Send + Sync>;

/// How the values of one type are written.
pub(crate) struct Form<T> {
    /// What is taken, for errors and for the reference.
    pub(super) expects: String,
    /// What stands for the value in a flag's help.
    pub(super) placeholder: &'static str,
    /// Whether there may be several.
    pub(super) takes_many: bool,
    pub(super) read: Read<T>,
    /// The value for scripts; null when there is none.
    pub(super) show: fn(&T) -> Value,
    /// The shown value as it would be written into the file.
    pub(super) write: fn(&Value) -> String,
}

fn form<T: Serialize>(
    placeholder: &'static str,
    expects: String,
    read: impl Fn(&Written, &Path) -> Option<T> + Send + Sync + 'static,
) -> Form<T> {
    Form { expects, placeholder, takes_many: false, read: Box::new(read), show: shown, write: toml_text }
}

/// A key that may have no value.
pub(super) fn optional<T: Serialize + 'static>(form: Form<T>) -> Form<Option<T>> {
    let Form { expects, placeholder, takes_many, read, show: _, write } = form;
    let read = Box::new(move |written: &Written, folder: &Path| read(written, folder).map(Some));
    Form { expects, placeholder, takes_many, read, show: shown, write }
}

/// An address and a port.
pub(super) fn address() -> Form<SocketAddr> {
    let expects = "an address and a port, as in 127.0.0.1:8080 or [::]:8080".into();
    form("ADDRESS", expects, |written, _| written.text()?.trim().parse().ok())
}

/// A file or a folder.
pub(super) fn path(what: &str) -> Form<PathBuf> {
    form("PATH", format!("the path of a {what}"), |written, folder| {
        let text = written.text()?;
        (!text.trim().is_empty() && !text.contains('\0')).then(|| folder.join(text))
    })
}

/// A name for people.
pub(super) fn name() -> Form<String> {
    form("NAME", "a name".into(), |written, _| {
        let text = written.text()?.trim();
        (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
    })
}

/// Names, in the environment between commas.
pub(super) fn names() -> Form<Vec<String>> {
    list("NAME", "a list of names", |name| (!name.is_empty()).then(|| name.to_owned()))
}

/// Versions of models, in the environment between commas.
pub(super) fn versions() -> Form<Vec<Wanted>> {
    list("NAME:VERSION", "a list of versions, as in iris:3 or iris:3@sha256:…", |version| version.parse().ok())
}

fn list<T: Serialize + 'static>(
    placeholder: &'static str,
    expects: &str,
    one: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
) -> Form<Vec<T>> {
    let list = form(placeholder, expects.into(), move |written, _| {
        let mut found = Vec::new();
        for written in if let Written::List(all) = written { all.as_slice() } else { std::slice::from_ref(written) } {
            match written {
                Written::Text(text) => found.push(one(text.trim())?),
                Written::Bare(all) => {
                    for text in all.split(',') {
                        found.push(one(text.trim())?);
                    }
                }
                _ => return None,
            }
        }
        // A string of the file is not a list of one.
        (!matches!(written, Written::Text(_))).then_some(found)
    });
    Form { takes_many: true, ..list }
}

/// One of a few words.
pub(super) fn choice<T: Serialize + Copy + Send + Sync>(
    placeholder: &'static str,
    choices: &'static [(&'static str, T)],
) -> Form<T> {
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    form(placeholder, words.join(" or "), |written, _| {
        let text = written.text()?.trim();
        choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    })
}

/// A filter of the log's lines.
pub(super) fn filter() -> Form<String> {
    form("FILTER", "a filter, as in info or warn,wattle_serve=debug".into(), |written, _| {
        // Modules and levels are ASCII, and tracing-subscriber's parser panics on other letters.
        let text = written.text().filter(|text| text.is_ascii())?.trim();
        EnvFilter::try_new(text).ok().map(|_| text.to_owned())
    })
}

/// Where a collector of traces is.
pub(super) fn collector() -> Form<String> {
    form("URL", "an address without TLS, as in http://127.0.0.1:4318".into(), |written, _| {
        let text = written.text()?.trim();
        let url = reqwest::Url::parse(text).ok()?;
        (url.scheme() == "http" && url.has_host()).then(|| text.to_owned())
    })
}

/// Where a server is.
pub(super) fn server() -> Form<String> {
    form("URL", "an address, as in http://127.0.0.1:8080".into(), |written, _| {
        let text = written.text()?.trim();
        let url = reqwest::Url::parse(text).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host()).then(|| text.to_owned())
    })
}

/// A whole number.
pub(super) fn whole<T>(range: RangeInclusive<u64>) -> Form<T>
where
    T: Serialize + TryFrom<u64>,
{
    let expects = format!("a whole number from {} to {}", range.start(), range.end());
    form("N", expects, move |written, _| within(written.number()?, &range).and_then(|number| T::try_from(number).ok()))
}

/// An amount of bytes.
pub(super) fn bytes<T>(range: RangeInclusive<u64>) -> Form<T>
where
    T: Serialize + TryFrom<u64>,
{
    let expects = format!(
        "a number of bytes from {} to {}, or a size as in \"512MiB\"",
        size(*range.start()),
        size(*range.end())
    );
    let bytes = form("BYTES", expects, move |written: &Written, _: &Path| {
        let number = match written {
            // Sizes may have a point, so their parser does not keep the last digits of a very large number.
            Written::Number(digits) => digits.parse().ok(),
            Written::Bare(text) | Written::Text(text) => {
                text.parse().ok().or_else(|| text.trim().parse::<Memory>().ok().map(|Memory(bytes)| bytes))
            }
            _ => None,
        };
        number.filter(|bytes| range.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok())
    });
    let write = |value: &Value| match value.as_u64().map(size) {
        Some(text) if text.ends_with('B') => format!("\"{text}\""),
        Some(digits) => digits,
        None => String::new(),
    };
    Form { write, ..bytes }
}

/// A time in seconds.
pub(super) fn seconds(range: RangeInclusive<f64>) -> Form<Duration> {
    let expects = format!("a number of seconds from {} to {}", range.start(), range.end());
    let seconds = form("SECONDS", expects, move |written: &Written, _: &Path| {
        Duration::try_from_secs_f64(within(written.number()?, &range)?).ok()
    });
    Form { show: |time| shown(&time.as_secs_f64()), ..seconds }
}

/// A number of some unit.
pub(super) fn quantity(placeholder: &'static str, unit: &str, range: RangeInclusive<f64>) -> Form<f64> {
    let expects = format!("a number of {unit} from {} to {}", range.start(), range.end());
    form(placeholder, expects, move |written, _| within(written.number()?, &range))
}

fn within<T: FromStr + PartialOrd>(digits: &str, range: &RangeInclusive<T>) -> Option<T> {
    digits.parse().ok().filter(|number| range.contains(number))
}

/// A value for scripts, a number without a point where it needs none.
fn shown<T: Serialize>(value: &T) -> Value {
    match json!(value) {
        Value::Number(number) => match number.as_f64() {
            // Exact below 2^53.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        value => value,
    }
}

/// The largest unit of which this is a multiple.
fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 5] = [(60, "EiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = UNITS.iter().find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A shown value as TOML; nothing for none.
fn toml_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        value => toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string()),
    }
}

/// What a person sees of a value that is wrong, in one short line.
pub(super) fn shortened(text: impl Display) -> String {
    const MOST: usize = 60;
    let text = text.to_string();
    let line = text.lines().next().unwrap_or_default();
    // An escape sequence must not reach the terminal.
    let mut short: String = line.chars().take(MOST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if line.chars().nth(MOST).is_some() || line.len() < text.trim_end().len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bare(text: &str) -> Written {
        Written::Bare(text.into())
    }

    fn read<T>(form: &Form<T>, written: &Written) -> Option<T> {
        (form.read)(written, Path::new("/etc/wattle"))
    }

    #[test]
    fn sizes_are_numbers_or_have_a_unit() {
        let form = bytes::<u64>(1..=1 << 40);
        for (written, value) in [
            (bare("512MiB"), Some(512 << 20)),
            (bare(" 1.5 KiB "), Some(1536)),
            (bare("123"), Some(123)),
            (Written::Text("2GiB".into()), Some(2 << 30)),
            (Written::Number("65536".into()), Some(65536)),
            (Written::Number("9007199254740993".into()), None),
            (bare("0"), None),
            (bare("2TiB"), None),
            (bare("-1"), None),
            (bare("many"), None),
            (Written::Other, None),
        ] {
            assert_eq!(read(&form, &written), value, "{written:?}");
        }
        assert_eq!((form.write)(&json!(512 << 20)), "\"512MiB\"");
        assert_eq!((form.write)(&json!(1000)), "1000");
        assert!(form.expects.contains("from 1 to 1TiB"), "{}", form.expects);
        assert_eq!(read(&bytes::<u64>(0..=u64::MAX), &bare("9007199254740993")), Some(9_007_199_254_740_993));
    }

    #[test]
    fn what_is_a_number_in_the_file_may_not_be_a_text_there() {
        let form = whole::<usize>(0..=10);
        assert_eq!(read(&form, &bare("7")), Some(7));
        assert_eq!(read(&form, &Written::Number("7".into())), Some(7));
        for wrong in [Written::Text("7".into()), Written::Number("7.0".into()), bare("11"), bare("-1"), bare("")] {
            assert_eq!(read(&form, &wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn times_may_be_parts_of_a_second_and_are_finite() {
        let form = seconds(0.0..=60.0);
        assert_eq!(read(&form, &bare("0.25")), Some(Duration::from_millis(250)));
        assert_eq!((form.show)(&Duration::from_secs(30)), json!(30));
        assert_eq!((form.show)(&Duration::from_millis(250)), json!(0.25));
        for wrong in ["nan", "inf", "-1", "60.5", "soon"] {
            assert_eq!(read(&form, &bare(wrong)), None, "{wrong}");
            assert_eq!(read(&form, &Written::Number(wrong.into())), None, "{wrong}");
        }
    }

    #[test]
    fn names_come_as_a_list_or_between_commas() {
        let list = |texts: &[&str]| Written::List(texts.iter().map(|text| Written::Text((*text).into())).collect());
        let form = names();
        assert_eq!(read(&form, &bare("a, b")), Some(vec!["a".into(), "b".into()]));
        assert_eq!(read(&form, &list(&["a", "b"])), Some(vec!["a".into(), "b".into()]));
        assert_eq!(read(&form, &list(&[])), Some(vec![]));
        assert_eq!(read(&form, &Written::List(vec![bare("a,b"), bare("c")])).unwrap().len(), 3);
        for wrong in [Written::Text("a".into()), list(&[""]), bare("a,,b"), Written::List(vec![Written::Other])] {
            assert_eq!(read(&form, &wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_relative_path_is_one_below_the_file_s_folder() {
        let form = path("file");
        assert_eq!(read(&form, &bare("cert.pem")), Some("/etc/wattle/cert.pem".into()));
        assert_eq!(read(&form, &bare("/cert.pem")), Some("/cert.pem".into()));
        assert_eq!((form.read)(&bare("cert.pem"), Path::new("")), Some("cert.pem".into()));
        assert_eq!(read(&form, &bare(" ")), None);
    }

    #[test]
    fn words_and_filters_are_those_that_there_are() {
        let form = choice("A|B", &[("a", 1), ("b", 2)]);
        assert_eq!((form.expects.as_str(), read(&form, &bare("b"))), ("\"a\" or \"b\"", Some(2)));
        assert_eq!(read(&form, &bare("c")), None);
        assert_eq!(read(&filter(), &bare("warn,wattle_serve=debug")).as_deref(), Some("warn,wattle_serve=debug"));
        assert_eq!(read(&filter(), &bare("wattle_serve=loud")), None);
    }

    #[test]
    fn what_is_wrong_is_shown_in_one_short_line() {
        assert_eq!(shortened("\"many\""), "\"many\"");
        assert_eq!(shortened("a\nb"), "a…");
        assert_eq!(shortened("\u{1b}[31m"), "\u{fffd}[31m");
        assert_eq!(shortened("x".repeat(100)).chars().count(), 61);
    }
}
