//! Jinja as transformers sets it up for templates of chats (`apply_chat_template`), so that models see what they were
//! trained on.

use std::fmt::Write as _;

use minijinja::{
    Environment, Error, ErrorKind,
    syntax::SyntaxConfig,
    value::{Kwargs, Value},
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// What a template may do at most: an instruction, an item or 64 bytes each. A conversation of a million words takes a
/// tenth; a template that does not end stops within a second and 256 MiB.
const FUEL: u64 = 4_000_000;

/// The name of the one template in its environment.
pub(super) const NAME: &str = "chat";

/// Compiles a template.
///
/// # Errors
/// If it is not Jinja.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    // Marks for training, which change nothing of the text.
    let mut source = source.to_owned();
    for tag in ["generation", "endgeneration"] {
        for (begin, end) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            source =
                source.replace(&format!("{begin} {tag} {end}"), &format!("{begin} if true {end}{begin} endif {end}"));
        }
    }
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("{format} is no format of a time")))?;
    Ok(text)
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: no escapes for HTML.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands it over")]
fn to_json(value: Value, arguments: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    // Those that Python has beside it are given with their defaults in templates.
    for known in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = arguments.get(known)?;
    }
    arguments.assert_all_used()?;
    let text = match indent {
        None => written(&value, Spaced),
        Some(width) => written(&value, PrettyFormatter::with_indent(" ".repeat(width.min(16)).as_bytes())),
    };
    text.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "tojson: this value has no form in JSON"))
}

fn written(value: &Value, formatter: impl Formatter) -> Option<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).ok()?;
    String::from_utf8(bytes).ok()
}

/// JSON in one line with the spaces that Python's has.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// What the template's author, or its engine, says of a failure, in one line.
pub(super) fn reason(error: &Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let text = text.lines().next().unwrap_or_default();
    text.chars().take(500).collect()
}
