//! A language model in this process, as another server of ours calls it.

use std::{
    convert::Infallible,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    routing::post,
};
use futures::{StreamExt, stream};
use http::StatusCode;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::UnixListener;
use wattle_core::Name;
use wattle_engine::tokens::Token;
use wattle_serve::{
    Call, Context, Instance, Result, Server,
    language::{Embedded, Generate, Pieces, Prompt},
    speaker::{Asker, Speaker},
    tokens::Statistics,
};

use super::lines::line;

/// As many calls at once as the server sends, which bounds them.
const MOST_STREAMS: u32 = 1 << 20;
/// How often it is told what was done.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Answers whoever connects, until the process ends.
pub(super) async fn answer(socket: &Path, speaker: Arc<dyn Speaker>, ready: impl FnOnce()) -> std::io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let router = calls(speaker);
    ready();
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // A connection that breaks belongs to a server that is gone.
            let _ = server.max_concurrent_streams(MOST_STREAMS).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// What the addresses of a deployment's calls begin with, where a worker may have several.
pub(super) fn prefix(deployment: &Name) -> String {
    format!("/worker/{deployment}")
}

/// The calls of these deployments, as the server that started this worker makes them.
pub fn routes(server: &Server, deployments: &[Name]) -> Router {
    deployments.iter().fold(Router::new(), |router, name| {
        let speaker = Deployed { server: server.clone(), name: name.clone() };
        router.nest(&prefix(name), calls(Arc::new(speaker)))
    })
}

fn calls(speaker: Arc<dyn Speaker>) -> Router {
    Router::new()
        .route("/generate", post(generate))
        .route("/embed", post(embed))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/save", post(save))
        .route("/statistics", post(statistics))
        // The server bounds what it sends.
        .layer(DefaultBodyLimit::disable())
        .with_state(speaker)
}

/// A deployment of this server, whose calls have their place and their cost as all others.
struct Deployed {
    server: Server,
    name: Name,
}

impl Deployed {
    fn admit(&self, asker: Asker) -> Result<Call> {
        let deadline = asker.patience.and_then(|patience| Instant::now().checked_add(patience));
        let context = Context { tenant: asker.tenant, priority: asker.priority, deadline, ..Context::default() };
        let replica = self.server.find(Some(&self.name))?;
        self.server.admit(replica, context)
    }
}

#[async_trait]
impl Instance for Deployed {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn is_alive(&self) -> bool {
        true
    }

    fn resident_bytes(&self) -> u64 {
        self.server.find(Some(&self.name)).map_or(0, |replica| replica.resident_bytes())
    }

    fn load_cpu_seconds(&self) -> f64 {
        0.0
    }

    fn limited_by(&self) -> Option<&'static str> {
        None
    }

    fn statistics(&self) -> Statistics {
        self.server.find(Some(&self.name)).map_or_else(|_| Statistics::default(), |replica| replica.statistics())
    }
}

#[async_trait]
impl Speaker for Deployed {
    async fn generate(&self, request: Generate, asker: Asker) -> Result<Pieces> {
        self.server.generate(self.admit(asker)?, request).await
    }

    async fn embed(&self, texts: Vec<Prompt>, asker: Asker) -> Result<Embedded> {
        self.server.embed(self.admit(asker)?, texts).await
    }

    async fn tokenize(&self, prompt: Prompt) -> Result<Vec<Token>> {
        self.server.tokenize(self.admit(Asker::default())?, prompt).await
    }

    async fn detokenize(&self, tokens: Vec<Token>) -> Result<Vec<u8>> {
        self.server.detokenize(self.admit(Asker::default())?, tokens).await
    }

    async fn save(&self) {}
}

/// The pieces as they come; one that is refused has another status.
async fn generate(
    State(speaker): State<Arc<dyn Speaker>>,
    Json((request, asker)): Json<(Generate, Asker)>,
) -> (StatusCode, Body) {
    let (status, pieces) = match speaker.generate(request, asker).await {
        Ok(pieces) => (StatusCode::OK, pieces),
        Err(error) => (StatusCode::BAD_REQUEST, stream::iter([Err(error)]).boxed()),
    };
    (status, Body::from_stream(pieces.map(|piece| Ok::<_, Infallible>(line(&piece)))))
}

async fn embed(
    State(speaker): State<Arc<dyn Speaker>>,
    Json((texts, asker)): Json<(Vec<Prompt>, Asker)>,
) -> Json<Result<Embedded>> {
    Json(speaker.embed(texts, asker).await)
}

async fn tokenize(State(speaker): State<Arc<dyn Speaker>>, Json(prompt): Json<Prompt>) -> Json<Result<Vec<Token>>> {
    Json(speaker.tokenize(prompt).await)
}

async fn detokenize(State(speaker): State<Arc<dyn Speaker>>, Json(tokens): Json<Vec<Token>>) -> Json<Result<Vec<u8>>> {
    Json(speaker.detokenize(tokens).await)
}

async fn save(State(speaker): State<Arc<dyn Speaker>>) -> Json<Result<Statistics>> {
    speaker.save().await;
    Json(Ok(speaker.statistics()))
}

/// What was done, whenever that has changed.
async fn statistics(State(speaker): State<Arc<dyn Speaker>>) -> Body {
    let told = stream::unfold((speaker, None), |(speaker, told)| async move {
        loop {
            if !speaker.is_alive() {
                // The server starts another one.
                wattle_engine::exit(1);
            }
            let now = speaker.statistics();
            if told.as_ref() != Some(&now) {
                return Some((Ok::<_, Infallible>(line(&now)), (speaker, Some(now))));
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    });
    Body::from_stream(told)
}
