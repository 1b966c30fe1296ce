use anyhow::Result;
use serde_json::{Value, json};
use wattle_core::Name;
use wattle_store::{Deployment, DeploymentHistory, Settings, Traffic, TrafficChange};

use super::Context;
use crate::output::{print, table};

pub(crate) async fn promote(context: &Context, name: &Name) -> Result<()> {
    let path = format!("/api/v1/deployments/{name}/promote");
    print_traffic(context, &context.client.post(&path, &json!({})).await?)
}

pub(crate) async fn roll_back(context: &Context, name: &Name) -> Result<()> {
    let path = format!("/api/v1/deployments/{name}/rollback");
    print_traffic(context, &context.client.post(&path, &json!({})).await?)
}

pub(crate) async fn history(context: &Context, name: &Name) -> Result<()> {
    let history: DeploymentHistory = context.client.get(&format!("/api/v1/deployments/{name}/history")).await?;
    print(context.output, &history, |history| {
        let row = |change: &TrafficChange| {
            let revision = change.revision.and_then(|revision| history.revision(revision));
            vec![
                change.at.format("%Y-%m-%d %H:%M:%S").to_string(),
                change.what.as_str().replace('-', " "),
                change.revision.map_or_else(|| "-".into(), |revision| revision.to_string()),
                revision.map_or_else(|| "-".into(), |revision| revision.id().to_string()),
                shares(&change.to),
                revision.map(|revision| settings(&revision.settings)).unwrap_or_default(),
                change.reason.clone().unwrap_or_default(),
            ]
        };
        table(
            &["when (UTC)", "what", "#revision", "model", "traffic since", "settings", "why"],
            history.changes.iter().map(row),
        )
    })?;
    Ok(())
}

/// Prints who answers the calls of a deployment.
pub(crate) fn print_traffic(context: &Context, deployment: &Deployment) -> Result<()> {
    print(context.output, deployment, |deployment| {
        let model = |revision: u32| {
            let model = deployment.revision(revision).map(|revision| revision.id().to_string());
            format!("{} (revision {revision})", model.unwrap_or_default())
        };
        let shares = deployment.traffic.shares.iter().map(|share| match share.percent {
            100 => format!("{} answers all calls of {}\n", model(share.revision), deployment.name),
            percent => format!("{} answers {percent}% of the calls of {}\n", model(share.revision), deployment.name),
        });
        let shadow = deployment.traffic.shadow.map(|shadow| format!("{} gets copies of them\n", model(shadow)));
        shares.chain(shadow).collect()
    })?;
    Ok(())
}

/// The shares by revision, as in `1: 90%, 2: 10%, 3: copies`.
fn shares(traffic: &Traffic) -> String {
    let shares = traffic.shares.iter().map(|share| format!("{}: {}%", share.revision, share.percent));
    let shadow = traffic.shadow.map(|shadow| format!("{shadow}: copies"));
    let shares: Vec<String> = shares.chain(shadow).collect();
    if shares.is_empty() { "none".into() } else { shares.join(", ") }
}

/// The settings that were asked for, as in `pin=true threads=2`.
fn settings(settings: &Settings) -> String {
    let Ok(Value::Object(settings)) = serde_json::to_value(settings) else { return String::new() };
    let text = |(key, value): (String, Value)| match value {
        Value::String(text) => format!("{key}={text}"),
        value => format!("{key}={value}"),
    };
    settings.into_iter().map(text).collect::<Vec<_>>().join(" ")
}
