//! What a server is told: `wattle.toml`, the environment, flags.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::{NO_FOLDER, Server, command, example, file, post};

/// Standard output, standard error and whether it succeeded.
fn told(command: &mut Command) -> (String, String, bool) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

/// `wattle config` with these words.
fn config(arguments: &[&str]) -> Command {
    let mut command = command();
    command.env_remove("WATTLE_LOG").arg("config").args(arguments);
    command
}

/// Every key as `wattle config show -o json` tells it.
fn shown(command: &mut Command) -> Vec<Value> {
    let (out, errors, succeeded) = told(command.args(["-o", "json"]));
    assert!(succeeded, "{errors}");
    serde_json::from_str(&out).unwrap()
}

/// A key's value, and where it came from.
fn key<'a>(shown: &'a [Value], path: &str) -> (&'a Value, &'a str, &'a str) {
    let key = shown.iter().find(|key| key["key"] == path).unwrap();
    (&key["value"], key["source"].as_str().unwrap(), key["at"].as_str().unwrap_or_default())
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_server_does_what_its_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let text = "version = 1\nserver = { listen = \"127.0.0.1:0\", data_dir = \"data\" }\n[limits]\nmax_body_bytes = \"1KiB\"\n";
    let path = write(folder.path(), "wattle.toml", text);
    let data_dir = folder.path().join("data");
    let mut launcher = command();
    launcher.args(["serve", "--config", &path]);
    let server = Server::launch(launcher, &data_dir);
    assert!(data_dir.join("catalogue.sqlite").is_file());
    server.import_founding();
    server.wattle(&["deploy", "founding"]);
    let url = format!("{}/predict", server.url);
    assert_eq!(post(&url, &json!({"x": [1.0]})).status, 200);
    assert_eq!(post(&url, &json!({"x": vec![1.0; 1000]})).status, 413);
    server.terminate();
    // By a variable as well, and then a flag has the last word.
    let mut launcher = command();
    launcher.env("WATTLE_CONFIG", &path).args(["serve", "--max-body-bytes", "1MiB"]);
    let server = Server::launch(launcher, &data_dir);
    assert_eq!(post(&format!("{}/predict", server.url), &json!({"x": vec![1.0; 1000]})).status, 200);
    server.terminate();
}

#[test]
fn every_value_tells_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        "wattle.toml",
        "version = 1\n\n[limits]\nmax_waiting = 1\nmax_computing = 1\nmax_body_bytes = \"64KiB\"\n",
    );
    let mut show = config(&["show", "--config", &path, "--max-waiting", "3"]);
    show.env("WATTLE_LIMITS_MAX_WAITING", "2").env("WATTLE_LIMITS_MAX_COMPUTING", "2").env("WATTLE_LOG", "debug");
    let keys = shown(&mut show);
    assert_eq!(key(&keys, "limits.max_waiting"), (&json!(3), "flag", "--max-waiting"));
    assert_eq!(key(&keys, "limits.max_computing"), (&json!(2), "environment", "WATTLE_LIMITS_MAX_COMPUTING"));
    assert_eq!(key(&keys, "limits.max_body_bytes"), (&json!(65536), "file", format!("{path}:6").as_str()));
    assert_eq!(key(&keys, "log.filter"), (&json!("debug"), "environment", "WATTLE_LOG"));
    assert_eq!(key(&keys, "server.listen"), (&json!("127.0.0.1:8080"), "default", ""));
    let (table, errors, _) = told(&mut config(&["show", "--config", &path]));
    let row = table.lines().find(|line| line.starts_with("limits.max_body_bytes ")).unwrap();
    assert_eq!(row.split_whitespace().skip(1).collect::<Vec<_>>(), ["\"64KiB\"", &format!("{path}:6")], "{errors}");
}

#[test]
fn the_user_s_own_file_is_read_and_one_in_this_folder_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("here");
    write(&here, "wattle.toml", "version = 1\n[limits]\nmax_waiting = 7\n");
    let own = write(&folder.path().join("own/wattle"), "wattle.toml", "version = 1\n[limits]\nmax_computing = 9\n");
    let show = |arguments: &[&str]| {
        let mut show = config(&[&["show"], arguments].concat());
        shown(show.current_dir(&here).env("XDG_CONFIG_HOME", folder.path().join("own")))
    };
    let keys = show(&[]);
    assert_eq!(key(&keys, "limits.max_waiting").1, "default");
    assert_eq!(key(&keys, "limits.max_computing"), (&json!(9), "file", format!("{own}:3").as_str()));
    let keys = show(&["--config", "wattle.toml"]);
    assert_eq!(key(&keys, "limits.max_waiting"), (&json!(7), "file", "wattle.toml:3"));
    assert_eq!(key(&keys, "limits.max_computing").1, "default");
    assert_eq!(key(&show(&["--no-config"]), "limits.max_computing").1, "default");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = "version = 1\n[server]\nlisten = \"localhost\"\nlistn = 1\n[limits]\nmax_waiting = \"many\"\nmax_body_bytes = \"0MiB\"\nmax_computing = \n[sever]\n";
    let path = file(&folder, "wattle.toml", text);
    let expected = [
        (8, None, ""),
        (4, Some("server.listn"), "is no key: did you mean server.listen?"),
        (9, Some("sever"), "is no section: did you mean [server]?"),
        (
            3,
            Some("server.listen"),
            "must be an address and a port, as in 127.0.0.1:8080 or [::]:8080, not \"localhost\"",
        ),
        (6, Some("limits.max_waiting"), "must be a whole number from 0 to 1000000, not \"many\""),
        (
            7,
            Some("limits.max_body_bytes"),
            "must be a number of bytes from 1 to 1TiB, or a size as in \"512MiB\", not \"0MiB\"",
        ),
    ];
    let (out, errors, succeeded) = told(config(&["check", &path, "-o", "json"]).env("WATTLE_LOG", "wattle=loud"));
    assert!(!succeeded && errors.is_empty(), "{errors}");
    let checked: Value = serde_json::from_str(&out).unwrap();
    let problems = checked["problems"].as_array().unwrap();
    assert_eq!((problems.len(), checked["file"].as_str()), (expected.len() + 1, Some(path.as_str())), "{out}");
    let environment = &problems[expected.len()];
    assert_eq!((environment["at"].as_str(), environment["key"].as_str()), (Some("WATTLE_LOG"), Some("log.filter")));
    for ((line, key, problem), told) in expected.iter().zip(problems) {
        assert_eq!((told["at"].as_str().unwrap(), told["key"].as_str()), (format!("{path}:{line}").as_str(), *key));
        assert!(told["problem"].as_str().unwrap().contains(problem), "{told}");
    }
    // People read the same, from `serve` as well.
    let (_, errors, succeeded) = told(config(&["check", &path]).env("WATTLE_CONFIG", NO_FOLDER));
    let serve = told(command().args(["serve", "--config", &path]));
    assert!(!succeeded && !serve.2);
    for (line, key, problem) in &expected[1..] {
        let told = format!("{path}:{line}: {} {problem}\n", key.unwrap());
        assert!(errors.contains(&format!("error: {told}")) && serve.1.contains(&told), "{told}\n{errors}\n{}", serve.1);
    }
}

#[test]
fn a_file_of_another_version_is_not_guessed_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "wattle.toml", "version = 2\n[brand_new]\nkey = 1\n");
    let (_, errors, succeeded) = told(&mut config(&["check", &path]));
    assert!(!succeeded && errors.lines().count() == 1 && errors.contains("reads version 1 only"), "{errors}");
}

#[test]
fn the_default_file_passes_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (text, errors, succeeded) = told(&mut config(&["show", "--default"]));
    assert!(succeeded, "{errors}");
    let path = file(&folder, "wattle.toml", &text);
    let check = |path: &str| {
        let data_dir = folder.path().join("data");
        let (_, errors, succeeded) = told(config(&["check", path]).env("WATTLE_DATA_DIR", data_dir));
        assert!(succeeded && errors == format!("{path} is right\n"), "{errors}");
        shown(&mut config(&["show", "--config", path]))
    };
    let defaults = shown(&mut config(&["show", "--no-config"]));
    assert_eq!(check(&path), defaults);
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') && !key.ends_with('=') => format!("{key}\n"),
        _ => format!("{line}\n"),
    };
    let taken_in = file(&folder, "taken_in.toml", text.lines().map(uncommented).collect::<String>());
    for (taken_in, default) in check(&taken_in).iter().zip(&defaults) {
        assert_eq!((&taken_in["key"], &taken_in["value"]), (&default["key"], &default["value"]));
        assert_eq!(taken_in["source"], if default["value"].is_null() { "default" } else { "file" }, "{taken_in}");
    }
}

#[test]
fn what_this_machine_does_not_let_a_server_do_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let taken = file(&folder, "taken", "");
    let text = "version = 1\n[server]\ndata_dir = \"taken/data\"\ntls_cert = \"taken\"\ntls_key = \"gone\"\n";
    let path = file(&folder, "wattle.toml", text);
    let (_, errors, succeeded) = told(&mut config(&["check", &path]));
    assert!(!succeeded, "{errors}");
    let expected = [
        format!("error: {path}:3: server.data_dir needs a folder, and {taken} is none"),
        format!("error: {path}:4: server.tls_cert cannot be used: {taken} holds no certificate: "),
    ];
    let errors: Vec<&str> = errors.lines().collect();
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
    assert!(errors.iter().zip(&expected).all(|(error, expected)| error.starts_with(expected)), "{errors:?}");
}

#[test]
fn a_variable_that_is_misspelt_is_told_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut check = config(&["check", "--data-dir", folder.path().to_str().unwrap()]);
    let (_, errors, succeeded) = told(check.env("WATTLE_LIMITS_MAX_WAITIN", "3"));
    let expected = "warning: WATTLE_LIMITS_MAX_WAITIN: is a variable of no key, and has no effect: did you mean WATTLE_LIMITS_MAX_WAITING?\nthe configuration is right\n";
    assert!(succeeded && errors == expected, "{errors}");
}

#[test]
fn the_example_is_right() {
    let (_, errors, succeeded) = told(&mut config(&["check", &example("wattle.toml")]));
    assert!(succeeded, "{errors}");
}
