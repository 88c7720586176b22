//! `POST /graphql`.

use std::time::Duration;

use async_graphql::parser::types::OperationType;
use async_graphql::{Request, Response, ServerError};
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde_json::json;
use tokio::time::timeout;

use super::session::Viewer;
use super::{Api, query_text};
use crate::error::OperationError;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a client may take to send its request.
const BODY: Duration = Duration::from_secs(30);
/// The longest request. The largest that we know carries a stack's sealed secrets.
const MAX_REQUEST: usize = 4 << 20;
/// The longest request of somebody without a session, who can only open one.
const MAX_OPEN_REQUEST: usize = 128 * 1024;
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
    body: Body,
) -> axum::response::Response {
    let viewer = match viewer(&api, &headers).await {
        Ok(viewer) => viewer,
        Err(error) => return failed(error),
    };
    let most = if viewer.is_some() { MAX_REQUEST } else { MAX_OPEN_REQUEST };
    let body = match whole(&headers, body, most).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
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
    request = match viewer {
        Some(viewer) => request.data(viewer),
        None => request.disable_introspection(),
    };
    request = request.data(metadata(&headers));
    let changes = is_mutation(&mut request);
    let schema = api.schema.clone();
    let answer = async move { schema.execute(request).await };
    let answered = if changes {
        // Whoever hangs up in the middle of a change does not leave half of it.
        let change = api.control_plane.see_through(answer);
        timeout(ANSWER, change).await.map(Result::ok)
    } else {
        timeout(ANSWER, answer).await.map(Some)
    };
    match answered {
        Ok(Some(response)) => Json(response).into_response(),
        Ok(None) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(_) => told("the answer takes too long: ask for less at once, or try again"),
    }
}

/// The request's body, if it comes in time and has at most so many bytes.
async fn whole(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, StatusCode> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > most) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match timeout(BODY, to_bytes(body, most)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// Whether it changes something. What cannot be parsed does not.
fn is_mutation(request: &mut Request) -> bool {
    request.parsed_query().is_ok_and(|document| {
        let mut operations = document.operations.iter();
        operations.any(|(_, operation)| operation.node.ty == OperationType::Mutation)
    })
}

/// Who sends these headers, if they have a session.
async fn viewer(api: &Api, headers: &HeaderMap) -> Result<Option<Viewer>, OperationError> {
    match token(headers) {
        Some(token) => api.sessions.check(token).await,
        None => Ok(None),
    }
}

/// The session's token in these headers.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
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
