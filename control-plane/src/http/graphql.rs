//! `POST /graphql`.

mod document;
pub(crate) mod error;
pub(super) mod lane;
mod mutation;
mod query;
mod query_text;
pub(super) mod schema;
pub(crate) mod types;

use std::net::SocketAddr;
use std::time::Duration;

use async_graphql::{Pos, Request, Response, ServerError};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde_json::json;
use tokio::time::timeout;

use self::document::{Document, Refusal};
use self::lane::NoAnswer;
use super::Api;
use crate::error::OperationError;
use crate::keys::session::{From, Viewer};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a change may take, whether or not somebody still waits for it.
const CHANGE: Duration = Duration::from_mins(10);
/// How long a client may take to send its request.
const BODY: Duration = Duration::from_secs(30);
/// The longest request. The largest that we know carries a stack's sealed secrets.
const MAX_REQUEST: usize = 4 << 20;
/// The longest request of somebody without a session, who can only open one.
const MAX_OPEN_REQUEST: usize = 8 * 1024;
/// The longest query; variables do not count.
const MAX_QUERY: usize = 64 * 1024;
/// The longest text that a client attaches to a run.
const MAX_METADATA: usize = 4096;

/// What a client attaches to the run that its request makes or changes.
pub(super) struct Metadata(pub Option<String>);

/// Answers one query or mutation. What goes wrong in it is told with status 200.
pub(super) async fn answer(
    State(api): State<Api>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
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
    let lane = if viewer.is_some() { api.lane } else { api.open_lane };
    let is_open = viewer.is_none();
    let (mut request, is_change) =
        match lane.run(ANSWER, async move { prepare(&body, is_open) }).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(wrong)) => return wrong.into_response(),
            Err(no_answer) => return unanswered(no_answer),
        };
    request = match viewer {
        Some(viewer) => request.data(viewer),
        None => request.disable_introspection(),
    };
    let from = From(peer.map(|Extension(ConnectInfo(peer))| peer.ip()));
    request = request.data(metadata(&headers)).data(from);
    let schema = api.schema;
    let answer = async move { schema.execute(request).await };
    let answered = if is_change {
        // Whoever hangs up in the middle of a change does not leave half of it.
        let change = async move { lane.run(CHANGE, answer).await };
        let change = timeout(ANSWER, api.operations.changes.see_through(change)).await;
        change.map_or(Err(NoAnswer::Late), |done| done.unwrap_or(Err(NoAnswer::Failed)))
    } else {
        lane.run(ANSWER, answer).await
    };
    match answered {
        Ok(response) => Json(response).into_response(),
        Err(no_answer) => unanswered(no_answer),
    }
}

/// What is wrong with a request.
enum Wrong {
    /// It is none.
    Malformed(&'static str),
    /// What it asks for is not looked for.
    Refused(Refusal),
}

impl IntoResponse for Wrong {
    fn into_response(self) -> axum::response::Response {
        match self {
            Self::Malformed(message) => malformed(message),
            Self::Refused(Refusal::Unauthorized) => {
                errors(error::unauthorized().into_server_error(Pos::default()))
            }
            Self::Refused(refusal) => told(&refusal.to_string()),
        }
    }
}

/// What a body asks for, and whether that changes something; or the answer to one that asks for too much.
fn prepare(body: &[u8], is_open: bool) -> Result<(Request, bool), Wrong> {
    // The parser would take an array of the fields as well.
    let object = body.trim_ascii_start().starts_with(b"{");
    let parsed = object.then(|| serde_json::from_slice::<Request>(body).ok()).flatten();
    let wrong = Wrong::Malformed("the body is not a JSON object with a query");
    let mut request = parsed.ok_or(wrong)?;
    if request.query.len() > MAX_QUERY {
        return Err(Wrong::Malformed("the query is too long"));
    }
    request.query = query_text::without_empty_arguments(&request.query);
    let document = if is_open {
        document::read_open(&request.query)
    } else {
        document::read(&request.query, body.len())
    };
    let Document { parsed, is_change } = document.map_err(Wrong::Refused)?;
    request.set_parsed_query(parsed);
    Ok((request, is_change))
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
    told(&error::refused(error).message)
}

fn unanswered(no_answer: NoAnswer) -> axum::response::Response {
    match no_answer {
        NoAnswer::Late => told("the answer takes too long: ask for less at once, or try again"),
        NoAnswer::Failed => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn told(message: &str) -> axum::response::Response {
    errors(ServerError::new(message, None))
}

fn errors(error: ServerError) -> axum::response::Response {
    Json(Response::from_errors(vec![error])).into_response()
}
