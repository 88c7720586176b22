//! What a list costs: a number of statements that does not grow with its rows.

#![expect(clippy::unwrap_used, reason = "test helpers fail the test where they stand")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of message among all"
)]
#![expect(dead_code, reason = "the world has more than this test needs")]

mod database;
#[path = "runs/launcher.rs"]
mod launcher;
#[path = "runs/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use gantry_control_plane::http::{self, ApiConfig};
use gantry_control_plane::keys::create_key;
use gantry_model::RunType;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use zeroize::Zeroizing;

use world::World;

/// How many statements were given to the database.
#[derive(Clone, Default)]
struct Statements(Arc<AtomicUsize>);

impl Subscriber for Statements {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What lists are asked for, and where their rows stand in the answer.
const LISTS: [(&str, &str); 5] = [
    ("{stacks{id,state,source{id},workerPool{id,name}}}", "/stacks"),
    ("{runs{id,state,title,stack{id,state}}}", "/runs"),
    ("query($stack:ID!){stack(id:$stack){runs{id,state,stack{id}}}}", "/stack/runs"),
    ("{workerPools{id,name,workersCount,pendingRuns}}", "/workerPools"),
    ("query($pool:ID!){workerPool(id:$pool){workers{id,busy,drained}}}", "/workerPool/workers"),
];

async fn ask(router: &Router, jwt: Option<&str>, query: &str, variables: &Value) -> Value {
    let body = json!({ "query": query, "variables": variables }).to_string();
    let mut request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    if let Some(jwt) = jwt {
        request = request.header(header::AUTHORIZATION, format!("Bearer {jwt}"));
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let bytes = to_bytes(response.into_body(), 64 << 20).await.unwrap();
    let mut answer: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(answer.get("errors"), None, "{query}");
    answer["data"].take()
}

#[tokio::test]
async fn a_list_of_many_rows_costs_no_more_statements_than_one_of_a_row() {
    let statements = Statements::default();
    tracing::subscriber::set_global_default(statements.clone()).unwrap();
    let world = World::new().await;
    let _first = world.welcomed().await;
    world.trigger(RunType::Tracked).await;
    let config = ApiConfig {
        base_url: "https://gantry.test".to_owned(),
        session_key: Zeroizing::new(vec![7; 32]),
    };
    let router = http::router(world.control_plane.operations(), config);
    let key = create_key(&world.control_plane.core, "test", "tester").await.unwrap();
    let login = "mutation($id:ID!$secret:String!){apiKeyUser(id:$id,secret:$secret){jwt}}";
    let variables = json!({ "id": key.id, "secret": key.secret.as_str() });
    let mut session = ask(&router, None, login, &variables).await;
    let session = session["apiKeyUser"]["jwt"].take();
    let variables = json!({ "stack": world.stack.as_str(), "pool": world.pool.to_string() });
    let mut costs = Vec::new();
    for rows in [1, 20] {
        for n in 1..rows {
            let stack = world.add_stack(&format!("network-{n}"), false).await;
            world.trigger_of(&stack, RunType::Tracked).await;
            world.trigger(RunType::Proposed).await;
            world.trigger(RunType::Tracked).await;
            drop(world.welcomed().await);
        }
        let mut cost = Vec::new();
        for (query, place) in LISTS {
            let before = statements.0.load(Ordering::SeqCst);
            let answer = ask(&router, session.as_str(), query, &variables).await;
            cost.push((query, statements.0.load(Ordering::SeqCst) - before));
            let listed = answer.pointer(place).unwrap().as_array().unwrap().len();
            assert!(listed >= rows || place == "/workerPools", "{listed} rows: {query}");
        }
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0].iter().all(|(_, cost)| (1..=8).contains(cost)), "{costs:?}");
}
