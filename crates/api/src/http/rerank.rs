//! `POST /v1/rerank`: documents by how near they are to a query, which is the cosine of their embeddings.
//!
//! Sources: Jina's and Cohere's APIs, <https://api.jina.ai/redoc>, <https://docs.cohere.com/reference/rerank>.

use std::{pin::pin, sync::Arc, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use wattle_serve::{
    Context, Replica,
    language::{Embedded, Prompt},
    metrics::{Phases, Protocol},
};

use super::{
    App,
    context::FromHeaders,
    language::{embedded_usage, find},
    observe::observe,
};
use crate::{ApiError, Result};

/// The most documents of one call.
const MAX_DOCUMENTS: usize = 2048;

#[derive(Debug, Deserialize)]
struct Request {
    model: String,
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    return_documents: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a string, or {\"text\": …}")]
enum Document {
    Plain(String),
    Object { text: String },
}

pub(super) async fn create(State(app): State<App>, FromHeaders(context): FromHeaders, body: Body) -> Result<Response> {
    let request: Request = app.bodies.read(body).await?.parse()?;
    let (replica, _) = find(&app, &request.model, &context)?;
    observe(&app, &replica, Protocol::OpenAi, pin!(rerank(&app, &replica, context, request))).await
}

async fn rerank(app: &App, replica: &Arc<Replica>, context: Context, request: Request) -> Result<(Response, Phases)> {
    let texts = request.texts()?;
    let call = app.service.admit(Arc::clone(replica), context)?;
    let begun = Instant::now();
    let embedded = app.service.embed(call, texts).await?;
    let phases = Phases { compute: begun.elapsed(), ..Phases::default() };
    Ok((Json(answer(&request, &embedded)).into_response(), phases))
}

impl Request {
    /// The query, and the documents behind it.
    fn texts(&self) -> Result<Vec<Prompt>> {
        if self.documents.is_empty() || self.documents.len() > MAX_DOCUMENTS {
            return Err(ApiError::invalid(format!("documents must have 1 to {MAX_DOCUMENTS} texts")));
        }
        if self.top_n == Some(0) {
            return Err(ApiError::invalid("top_n must be at least 1"));
        }
        if self.query.is_empty() || self.documents.iter().any(|document| document.text().is_empty()) {
            return Err(ApiError::invalid("query and documents must have no empty text"));
        }
        let all = std::iter::once(&*self.query).chain(self.documents.iter().map(Document::text));
        Ok(all.map(|text| Prompt::Text { text: text.to_owned(), special: false }).collect())
    }
}

impl Document {
    fn text(&self) -> &str {
        match self {
            Document::Plain(text) | Document::Object { text } => text,
        }
    }
}

fn answer(request: &Request, embedded: &Embedded) -> Value {
    let mut vectors = embedded.vectors.iter();
    let query = vectors.next().map(Vec::as_slice).unwrap_or_default();
    // Vectors have the length 1, so that their product is their cosine.
    let cosine = |vector: &Vec<f32>| vector.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut scores: Vec<(usize, f64)> = vectors.map(cosine).enumerate().collect();
    scores.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    scores.truncate(request.top_n.unwrap_or(usize::MAX));
    let results = scores.into_iter().map(|(index, score)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if request.return_documents.unwrap_or(false)
            && let Some(document) = request.documents.get(index)
        {
            result["document"] = json!({"text": document.text()});
        }
        result
    });
    let results: Value = results.collect();
    let usage = embedded_usage(embedded);
    json!({"model": request.model, "object": "list", "results": results, "usage": usage})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(mut body: Value) -> Request {
        body["model"] = "m".into();
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn the_nearest_come_first() {
        let request = request(json!({
            "query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2, "return_documents": true
        }));
        assert_eq!(request.texts().unwrap().len(), 4);
        let vectors = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![0.5, 0.0]];
        let told = answer(&request, &Embedded { vectors, tokens: vec![1, 2, 3, 4], ..Embedded::default() });
        let results = json!([
            {"index": 1, "relevance_score": 1.0, "document": {"text": "b"}},
            {"index": 2, "relevance_score": 0.5, "document": {"text": "c"}}
        ]);
        assert_eq!((&told["results"], &told["usage"]["total_tokens"]), (&results, &json!(10)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, word) in [
            (json!({"query": "q", "documents": []}), "documents"),
            (json!({"query": "q", "documents": vec!["a"; 2049]}), "2048"),
            (json!({"query": "", "documents": ["a"]}), "query"),
            (json!({"query": "q", "documents": [""]}), "empty"),
            (json!({"query": "q", "documents": ["a"], "top_n": 0}), "top_n"),
        ] {
            assert!(request(body).texts().unwrap_err().message.contains(word), "{word}");
        }
    }
}
