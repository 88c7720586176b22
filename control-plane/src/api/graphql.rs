//! `POST /graphql`.

use std::time::Duration;

use async_graphql::{Request, Response, ServerError};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;
use tokio::time::timeout;

use super::session::Viewer;
use super::{Api, query_text};
use crate::error::OperationError;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest query; variables do not count.
const MAX_QUERY: usize = 64 * 1024;
/// The longest text that a client attaches to a run.
const MAX_METADATA: usize = 4096;

/// What a client attaches to the run that its request makes or changes.
pub(super) struct Metadata(pub Option<String>);

/// Answers one query or mutation. What goes wrong in it is told with status 200.
pub(super) async fn answer(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Bytes,
) -> axum::response::Response {
    // The parser would take an array of the fields as well.
    let object = body.trim_ascii_start().starts_with(b"{");
    let parsed = object.then(|| serde_json::from_slice::<Request>(&body).ok()).flatten();
    let Some(mut request) = parsed else {
        return malformed("the body is no JSON object with a query");
    };
    if request.query.len() > MAX_QUERY {
        return malformed("the query is too long");
    }
    request.query = query_text::without_empty_arguments(&request.query);
    match viewer(&api, &headers).await {
        Ok(Some(viewer)) => request = request.data(viewer),
        Ok(None) => request = request.disable_introspection(),
        Err(error) => return failed(error),
    }
    request = request.data(metadata(&headers));
    match timeout(ANSWER, api.schema.execute(request)).await {
        Ok(response) => Json(response).into_response(),
        Err(_) => told("the answer takes too long: ask for less at once, or try again"),
    }
}

/// Who sends these headers, if they have a session.
pub(super) async fn viewer(
    api: &Api,
    headers: &HeaderMap,
) -> Result<Option<Viewer>, OperationError> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token {
        Some(token) => api.sessions.check(token).await,
        None => Ok(None),
    }
}

fn metadata(headers: &HeaderMap) -> Metadata {
    let value = headers.get("spacelift-user-provided-run-metadata");
    let text = value.and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    Metadata(text.filter(|text| text.len() <= MAX_METADATA).map(str::to_owned))
}

fn malformed(message: &str) -> axum::response::Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "errors": [{ "message": message }] }))).into_response()
}

fn failed(error: OperationError) -> axum::response::Response {
    told(&super::error::refused(error).message)
}

fn told(message: &str) -> axum::response::Response {
    let error = ServerError::new(message, None);
    Json(Response::from_errors(vec![error])).into_response()
}
