use std::{fs, path::Path, process::ExitCode};

use anyhow::Result;
use rustix::fs::Access;
use serde::Serialize;
use serde_json::Value;
use wattle_api::http::Tls;

use crate::{
    config::{Config, Loaded, Problem, Problems, Settings, Sources, reference},
    flags::{ConfigCommand, OutputFormat},
    output::{note, print, print_line, table},
};

pub(crate) async fn run(output: OutputFormat, command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Show { default: true, .. } => {
            print_line(reference::default_file(&Settings::defaults()).trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Show { serve, .. } => {
            let loaded = Sources::new(serve).load();
            loaded.resolve()?;
            loaded.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
            show(output, &loaded)
        }
        ConfigCommand::Check { file, serve } => {
            let mut sources = Sources::new(serve);
            if let Some(file) = file {
                sources.file = Some(file.clone());
            }
            check(output, &sources.load()).await
        }
    }
}

/// A key as `wattle config show` tells it.
#[derive(Serialize)]
struct Shown {
    key: &'static str,
    value: Value,
    /// `default`, `file`, `environment` or `flag`.
    source: &'static str,
    /// The file and line, the variable or the flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(skip)]
    text: String,
}

fn show(output: OutputFormat, loaded: &Loaded) -> Result<ExitCode> {
    let shown = loaded.origins().map(|(key, origin)| Shown {
        key: key.path,
        value: key.show(&loaded.settings),
        source: origin.kind(),
        at: (origin.kind() != "default").then(|| origin.to_string()),
        text: key.write(&loaded.settings),
    });
    let shown: Vec<Shown> = shown.collect();
    print(output, &shown, |shown| {
        let row = |shown: &Shown| {
            let value = if shown.text.is_empty() { "-" } else { &shown.text };
            vec![shown.key.to_owned(), value.to_owned(), shown.at.clone().unwrap_or_else(|| shown.source.into())]
        };
        table(&["key", "value", "from"], shown.iter().map(row))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What `wattle config check` found.
#[derive(Serialize)]
struct Checked {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

async fn check(output: OutputFormat, loaded: &Loaded) -> Result<ExitCode> {
    let problems = match loaded.resolve() {
        Ok(config) => refusals(config, loaded).await,
        Err(Problems(problems)) => problems,
    };
    let checked = Checked {
        file: loaded.file.as_ref().map(|file| file.display().to_string()),
        problems,
        warnings: loaded.warnings.clone(),
    };
    match output {
        OutputFormat::Json => print(output, &checked, |_| String::new())?,
        OutputFormat::Table => {
            for warning in &checked.warnings {
                note(&format!("warning: {warning}"));
            }
            for problem in &checked.problems {
                note(&format!("error: {problem}"));
            }
            if checked.problems.is_empty() {
                let what = checked.file.as_deref().unwrap_or("the configuration");
                note(&format!("{what} is right"));
            }
        }
    }
    Ok(if checked.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a server would stumble over on this machine.
async fn refusals(config: Config, loaded: &Loaded) -> Vec<Problem> {
    let of_key = |key, problem| Problem::of_key(loaded.origin(key), key, problem);
    let data_dir = may_be_kept(&config.data_dir).err().map(|problem| of_key("server.data_dir", problem));
    let certificate = match config.tls {
        Some(files) => Tls::open(files).await.err(),
        None => None,
    };
    let certificate = certificate.map(|error| of_key("server.tls_cert", format!("cannot be used: {error}")));
    data_dir.into_iter().chain(certificate).collect()
}

/// Whether a server can keep its data in a folder, or make it.
fn may_be_kept(folder: &Path) -> Result<(), String> {
    let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
    // The ancestor of a relative path is where this runs.
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    if !fs::metadata(existing).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(format!("needs a folder, and {} is none", existing.display()));
    }
    let allowed = rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK);
    allowed.map_err(|error| format!("needs a folder to write to, and {} is none: {error}", existing.display()))
}
