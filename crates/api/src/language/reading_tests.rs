#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use wattle_serve::language::FinishReason;

use super::{Delta, Ending, Reading, dialect::Dialect};

fn reading(dialect: Dialect) -> Reading {
    Reading::with_tools(dialect, ["weather", "time"].into_iter(), false)
}

/// What a text is read as, with deltas of the same kind joined and ids left out.
fn read(reading: &Reading, pieces: &[&str], reason: FinishReason) -> Vec<Delta> {
    let mut reader = reading.begin();
    let mut deltas: Vec<Delta> = pieces.iter().flat_map(|piece| reader.take(piece)).collect();
    deltas.extend(reader.end(reason));
    let mut joined: Vec<Delta> = Vec::new();
    for delta in deltas {
        match (joined.last_mut(), delta) {
            (Some(Delta::Text(all)), Delta::Text(text)) => *all += &text,
            (Some(Delta::Reasoning(all)), Delta::Reasoning(text)) => *all += &text,
            (Some(Delta::CallArguments { index: last, text: all }), Delta::CallArguments { index, text })
                if *last == index =>
            {
                *all += &text;
            }
            (_, Delta::CallBegun { index, id, name }) => {
                assert!(id.starts_with("call_"));
                joined.push(Delta::CallBegun { index, id: String::new(), name });
            }
            (_, delta) => joined.push(delta),
        }
    }
    joined
}

fn said(text: &str) -> Delta {
    Delta::Text(text.into())
}

fn call(index: u32, name: &str, arguments: &str) -> [Delta; 2] {
    [
        Delta::CallBegun { index, id: String::new(), name: name.into() },
        Delta::CallArguments { index, text: arguments.into() },
    ]
}

fn check(reading: &Reading, text: &str, expected: impl IntoIterator<Item = Delta>) {
    let expected: Vec<Delta> = expected.into_iter().collect();
    assert_eq!(read(reading, &[text], FinishReason::End), expected, "{text:?}");
}

#[test]
fn hermes_calls_are_told() {
    let reading = reading(Dialect::Hermes);
    let text = "\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"}\\\"{\"}}\n</tool_call>\n<tool_call>\
                {\"name\":\"time\",\"arguments\":{}}</tool_call>";
    let calls = [call(0, "weather", "{\"city\": \"}\\\"{\"}"), call(1, "time", "{}")];
    check(&reading, text, calls.concat().into_iter().chain([Delta::Ended(Ending::ToolCalls)]));
}

#[test]
fn text_stands_before_and_after_calls() {
    let text = "Look: <tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call> done <b>";
    let calls = call(0, "time", "{}");
    let expected = [said("Look: ")].into_iter().chain(calls).chain([said("done <b>"), Delta::Ended(Ending::ToolCalls)]);
    check(&reading(Dialect::Hermes), text, expected);
}

#[test]
fn arguments_before_the_name_or_missing_or_in_a_string_are_understood() {
    for (object, arguments) in [
        ("{\"arguments\": {\"a\": 1}, \"name\": \"time\"}", "{\"a\":1}"),
        ("{\"name\": \"time\"}", "{}"),
        ("{\"name\": \"time\", \"arguments\": \"{\\\"a\\\": 1}\"}", "{\"a\": 1}"),
    ] {
        let text = format!("<tool_call>{object}</tool_call>");
        let expected = call(0, "time", arguments).into_iter().chain([Delta::Ended(Ending::ToolCalls)]);
        check(&reading(Dialect::Hermes), &text, expected);
    }
}

#[test]
fn what_is_no_call_is_text() {
    for (dialect, text) in [
        (Dialect::Hermes, "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>"),
        (Dialect::Hermes, "<tool_call>{\"name\": \"time\", \"argum"),
        (Dialect::Hermes, "<tool_call>time()</tool_call>"),
        (Dialect::Hermes, "a <tool_cal"),
        (Dialect::Llama, "{\"name\": \"Alice\", \"age\": {\"years\": 4}}"),
        (Dialect::Llama, "{not json"),
        (Dialect::Mistral, "[1, 2]"),
        (Dialect::Mistral, "[TOOL_CALLS] none"),
        (Dialect::Mistral, "[{\"a\": 1}]"),
    ] {
        check(&reading(dialect), text, [said(text), Delta::Ended(Ending::Stop)]);
    }
}

#[test]
fn llama_and_mistral_call_in_their_own_ways() {
    let ended = || [Delta::Ended(Ending::ToolCalls)];
    for text in [
        "{\"name\": \"time\", \"parameters\": {\"z\": [1]}}",
        "<|python_tag|>{\"name\": \"time\", \"parameters\": {\"z\": [1]}}",
    ] {
        check(&reading(Dialect::Llama), text, call(0, "time", "{\"z\": [1]}").into_iter().chain(ended()));
    }
    let list = "[{\"name\": \"time\", \"arguments\": {}}, {\"name\": \"weather\", \"arguments\": {\"c\": 1}}]";
    for text in [list.to_owned(), format!("[TOOL_CALLS]{list}"), format!("[TOOL_CALLS] {list}")] {
        let calls = [call(0, "time", "{}"), call(1, "weather", "{\"c\": 1}")].concat();
        check(&reading(Dialect::Mistral), &text, calls.into_iter().chain(ended()));
    }
}

#[test]
fn one_call_alone_is_told_where_one_is_wanted() {
    let single = Reading::with_tools(Dialect::Hermes, ["time"].into_iter(), true);
    let one = "<tool_call>{\"name\": \"time\", \"arguments\": {}}";
    let text = format!("{one}</tool_call>{one}");
    check(&single, &text, call(0, "time", "{}").into_iter().chain([Delta::Ended(Ending::ToolCalls)]));
    let stopped = read(&single, &[one], FinishReason::Stop("</tool_call>".into()));
    assert_eq!(stopped.last(), Some(&Delta::Ended(Ending::ToolCalls)));
}

#[test]
fn thoughts_are_told_apart() {
    let thought = || Delta::Reasoning("a < b".into());
    let marked = Reading::plain().with_thoughts(false);
    check(&marked, "<think>\na < b\n</think>\n\nyes", [thought(), said("yes"), Delta::Ended(Ending::Stop)]);
    check(&marked, "yes <think>", [said("yes <think>"), Delta::Ended(Ending::Stop)]);
    check(&marked, "<think>\n\n</think>\n\nyes", [said("yes"), Delta::Ended(Ending::Stop)]);
    let begun = Reading::plain().with_thoughts(true);
    check(&begun, "\na < b</think>yes", [thought(), said("yes"), Delta::Ended(Ending::Stop)]);
    check(&Reading::plain(), "<think>a</think>", [said("<think>a</think>"), Delta::Ended(Ending::Stop)]);
    let calling = reading(Dialect::Hermes).with_thoughts(true);
    let text = "a < b</think>\n<tool_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>";
    let calls = call(0, "time", "{}").into_iter();
    check(&calling, text, [thought()].into_iter().chain(calls).chain([Delta::Ended(Ending::ToolCalls)]));
}

#[test]
fn endings_are_told_as_they_are() {
    let plain = Reading::plain();
    assert_eq!(read(&plain, &["a"], FinishReason::Length), [said("a"), Delta::Ended(Ending::Length)]);
    let stopped = Delta::Ended(Ending::StopString("x".into()));
    assert_eq!(read(&plain, &["a"], FinishReason::Stop("x".into())), [said("a"), stopped]);
}

/// Texts made of what readers look for.
fn texts() -> impl Strategy<Value = String> {
    let parts = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "{\"name\": \"time\", \"arguments\": {\"a\": \"é}\"}}",
        "{\"name\": \"weather\", \"parameters\": {}}",
        "{\"name\": \"",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "; ",
        "\n",
        "<",
        "héllo",
        "\"",
    ];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        text in texts(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        dialect in prop::sample::select(vec![Dialect::Hermes, Dialect::Llama, Dialect::Mistral]),
        thoughts in prop::option::of(any::<bool>()),
        single in any::<bool>(),
    ) {
        let mut reading = Reading::with_tools(dialect, ["weather", "time"].into_iter(), single);
        if let Some(begun) = thoughts {
            reading = reading.with_thoughts(begun);
        }
        let letters: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&letters)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        let whole = read(&reading, &[&text], FinishReason::End);
        prop_assert_eq!(read(&reading, &pieces, FinishReason::End), whole);
    }

    #[test]
    fn without_tools_and_thoughts_a_text_is_itself(text in texts()) {
        let told = read(&Reading::plain(), &[&text], FinishReason::End);
        let mut expected = vec![said(&text), Delta::Ended(Ending::Stop)];
        if text.is_empty() {
            expected.remove(0);
        }
        prop_assert_eq!(told, expected);
    }
}
