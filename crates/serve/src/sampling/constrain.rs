//! What an answer must be, as masks over the next token (llguidance, <https://github.com/guidance-ai/llguidance>).

use llguidance::{Matcher, api::TopLevelGrammar};
use serde_json::{Value, json};

use super::Words;
use crate::{Error, Result, language::Constraint};

/// Compiles a constraint; nothing for an answer that may be anything.
///
/// # Errors
/// [`Error::Invalid`] with the reason why there can be no such answer.
pub(super) fn constraint(constraint: &Constraint, words: &Words) -> Result<Option<Matcher>> {
    let grammar = match constraint {
        Constraint::None => return Ok(None),
        Constraint::Json => TopLevelGrammar::from_json_schema(compact(json!({"type": "object"}))),
        Constraint::JsonSchema(text) => {
            let schema = serde_json::from_str(text)
                .map_err(|error| Error::Invalid(format!("the schema is no JSON: {error}")))?;
            TopLevelGrammar::from_json_schema(compact(schema))
        }
        Constraint::Regex(text) => TopLevelGrammar::from_regex(text),
        Constraint::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
    };
    let mut matcher = Matcher::new(words.grammars()?.create_parser(grammar));
    if matcher.is_error() {
        return Err(refused(&matcher));
    }
    // One that allows nothing at all is told before anything is computed.
    let mask = matcher.compute_mask_or_eos().map_err(|_| refused(&matcher))?;
    if mask.is_zero() {
        return Err(Error::Invalid("the answer's form leaves no answer: nothing satisfies it".into()));
    }
    Ok(Some(matcher))
}

/// Why there can be no further token.
pub(super) fn refused(matcher: &Matcher) -> Error {
    let reason = matcher.get_error().unwrap_or_else(|| "nothing satisfies it".into());
    Error::Invalid(format!("the answer cannot have the form that was asked for: {}", first(&reason)))
}

/// What of a reason is for the caller: its first line, and what that announces; the rest is for whoever debugs grammars.
fn first(reason: &str) -> String {
    let first = reason.lines().next().unwrap_or_default();
    let announced = reason.lines().find_map(|line| line.strip_prefix("error: "));
    match announced.filter(|_| first.ends_with(':')) {
        Some(announced) => format!("{first} {announced}"),
        None => first.to_owned(),
    }
}

/// A schema whose JSON has one space where it reads well and none elsewhere: every further one would be a token that
/// somebody pays for. A schema that says otherwise itself stays as it is.
pub fn compact(mut schema: Value) -> Value {
    if let Value::Object(members) = &mut schema
        && !members.contains_key("x-guidance")
    {
        let form = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        members.insert("x-guidance".into(), form);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_with_what_its_first_line_announces() {
        let reason =
            "at 1(8): invalid regex \"[\": regex parse error:\n    [\n    ^\nerror: unclosed character class\nmore";
        assert_eq!(first(reason), "at 1(8): invalid regex \"[\": regex parse error: unclosed character class");
        assert_eq!(first("no such rule\nerror: internal"), "no such rule");
        assert_eq!(first(""), "");
    }
}
