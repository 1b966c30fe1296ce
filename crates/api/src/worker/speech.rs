//! A language model in this process, as the server calls it over a socket.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

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
use wattle_engine::tokens::Token;
use wattle_serve::{
    Result,
    language::{Embedded, Generate, Prompt},
    speaker::{Asker, LocalSpeaker, Speaker},
    tokens::Statistics,
};

use super::lines::line;

/// As many calls at once as the server sends, which bounds them.
const MOST_STREAMS: u32 = 1 << 20;
/// How often it is told what was done.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Answers whoever connects, until the process ends.
pub(super) async fn answer(socket: &Path, speaker: Arc<LocalSpeaker>, ready: impl FnOnce()) -> std::io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let router = Router::new()
        .route("/generate", post(generate))
        .route("/embed", post(embed))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/save", post(save))
        .route("/statistics", post(statistics))
        // The server bounds what it sends.
        .layer(DefaultBodyLimit::disable())
        .with_state(speaker);
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

/// The pieces as they come; one that is refused has another status.
async fn generate(
    State(speaker): State<Arc<LocalSpeaker>>,
    Json((request, asker)): Json<(Generate, Asker)>,
) -> (StatusCode, Body) {
    let (status, pieces) = match speaker.generate(request, asker).await {
        Ok(pieces) => (StatusCode::OK, pieces),
        Err(error) => (StatusCode::BAD_REQUEST, stream::iter([Err(error)]).boxed()),
    };
    (status, Body::from_stream(pieces.map(|piece| Ok::<_, Infallible>(line(&piece)))))
}

async fn embed(
    State(speaker): State<Arc<LocalSpeaker>>,
    Json((texts, asker)): Json<(Vec<Prompt>, Asker)>,
) -> Json<Result<Embedded>> {
    Json(speaker.embed(texts, asker).await)
}

async fn tokenize(State(speaker): State<Arc<LocalSpeaker>>, Json(prompt): Json<Prompt>) -> Json<Result<Vec<Token>>> {
    Json(speaker.tokenize(prompt).await)
}

async fn detokenize(State(speaker): State<Arc<LocalSpeaker>>, Json(tokens): Json<Vec<Token>>) -> Json<Result<Vec<u8>>> {
    Json(speaker.detokenize(tokens).await)
}

async fn save(State(speaker): State<Arc<LocalSpeaker>>) -> Json<Result<Statistics>> {
    speaker.save().await;
    Json(Ok(speaker.statistics()))
}

/// What was done, whenever that has changed.
async fn statistics(State(speaker): State<Arc<LocalSpeaker>>) -> Body {
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
