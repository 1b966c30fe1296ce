use anyhow::Result;
use serde_json::json;
use wattle_core::Name;
use wattle_deploy::DeploymentRequest;
use wattle_serve::ReplicaStatus;
use wattle_store::Deployment;

use super::Context;
use crate::{
    flags::DeployFlags,
    output::{confirm, print, quantity, table},
};

pub(crate) async fn deploy(context: &Context, flags: DeployFlags) -> Result<()> {
    let request = DeploymentRequest { model: flags.model, name: flags.name, default: flags.default };
    let deployment: Deployment = context.client.post("/api/v1/deployments", &request).await?;
    let url = context.client.url();
    print(context.output, &deployment, |deployment| {
        format!(
            "{}:{} answers at\n  {url}/models/{name}/predict\n  {url}/v2/models/{name}/infer",
            deployment.model,
            deployment.version,
            name = deployment.name
        )
    })?;
    Ok(())
}

pub(crate) async fn list(context: &Context) -> Result<()> {
    let deployments: Vec<ReplicaStatus> = context.client.get("/api/v1/deployments").await?;
    print(context.output, &deployments, |deployments| {
        if deployments.is_empty() {
            return "nothing is deployed: `wattle deploy MODEL` deploys a model".into();
        }
        let row = |status: &ReplicaStatus| {
            let deployment = &status.deployment;
            let name = format!("{}{}", deployment.name, if deployment.default { " (default)" } else { "" });
            let mean = status.mean_compute_ms.map_or_else(|| "-".into(), |ms| quantity(ms / 1000.0, "s"));
            vec![
                name,
                format!("{}:{}", deployment.model, deployment.version),
                deployment.reference.to_string(),
                if status.loaded { "loaded" } else { "loads on first call" }.into(),
                status.requests.to_string(),
                status.failures.to_string(),
                mean,
            ]
        };
        table(
            &["name", "model", "asked for", "state", "#calls", "#failed", "#mean compute"],
            deployments.iter().map(row),
        )
    })?;
    Ok(())
}

pub(crate) async fn undeploy(context: &Context, name: &Name) -> Result<()> {
    context.client.delete(&format!("/api/v1/deployments/{name}")).await?;
    let removed = format!("{name} is no longer deployed; its model stays");
    Ok(confirm(context.output, &json!({ "removed": name }), &removed)?)
}
