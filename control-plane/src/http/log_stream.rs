//! `GET /runs/RUN/log?from=N`: a run's log as it comes.
//!
//! With `Accept: text/event-stream` the answer follows the run: `log` and `state` events until it is
//! UNCONFIRMED or over, then `end`. Every log event carries the offset behind it as id, so that a
//! client that was cut off goes on with `Last-Event-ID` or `from` and neither misses nor doubles a
//! byte. Else the answer is what is stored of the log, as it is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, stream};
use gantry_model::{RunId, RunState};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Api, graphql};
use crate::error::OperationError;
use crate::http::Operations;
use crate::keys::role::Access;
use crate::keys::session::Sessions;
use crate::logs::LogScope;

/// The most log bytes of one event.
const MAX_PART: usize = 256 * 1024;
/// How often a silent stream says that it lives.
const ALIVE: Duration = Duration::from_secs(15);

/// The query's part of the address.
#[derive(Deserialize)]
pub(super) struct From {
    /// The offset of the first byte.
    #[serde(default)]
    from: u64,
}

/// Answers with a run's log.
pub(super) async fn answer(
    State(api): State<Api>,
    Path(run): Path<String>,
    Query(query): Query<From>,
    headers: HeaderMap,
) -> Response {
    let token = graphql::token(&headers).unwrap_or_default().to_owned();
    match api.sessions.check(&token).await {
        Ok(Some(viewer)) if viewer.role.may(Access::Look) => {}
        Ok(_) => return (StatusCode::UNAUTHORIZED, "unauthorized\n").into_response(),
        Err(error) => return failed(&error),
    }
    let Ok(run) = run.parse::<RunId>() else {
        return (StatusCode::NOT_FOUND, "run not found\n").into_response();
    };
    if let Err(error) = api.operations.runs.run(run).await {
        return failed(&error);
    }
    let Ok(place) = api.followers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many follow logs: try again later\n")
            .into_response();
    };
    let from = last_event(&headers).unwrap_or(query.from);
    if wants_events(&headers) {
        let session = (api.sessions, token);
        let follower = Follower::new(api.operations, session, run, from, place);
        let events = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(ALIVE));
        return ([(CACHE_CONTROL, "no-store")], events).into_response();
    }
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(stored(api.operations, run, from, place))).into_response()
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

fn last_event(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

fn failed(error: &OperationError) -> Response {
    if matches!(error, OperationError::NotFound { .. }) {
        return (StatusCode::NOT_FOUND, "run not found\n").into_response();
    }
    tracing::error!(error = error as &dyn std::error::Error, "a log cannot be read");
    (StatusCode::INTERNAL_SERVER_ERROR, "the log cannot be read: look at the server's log\n")
        .into_response()
}

/// What is stored of the log, piece by piece. An error breaks the answer off, which clients notice.
fn stored(
    operations: Operations,
    run: RunId,
    from: u64,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Bytes, OperationError>> {
    stream::try_unfold((operations, from, place), move |(operations, from, place)| async move {
        let part = operations.logs.read_log(run, LogScope::Run, from, MAX_PART).await?;
        if part.bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some((part.bytes, (operations, part.next, place))))
    })
}

/// Follows one run for one client.
struct Follower {
    operations: Operations,
    /// What lets it read.
    session: (Arc<Sessions>, String),
    run: RunId,
    /// How much of the log was sent.
    offset: u64,
    /// How many of the run's states were sent.
    states: usize,
    changed: watch::Receiver<u64>,
    /// The run's state when it was last looked at.
    state: Option<RunState>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    fn new(
        operations: Operations,
        session: (Arc<Sessions>, String),
        run: RunId,
        from: u64,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let changed = operations.runs.watch(run);
        Self {
            operations,
            session,
            run,
            offset: from,
            states: 0,
            changed,
            state: None,
            is_over: false,
            _place: place,
        }
    }

    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        let batches = stream::unfold(self, |mut follower| async move {
            if follower.is_over {
                return None;
            }
            let batch = match follower.next().await {
                Ok(batch) => batch,
                Err(error) => {
                    // The client comes back with the offset that it has.
                    tracing::warn!(error = &error as &dyn std::error::Error, run = %follower.run, "a log stream breaks off");
                    return None;
                }
            };
            Some((stream::iter(batch.into_iter().map(Ok)), follower))
        });
        futures::StreamExt::flatten(batches)
    }

    /// Waits until there is something to tell.
    async fn next(&mut self) -> Result<Vec<Event>, OperationError> {
        loop {
            let mut events = Vec::new();
            if self.state.is_none() || self.changed.has_changed().unwrap_or(true) {
                self.changed.borrow_and_update();
                // First the state, then the log: what was stored before the state is seen with it.
                self.state = Some(self.operations.runs.run(self.run).await?.state);
                events = self.new_states(Rest::Waits).await?;
            }
            let log = self.operations.logs.read_log(self.run, LogScope::Run, self.offset, MAX_PART);
            let part = log.await?;
            if !part.bytes.is_empty() {
                events.push(log_event(self.offset, part.next, &part.bytes));
                self.offset = part.next;
            } else if let Some(state) = self.state.filter(|state| is_at_rest(*state)) {
                events.extend(self.new_states(Rest::Comes).await?);
                events.push(event("end", &json!({ "state": state.as_str() })));
                self.is_over = true;
            }
            if !events.is_empty() {
                return Ok(events);
            }
            self.changed_or_closed().await?;
            if self.is_over {
                return Ok(events);
            }
            // Waiting has taken note of the change, so `has_changed` is silent about it.
            self.state = None;
        }
    }

    /// Waits for a change. The stream is over if the session is by then.
    async fn changed_or_closed(&mut self) -> Result<(), OperationError> {
        if self.changed.changed().await.is_err() {
            self.changed = self.operations.runs.watch(self.run);
        }
        let (sessions, token) = &self.session;
        let viewer = sessions.check(token).await?;
        self.is_over = !viewer.is_some_and(|viewer| viewer.role.may(Access::Look));
        Ok(())
    }

    async fn new_states(&mut self, rest: Rest) -> Result<Vec<Event>, OperationError> {
        let mut history = self.operations.runs.history(self.run).await?;
        if rest == Rest::Waits && history.last().is_some_and(|entry| is_at_rest(entry.state)) {
            history.pop();
        }
        let events = history.iter().enumerate().skip(self.states).map(|(version, entry)| {
            let value = json!({
                "version": version,
                "state": entry.state.as_str(),
                "at": entry.at.0 / 1000,
                "note": entry.note,
            });
            event("state", &value)
        });
        let events = events.collect();
        self.states = self.states.max(history.len());
        Ok(events)
    }
}

/// What becomes of a state in which nothing more happens by itself: it comes behind the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Waits,
    Comes,
}

/// Whether nothing more happens by itself. The log is whole then: it is stored before a stage's result.
fn is_at_rest(state: RunState) -> bool {
    state.is_terminal() || state == RunState::Unconfirmed
}

fn log_event(from: u64, next: u64, bytes: &[u8]) -> Event {
    event("log", &json!({ "from": from, "data": STANDARD.encode(bytes) })).id(next.to_string())
}

fn event(name: &str, value: &serde_json::Value) -> Event {
    Event::default().event(name).data(value.to_string())
}
