//! What comes over HTTP, and how much of it is taken.
//!
//! A request to open a session is at most 4 KiB, and its sender's signature is looked at last. All others
//! need a session's token. Bodies have to come within seconds; nothing is held for who has no session.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use gantry_model::PoolId;
use gantry_protocol::message::MAX_ENVELOPE;
use gantry_protocol::poll::{
    Code, MAX_BATCH, MAX_OPENING, MAX_WILL, MESSAGES, Opened, Opening, Refusal, SESSION, SESSIONS,
    split,
};
use tokio::time::{Instant, sleep_until, timeout};

use super::super::{Admitted, Identity};
use super::Inner;
use super::sessions::{Found, Key, Visit, key};
use crate::tls::Peer;

/// How long a body may take to come, and how long its messages may wait for room.
const BODY: Duration = Duration::from_secs(10);
const ROOM: Duration = Duration::from_secs(10);

/// The bounds of the keep-alive that a launcher may ask for.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// The longest token that is looked at.
const MAX_TOKEN: usize = 64;

pub(super) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route(SESSIONS, post(open))
        .route(SESSION, delete(leave))
        .route(MESSAGES, get(fetch).post(say))
        .with_state(inner)
}

/// A request that is not done.
struct Refused {
    code: Code,
    challenge: Option<String>,
}

impl From<Code> for Refused {
    fn from(code: Code) -> Self {
        Self { code, challenge: None }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, message) = match self.code {
            Code::Prove => (StatusCode::UNAUTHORIZED, "sign the challenge with the pool's key"),
            Code::NotAdmitted => (
                StatusCode::FORBIDDEN,
                "the certificate is revoked or unknown, or its key did not sign: the pool was reset or deleted",
            ),
            Code::ForeignWorker => (StatusCode::FORBIDDEN, "the worker belongs to another pool"),
            Code::NoSession => (StatusCode::GONE, "there is no such session: open one"),
            Code::TakenOver => (StatusCode::CONFLICT, "another launcher is this worker now"),
            Code::Invalid | Code::Other => {
                (StatusCode::BAD_REQUEST, "the request is none of this protocol")
            }
            Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the request is too large"),
            Code::TooMany => {
                (StatusCode::TOO_MANY_REQUESTS, "too many requests or sessions: come back later")
            }
            Code::Busy => (StatusCode::SERVICE_UNAVAILABLE, "the server is busy: come back later"),
        };
        let refusal =
            Refusal { code: self.code, message: message.to_owned(), challenge: self.challenge };
        (status, [(CACHE_CONTROL, "no-store")], Json(refusal)).into_response()
    }
}

/// Opens a session.
async fn open(State(inner): State<Arc<Inner>>, request: Request) -> Result<Response, Refused> {
    let peer = request.extensions().get::<Peer>().cloned();
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(from)| from.ip());
    let body = read(request, MAX_OPENING).await?;
    let opening: Opening = serde_json::from_slice(&body).map_err(|_| Code::Invalid)?;
    if opening.will.as_ref().is_some_and(|will| will.len() > MAX_WILL) {
        return Err(Code::TooLarge.into());
    }
    if inner.stopped.is_cancelled() {
        return Err(Code::Busy.into());
    }
    let pool = inner.admissions.pool_of(opening.serial.as_str());
    let opened = match pool {
        Some(pool) => {
            let admitted = admit(&inner, &opening, pool, peer, from).await;
            admitted.and_then(|()| begin(&inner, opening, pool))
        }
        None => Err(Code::NotAdmitted.into()),
    };
    if let Err(refused) = &opened
        && !matches!(refused.code, Code::Prove)
    {
        tell(&inner, pool, from, refused.code);
    }
    let no_store = [(CACHE_CONTROL, "no-store")];
    opened.map(|opened| (StatusCode::CREATED, no_store, Json(opened)).into_response())
}

/// Whether the client is of this pool, by certificate or by signature, and may be this worker.
async fn admit(
    inner: &Inner,
    opening: &Opening,
    pool: PoolId,
    peer: Option<Peer>,
    from: IpAddr,
) -> Result<(), Refused> {
    if peer.is_none_or(|Peer(serial)| serial != opening.serial) {
        let Some(proof) = &opening.proof else { return Err(ask(inner)) };
        let Some(key) = inner.admissions.key_of(pool) else { return Err(Code::NotAdmitted.into()) };
        let now_ms = inner.now_ms();
        match inner.proofs.check(opening, proof, (pool, key), (from, now_ms)).await {
            Ok(()) => {}
            Err(Code::Prove) => return Err(ask(inner)),
            Err(code) => return Err(code.into()),
        }
    }
    // What follows is known to members of the pool only.
    let owner = inner.admissions.owner_of(opening.worker);
    if owner.is_some_and(|owner| owner != pool) {
        return Err(Code::ForeignWorker.into());
    }
    let turn = inner.openings.take(pool, inner.now_ms());
    if turn.is_some() { Ok(()) } else { Err(Code::TooMany.into()) }
}

fn ask(inner: &Inner) -> Refused {
    match inner.proofs.challenge() {
        Ok(challenge) => Refused { code: Code::Prove, challenge: Some(challenge) },
        Err(_) => Code::Busy.into(),
    }
}

fn begin(inner: &Inner, opening: Opening, pool: PoolId) -> Result<Opened, Refused> {
    let identity = Identity { pool, worker: opening.worker, serial: opening.serial };
    let keep_alive = Duration::from_millis(opening.keep_alive_ms).clamp(KEEP_ALIVE.0, KEEP_ALIVE.1);
    let will = opening.will.map(Bytes::from);
    let opened = inner.sessions.open(identity.clone(), keep_alive, will);
    let token = opened.map_err(|_| Code::Busy)??;
    // It may have been revoked since it was looked at, and its sessions closed before this one was there.
    if !inner.is_admitted(&identity) || inner.stopped.is_cancelled() {
        inner.sessions.leave(&key(&token));
        return Err(Code::NotAdmitted.into());
    }
    let hold_ms = u64::try_from(keep_alive.as_millis()).unwrap_or(u64::MAX);
    Ok(Opened { token, hold_ms })
}

/// Holds a request until there are messages for the launcher, or for as long as it wants.
async fn fetch(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Result<Response, Refused> {
    let visit = inner.sessions.fetch(bearer(&headers)?)?;
    let until = Instant::now() + visit.keep_alive;
    loop {
        let changed = visit.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        // It closes all sessions, and no launcher is to think that it was forgotten.
        if inner.stopped.is_cancelled() {
            return Err(Code::Busy.into());
        }
        if !inner.is_admitted(&visit.identity) {
            return Err(Code::NotAdmitted.into());
        }
        match visit.look()? {
            Found::Messages(body) => {
                let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
                return Ok((headers, body).into_response());
            }
            Found::Replaced => return Ok(nothing()),
            Found::Nothing => {}
        }
        tokio::select! {
            () = changed => {}
            () = sleep_until(until) => return Ok(nothing()),
            () = inner.stopped.cancelled() => return Err(Code::Busy.into()),
        }
    }
}

/// Takes messages of the launcher's. They are the control plane's when it answers.
async fn say(State(inner): State<Arc<Inner>>, request: Request) -> Result<Response, Refused> {
    let visit = inner.sessions.post(bearer(request.headers())?)?;
    let body = read(request, MAX_BATCH).await?;
    let messages = split(&body).ok_or(Code::TooLarge)?;
    if messages.iter().any(|message| message.len() > MAX_ENVELOPE) {
        tell(&inner, Some(visit.identity.pool), Ipv4Addr::UNSPECIFIED.into(), Code::TooLarge);
    }
    let messages = messages.into_iter().filter(|message| message.len() <= MAX_ENVELOPE);
    let accepting = async {
        for message in messages {
            accept(&inner, &visit, body.slice_ref(message)).await?;
        }
        Ok(nothing())
    };
    timeout(ROOM, accepting).await.unwrap_or_else(|_| Err(Code::Busy.into()))
}

/// Hands a message to the control plane, waiting for room.
async fn accept(inner: &Inner, visit: &Visit<'_>, payload: Bytes) -> Result<(), Refused> {
    loop {
        let changed = inner.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        visit.check()?;
        if !inner.is_admitted(&visit.identity) {
            return Err(Code::NotAdmitted.into());
        }
        tokio::select! {
            room = inner.arrivals.reserve() => {
                let room = room.map_err(|_| Code::Busy)?;
                room.send(Admitted { identity: visit.identity.clone(), payload });
                return Ok(());
            }
            () = changed => {}
        }
    }
}

/// The launcher leaves.
async fn leave(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Result<Response, Refused> {
    let key = bearer(&headers)?;
    inner.sessions.leave(&key);
    Ok(nothing())
}

fn nothing() -> Response {
    (StatusCode::NO_CONTENT, [(CACHE_CONTROL, "no-store")]).into_response()
}

/// The key of the token that a request comes with.
fn bearer(headers: &HeaderMap) -> Result<Key, Code> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer "));
    let token = token.filter(|token| token.len() <= MAX_TOKEN).ok_or(Code::NoSession)?;
    Ok(key(token))
}

/// The whole body, if it is short and comes soon.
async fn read(request: Request, most: usize) -> Result<Bytes, Code> {
    let body = axum::body::to_bytes(request.into_body(), most);
    match timeout(BODY, body).await {
        Ok(Ok(body)) => Ok(body),
        // A body that breaks off has nobody who reads the answer.
        Ok(Err(_)) => Err(Code::TooLarge),
        Err(_) => Err(Code::Busy),
    }
}

/// Says in the log that something was refused, as often as one pool may cause that.
fn tell(inner: &Inner, pool: Option<PoolId>, from: IpAddr, code: Code) {
    if let Some(turn) = inner.lines.take(pool, inner.now_ms()) {
        let (pool, unsaid) = (pool.map(|pool| pool.to_string()), turn.held_back);
        tracing::warn!(pool, %from, reason = ?code, unsaid, "a request of a launcher was refused");
    }
}
