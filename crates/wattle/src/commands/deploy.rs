use anyhow::Result;
use serde_json::json;
use wattle_core::{LanguageModel, Name};
use wattle_deploy::DeploymentRequest;
use wattle_serve::{InstanceState, InstanceStatus, ReplicaStatus, RevisionStatus};
use wattle_store::{Deployment, ModelVersion};

use super::{Context, rollout};
use crate::{
    flags::DeployFlags,
    output::{bytes, confirm, print, quantity, table},
};

pub(crate) async fn deploy(context: &Context, flags: DeployFlags) -> Result<()> {
    let (canary, shadow) = (flags.canary, flags.shadow);
    let request = DeploymentRequest {
        model: flags.model,
        name: flags.name,
        default: flags.default,
        canary,
        shadow,
        settings: flags.settings.settings(),
        reset_settings: flags.reset_settings,
    };
    let deployment: Deployment = context.client.post("/api/v1/deployments", &request).await?;
    if canary.is_some() || shadow {
        return rollout::print_traffic(context, &deployment);
    }
    let version = format!("/api/v1/models/{}/versions/{}", deployment.model, deployment.version);
    let version: ModelVersion = context.client.get(&version).await?;
    print(context.output, &deployment, |deployment| {
        addresses(context.client.url(), deployment, version.manifest.language.as_ref())
    })?;
    Ok(())
}

/// Where a deployment is called first. Language models have addresses in common, and each request names one of them.
fn addresses(url: &str, deployment: &Deployment, language: Option<&LanguageModel>) -> String {
    let (name, version) = (&deployment.name, format!("{}:{}", deployment.model, deployment.version));
    match language {
        None => format!("{version} answers at\n  {url}/models/{name}/predict\n  {url}/v2/models/{name}/infer"),
        Some(language) => {
            let [first, second] = match language.embeds {
                true => ["embeddings", "rerank"],
                false => ["chat/completions", "messages"],
            };
            format!("{version} answers as the model {name} at\n  {url}/v1/{first}\n  {url}/v1/{second}")
        }
    }
}

pub(crate) async fn list(context: &Context) -> Result<()> {
    let deployments: Vec<ReplicaStatus> = context.client.get("/api/v1/deployments").await?;
    print(context.output, &deployments, |deployments| {
        if deployments.is_empty() {
            return "nothing is deployed: `wattle deploy MODEL` deploys a model".into();
        }
        let rows = deployments.iter().flat_map(|status| status.replicas.iter().map(|replica| row(status, replica)));
        let shown = table(
            &[
                "name",
                "#revision",
                "model",
                "#share",
                "state",
                "runs in",
                "#calls",
                "#failed",
                "#mean compute",
                "#memory",
            ],
            rows,
        );
        deployments.iter().filter_map(compared).fold(shown, |shown, line| format!("{shown}\n{line}"))
    })?;
    Ok(())
}

fn row(status: &ReplicaStatus, replica: &RevisionStatus) -> Vec<String> {
    let deployment = &status.deployment;
    let model = &replica.model;
    let share = deployment.traffic.shares.iter().find(|share| share.revision == replica.revision);
    vec![
        format!("{}{}", deployment.name, if deployment.default { " (default)" } else { "" }),
        replica.revision.to_string(),
        deployment.revision(replica.revision).map(|revision| revision.id().to_string()).unwrap_or_default(),
        share.map_or_else(|| "copies".into(), |share| format!("{}%", share.percent)),
        match (&model.error, model.loaded) {
            (Some(_), _) => "cannot be loaded",
            (None, true) => "loaded",
            (None, false) => "loads on first call",
        }
        .into(),
        match &model.limited_by {
            _ if !model.instances.is_empty() => containers(&model.instances),
            Some(limit) if limit != "none" => format!("{} ({limit})", model.isolation),
            _ => model.isolation.to_string(),
        },
        model.requests.to_string(),
        model.failures.to_string(),
        model.mean_compute_ms.map_or_else(|| "-".into(), |ms| quantity(ms / 1000.0, "s")),
        if model.loaded { bytes(model.resident_bytes) } else { "-".into() },
    ]
}

/// How many containers there are, and how many of them get calls where those are others.
fn containers(instances: &[InstanceStatus]) -> String {
    let ready = instances.iter().filter(|instance| instance.state == InstanceState::Ready).count();
    let all = match instances.len() {
        1 => "1 container".to_owned(),
        count => format!("{count} containers"),
    };
    if ready == instances.len() { all } else { format!("{all}, {ready} ready") }
}

/// What a shadow's answers are like.
fn compared(status: &ReplicaStatus) -> Option<String> {
    let (revision, compared) = status.replicas.iter().find_map(|one| Some((one.revision, one.compared.as_ref()?)))?;
    Some(format!(
        "\n{}, revision {revision}: {} copies answered the same, {} otherwise, {} failed, {} were not computed",
        status.deployment.name, compared.same, compared.different, compared.failed, compared.dropped
    ))
}

pub(crate) async fn undeploy(context: &Context, name: &Name) -> Result<()> {
    context.client.delete(&format!("/api/v1/deployments/{name}")).await?;
    let removed = format!("{name} is no longer deployed; its model stays");
    Ok(confirm(context.output, &json!({ "removed": name }), &removed)?)
}
