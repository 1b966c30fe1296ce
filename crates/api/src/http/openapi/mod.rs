//! What can be called, by OpenAPI 3.1 at `/openapi.json`, and a page at `/docs` that shows it and needs no network.
//!
//! A test compares the document with the routes: an address that is served and not described fails it.

mod anthropic;
mod calls;
mod generation;
mod language;
mod management;
mod operation;
mod protocols;
mod schemas;

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::{HeaderName, header},
    response::IntoResponse,
};
use serde_json::{Map, Value, json};

use operation::Operation;

/// The document's text; it does not change while the server runs.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// The page loads nothing from elsewhere, runs no script but its own, and is shown in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /openapi.json`.
pub(super) async fn show() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}

/// `GET /docs`.
pub(super) async fn page() -> impl IntoResponse {
    asset("text/html; charset=utf-8", include_str!("page.html"))
}

/// `GET /docs/page.js`.
pub(super) async fn script() -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", include_str!("page.js"))
}

/// `GET /docs/page.css`.
pub(super) async fn style() -> impl IntoResponse {
    asset("text/css; charset=utf-8", include_str!("page.css"))
}

fn asset(content_type: &'static str, text: &'static str) -> ([(HeaderName, &'static str); 4], &'static str) {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

fn operations() -> Vec<Operation> {
    [
        calls::operations(),
        protocols::operations(),
        language::operations(),
        anthropic::operations(),
        generation::operations(),
        management::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        let item = paths.entry(operation.path.clone()).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(methods) = item {
            methods.insert(operation.method.to_owned(), operation.describe());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Wattle",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Train, store, deploy and call models, and know what each call cost. Every answer carries `x-request-id`, the caller's own if it sent one.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        },
        "tags": [
            {"name": "calls", "description": "Predictions in the simplest form."},
            {"name": "open inference protocol", "description": "Version 2 of the protocol of KServe, Triton and others, with Triton's additions. A model's name is its deployment's."},
            {"name": "openai", "description": "OpenAI's protocol for language models. A model's name is its deployment's; fields of OpenAI's that have no effect here are passed over."},
            {"name": "anthropic", "description": "Anthropic's protocol for language models. A model's name is its deployment's."},
            {"name": "language models", "description": "What else language models do."},
            {"name": "mlflow", "description": "What MLflow's scoring server answers."},
            {"name": "deployments", "description": "Versions of models under names that can be called."},
            {"name": "models", "description": "Immutable, numbered versions and the aliases that name them."},
            {"name": "training jobs", "description": "From a data set to a version of a model."},
            {"name": "data sets", "description": "Tables of numbers and categories."},
            {"name": "server", "description": "What the server is, and what was used."}
        ],
        "paths": paths,
        "components": {"schemas": schemas::all()},
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    /// The methods and paths of the router, out of its source: axum does not tell them.
    fn routes() -> BTreeSet<(String, String)> {
        let source = include_str!("../mod.rs");
        let source = source.split("#[cfg(test)]").next().unwrap();
        let mut routes = BTreeSet::new();
        for rest in source.split(".route(").skip(1) {
            let rest = rest.split(".fallback(").next().unwrap();
            let mut parts = rest.splitn(3, '"');
            let (_, path, handlers) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            for method in ["get", "put", "post", "delete", "patch"] {
                let is_served = handlers
                    .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '(')
                    .any(|word| word.starts_with(&format!("{method}(")));
                if is_served {
                    routes.insert((path.to_owned(), method.to_owned()));
                }
            }
        }
        routes
    }

    #[test]
    fn every_route_is_described_and_no_other() {
        let described: BTreeSet<(String, String)> =
            operations().into_iter().map(|operation| (operation.path, operation.method.to_owned())).collect();
        let served = routes();
        assert!(served.len() > 45, "the routes are no longer found where they were: {served:?}");
        let missing: Vec<_> = served.difference(&described).collect();
        assert!(missing.is_empty(), "not described: {missing:?}");
        let gone: Vec<_> = described.difference(&served).collect();
        assert!(gone.is_empty(), "described and not served: {gone:?}");
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_name_is_used_once() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(pairs) => {
                    for (key, value) in pairs {
                        match value {
                            Value::String(to) if key == "$ref" => found.push(to),
                            value => references(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in &found {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
        }
        let used: HashSet<&str> = found.into_iter().filter_map(|reference| reference.rsplit('/').next()).collect();
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(used.contains(name.as_str()), "nothing uses the schema {name}");
        }
        let mut names = HashSet::new();
        for operation in operations() {
            let name = operation.id();
            assert!(names.insert(name.clone()), "two operations are named {name}");
        }
    }
}
