use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Multipart, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::Deserialize;
use tokio_util::io::ReaderStream;
use wattle_core::{ModelReference, Name, Selector};
use wattle_store::{AliasChange, Model, ModelVersion};

use super::{
    App,
    body::{paced, stage},
    extract::{self, FromPath, in_our_words},
};
use crate::{
    ApiError, Code, Result,
    service::{ImportFiles, Staged, Upload},
};

/// `POST /api/v1/models/{name}/versions`: an ONNX or GGUF file as the body (`application/octet-stream`), a pipeline
/// (`application/toml`), or a form with the
/// file `model`, or with the files `coef` and `intercept`.
pub(super) async fn import(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
    request: Request,
) -> Result<(StatusCode, Json<ModelVersion>)> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_lowercase();
    let files = match essence.as_str() {
        "application/octet-stream" => ImportFiles::Model(stage(&app, request.into_body()).await?),
        "application/toml" => ImportFiles::Pipeline(stage(&app, request.into_body()).await?),
        "multipart/form-data" => {
            let request = request.map(|body| Body::from_stream(paced(&app, body)));
            let form = Multipart::from_request(request, &app)
                .await
                .map_err(|error| ApiError::invalid(in_our_words(&error.body_text())))?;
            import_form(&app, form).await?
        }
        _ => {
            return Err(ApiError::new(
                Code::Unsupported,
                "send the ONNX or GGUF file as application/octet-stream, a pipeline as application/toml, or a form with the file model, or with coef and intercept",
            ));
        }
    };
    Ok((StatusCode::CREATED, Json(app.service.import_model(name, files).await?)))
}

async fn import_form(app: &App, mut form: Multipart) -> Result<ImportFiles> {
    let broken = |error: axum::extract::multipart::MultipartError| ApiError::invalid(in_our_words(&error.body_text()));
    let (mut model, mut coef, mut intercept): (Option<Staged>, Option<Staged>, Option<Staged>) = Default::default();
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        let part = match field.name() {
            Some("model") => &mut model,
            Some("coef") => &mut coef,
            Some("intercept") => &mut intercept,
            other => {
                return Err(ApiError::invalid(format!(
                    "unknown file {:?} in the form: send model, or coef and intercept",
                    other.unwrap_or_default()
                )));
            }
        };
        if part.is_some() {
            return Err(ApiError::invalid("a file was sent twice in the form"));
        }
        // The field borrows the form, so its pieces go through a channel to the stream that staging wants.
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<bytes::Bytes>>(4);
        let pieces: Upload = Box::pin(stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        }));
        let feed = async {
            loop {
                let piece = match field.chunk().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => break,
                    Err(error) => Err(broken(error)),
                };
                let last = piece.is_err();
                if sender.send(piece).await.is_err() || last {
                    break;
                }
            }
            drop(sender);
        };
        let ((), staged) = tokio::join!(feed, app.service.stage(pieces, app.max_upload_bytes));
        *part = Some(staged?);
    }
    match (model, coef, intercept) {
        (Some(model), None, None) => Ok(ImportFiles::Model(model)),
        (None, Some(coef), intercept) => Ok(ImportFiles::Linear { coef, intercept }),
        _ => Err(ApiError::invalid("send either the file model, or the files coef and intercept")),
    }
}

pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<Model>>> {
    Ok(Json(app.service.models().await?))
}

pub(super) async fn show(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<Json<Model>> {
    Ok(Json(app.service.model(name).await?))
}

pub(super) async fn remove(State(app): State<App>, FromPath(name): FromPath<Name>) -> Result<StatusCode> {
    app.service.remove_model(name, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `{version}` is a number, an alias as `@champion`, or `latest`.
pub(super) async fn version(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Json<ModelVersion>> {
    Ok(Json(app.service.resolve(reference(name, &version)?).await?))
}

pub(super) async fn remove_version(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, u32)>,
) -> Result<StatusCode> {
    app.service.remove_model(name, Some(version)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn download(
    State(app): State<App>,
    FromPath((name, version)): FromPath<(Name, String)>,
) -> Result<Response> {
    let (version, path) = app.service.model_file(reference(name, &version)?).await?;
    let file = tokio::fs::File::open(path).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(version.manifest.bytes));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", version.manifest.digest)) {
        headers.insert(header::ETAG, tag);
    }
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, 1 << 20))).into_response())
}

pub(super) async fn alias_history(
    State(app): State<App>,
    FromPath(name): FromPath<Name>,
) -> Result<Json<Vec<AliasChange>>> {
    Ok(Json(app.service.alias_history(name).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AliasTarget {
    version: u32,
}

pub(super) async fn set_alias(
    State(app): State<App>,
    FromPath((model, alias)): FromPath<(Name, Name)>,
    extract::Json(target): extract::Json<AliasTarget>,
) -> Result<Json<Model>> {
    Ok(Json(app.service.set_alias(model, alias, target.version).await?))
}

pub(super) async fn remove_alias(
    State(app): State<App>,
    FromPath((model, alias)): FromPath<(Name, Name)>,
) -> Result<StatusCode> {
    app.service.remove_alias(model, alias).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn reference(model: Name, version: &str) -> Result<ModelReference> {
    let selector = match version.strip_prefix('@') {
        Some(alias) => Selector::Alias(alias.parse()?),
        None if version == "latest" => Selector::Latest,
        None => return Ok(format!("{model}:{version}").parse()?),
    };
    Ok(ModelReference { model, selector })
}
