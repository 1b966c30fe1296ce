//! What a call took, in OpenAI's form.

use serde_json::{Value, json};
use wattle_serve::language::TokenUsage;

use crate::http::language::energy_json;

/// `usage`, with the energy beside the tokens where it is known.
pub(super) fn usage(usage: &TokenUsage) -> Value {
    let mut told = json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    });
    if usage.energy.is_some() {
        told["energy"] = energy_json(usage.energy.as_ref());
    }
    told
}
