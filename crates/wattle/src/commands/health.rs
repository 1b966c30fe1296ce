use anyhow::{Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::Context;
use crate::{client::Refusal, output::confirm};

pub(crate) async fn run(context: &Context) -> Result<()> {
    let request = context.client.request(Method::GET, "/v2/health/ready");
    match context.client.send(request).await {
        Ok(_) => Ok(confirm(context.output, &json!({ "ready": true }), "ready")?),
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(refusal) if refusal.status == StatusCode::SERVICE_UNAVAILABLE => {
                bail!("the server at {} is not ready", context.client.url())
            }
            _ => Err(error),
        },
    }
}
