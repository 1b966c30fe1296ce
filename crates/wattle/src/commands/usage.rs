use anyhow::Result;
use chrono::SecondsFormat;
use reqwest::Method;
use serde_json::json;
use wattle_core::grouped;
use wattle_meter::UsageLine;
use wattle_store::Collected;

use super::Context;
use crate::{
    flags::UsageFlags,
    output::{bytes, print, quantity, table},
};

pub(crate) async fn run(context: &Context, flags: UsageFlags) -> Result<()> {
    let mut query = Vec::new();
    if let Some(by) = &flags.by {
        query.push(("by", by.clone()));
    }
    if let Some(since) = &flags.since {
        query.push(("since", since.to_rfc3339_opts(SecondsFormat::AutoSi, true)));
    }
    let request = context.client.request(Method::GET, "/api/v1/usage").query(&query);
    let lines: Vec<UsageLine> = context.client.answer(request).await?;
    print(context.output, &lines, |lines| {
        let row = |line: &UsageLine| {
            let energy = &line.energy;
            vec![
                line.key.clone().unwrap_or_else(|| "-".into()),
                line.activity.as_str().into(),
                grouped(line.requests),
                grouped(line.rows),
                quantity(line.cpu_seconds, "s"),
                quantity(energy.joules, "J"),
                format!("{} to {}", quantity(energy.joules_low, "J"), quantity(energy.joules_high, "J")),
                energy.label.to_string(),
            ]
        };
        let key = flags.by.as_deref().unwrap_or("all");
        let head = [key, "activity", "#requests", "#rows", "#processor", "#energy", "#range", "label"];
        table(&head, lines.iter().map(row))
    })?;
    Ok(())
}

pub(crate) async fn collect_garbage(context: &Context) -> Result<()> {
    let collected: Collected = context.client.post("/api/v1/gc", &json!({})).await?;
    print(context.output, &collected, |collected| {
        let files = if collected.blobs == 1 { "file" } else { "files" };
        format!("{} {files} removed, {} freed", grouped(collected.blobs), bytes(collected.bytes))
    })?;
    Ok(())
}
