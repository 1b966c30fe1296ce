//! Command lines that cannot be read.

use serde_json::Value;

use crate::support::command;

#[test]
fn scripts_that_ask_for_json_get_it_for_a_wrong_command_line_too() {
    let told = |arguments: &[&str]| {
        let output = command().args(arguments).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let asked: [&[&str]; 5] = [&["-o", "json"], &["-ojson"], &["-o=json"], &["--output", "json"], &["--output=json"]];
    for form in asked {
        for (wrong, word) in [(&["ps", "--wide"][..], "'--wide'"), (&["deploy"], "<MODEL>"), (&["jobs"], "subcommand")]
        {
            let text = told(&[wrong, form].concat());
            let error: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            let error = error["error"].as_str().unwrap();
            assert!(
                error.contains(word) && !error.contains("worker") && !error.contains("Usage") && !error.contains('\n'),
                "{error}"
            );
        }
    }
    let text = told(&["ps", "--wide"]);
    assert!(text.starts_with("error: ") && text.contains("Usage: "), "{text}");
    // Help is no error, whatever the form of errors.
    let help = command().args(["ps", "--help", "-o", "json"]).output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Usage: "));
}
