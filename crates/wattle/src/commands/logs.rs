use anyhow::Result;
use wattle_core::Name;
use wattle_serve::LogLine;

use super::Context;
use crate::{
    flags::OutputFormat,
    output::{print, print_line},
};

/// Shows the last lines of a deployment's log, and with `follow` each further one until the server ends.
pub(crate) async fn run(context: &Context, name: &Name, tail: usize, follow: bool) -> Result<()> {
    let path = format!("/api/v1/deployments/{name}/logs");
    if !follow {
        let lines: Vec<LogLine> = context.client.get(&format!("{path}?tail={tail}")).await?;
        print(context.output, &lines, |lines| lines.iter().map(shown).collect::<Vec<_>>().join("\n"))?;
        return Ok(());
    }
    let mut written = Ok(());
    let show = |line: LogLine| {
        let text = match context.output {
            OutputFormat::Json => serde_json::to_string(&line).unwrap_or_default(),
            OutputFormat::Table => shown(&line),
        };
        if written.is_ok() {
            written = print_line(&text);
        }
    };
    context.client.events(&format!("{path}/events?tail={tail}"), show).await?;
    Ok(written?)
}

fn shown(line: &LogLine) -> String {
    format!("{} {} {}", line.at.format("%Y-%m-%d %H:%M:%S"), line.from, line.text)
}
