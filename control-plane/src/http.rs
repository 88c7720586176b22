//! The API: GraphQL in the shapes that Spacelift's public clients ask for, and what only we have.
//!
//! `POST /graphql` answers with status 200 and `errors[].message`; `GET /runs/RUN/log` follows a run;
//! `GET /healthz`, `GET /ca.pem` and `GET /schema.graphql` need no key. All else needs a session, which `apiKeyUser` opens
//! for an API key. `docs/api.md` describes it for users.
//!
//! [`router`] is what the server mounts.

pub(crate) mod graphql;
mod log_stream;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use graphql::lane::Lane;
use graphql::schema::{self, Schema};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::audit::AuditLog;
use crate::core::{Changes, Core};
use crate::fleet::workers::Workers;
use crate::keys::session::Sessions;
use crate::logs::Logs;
use crate::pools::Pools;
use crate::queue::Queue;
use crate::runs::Runs;
use crate::stacks::Stacks;

pub use graphql::schema::sdl;

/// How many can follow logs at the same time.
const MAX_FOLLOWERS: usize = 1000;

/// How many queries with a session are worked on at the same time.
const QUERIES: usize = 8;
/// How many without one, which can only open one.
const LOGINS: usize = 2;

/// What the API must know besides the control plane.
pub struct ApiConfig {
    /// The API's address as clients spell it, such as `https://127.0.0.1:1983`: the audience of its
    /// sessions.
    pub base_url: String,
    /// What sessions are signed with: 32 random bytes, kept in the data directory, so that sessions
    /// outlive the server's restart.
    pub session_key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiConfig").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// What people can ask for.
#[derive(Clone)]
pub struct Operations {
    pub(crate) core: Core,
    pub(crate) pools: Pools,
    pub(crate) workers: Workers,
    pub(crate) stacks: Stacks,
    pub(crate) runs: Runs,
    pub(crate) queue: Queue,
    pub(crate) logs: Logs,
    pub(crate) audit: AuditLog,
    pub(crate) changes: Changes,
    /// The certificate of the authority, PEM.
    pub(crate) ca: Arc<str>,
}

/// What every request needs.
#[derive(Clone)]
struct Api {
    operations: Operations,
    schema: Schema,
    sessions: Arc<Sessions>,
    followers: Arc<Semaphore>,
    lane: Lane,
    /// Of its own, so that whoever has no session does not keep out those who have one.
    open_lane: Lane,
    sdl: Arc<str>,
}

/// All routes of the API.
pub fn router(operations: Operations, config: ApiConfig) -> Router {
    let sessions = Arc::new(Sessions::new(
        operations.core.store().clone(),
        Arc::clone(operations.core.clock()),
        &config.session_key,
        config.base_url,
    ));
    let api = Api {
        schema: schema::build(operations.clone(), Arc::clone(&sessions)),
        operations,
        sessions,
        followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        lane: Lane::new(QUERIES),
        open_lane: Lane::new(LOGINS),
        sdl: sdl().into(),
    };
    Router::new()
        .route("/graphql", post(graphql::answer))
        .route("/runs/{run}/log", get(log_stream::answer))
        .route("/healthz", get(health))
        .route("/ca.pem", get(ca))
        .route("/schema.graphql", get(sdl_text))
        .with_state(api)
}

async fn health() -> impl IntoResponse {
    ([(CACHE_CONTROL, "no-store")], "ok\n")
}

async fn ca(State(api): State<Api>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/x-pem-file")], String::from(&*api.operations.ca))
}

async fn sdl_text(State(api): State<Api>) -> impl IntoResponse {
    // Made once: everybody may ask for it, as often as they like.
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], String::from(&*api.sdl))
}
