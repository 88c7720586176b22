//! What is too much is refused.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures::StreamExt as _;
use serde_json::json;

use super::harness::Server;

#[tokio::test]
async fn a_deep_or_broad_query_is_refused() {
    let server = Server::start().await;
    let deep = format!(
        "{{stack(id:\"a\"){}id{}}}",
        "{run(id:\"b\"){stack".repeat(10) + "{",
        "}".repeat(21)
    );
    let message = server.fail(&deep, json!({})).await;
    assert!(message.contains("nested too deep"), "{message}");
    let field = "stacks{runs{stack{runs{id}}}}";
    let broad: Vec<String> = (0..50).map(|n| format!("a{n}:{field}")).collect();
    let message = server.fail(&format!("{{{}}}", broad.join(" ")), json!({})).await;
    assert!(message.contains("too complex"), "{message}");
}

#[tokio::test]
async fn a_query_that_names_itself_ends() {
    let server = Server::start().await;
    let query = "{stacks{...f}} fragment f on Stack{workerPool{id} ...f}";
    let message = server.fail(query, json!({})).await;
    assert!(message.contains("the fragment f contains itself"), "{message}");
}

/// `fragment F0 on Query{...F1 ...F1}` and so on: walked as the library does, 2^27 steps.
fn doubling() -> String {
    let mut query = "{...F0}".to_owned();
    for n in 0..26 {
        let next = n + 1;
        write!(query, " fragment F{n} on Query{{...F{next} ...F{next}}}").unwrap();
    }
    query + " fragment F26 on Query{__typename}"
}

// The runtime of this test has one thread: a query that calculated on it would keep everything else
// from ever being answered, and the test from ending.
#[tokio::test]
async fn a_query_that_doubles_itself_freezes_nothing() {
    let server = Server::start().await;
    for jwt in [None, Some(server.jwt.as_str())] {
        let query = doubling();
        let asked = (0..20).map(|_| server.send(&query, json!({}), jwt));
        let health = server.raw(Request::get("/healthz").body(Body::empty()).unwrap());
        let (answers, health) = tokio::join!(futures::future::join_all(asked), health);
        assert_eq!(health.status(), StatusCode::OK);
        for answer in answers {
            let message = answer["errors"][0]["message"].as_str().unwrap();
            let expected = if jwt.is_some() { "with all fragments" } else { "unauthorized" };
            assert!(message.contains(expected), "{message}");
        }
    }
}

#[tokio::test]
async fn what_nests_for_ever_does_not_take_the_stack() {
    let server = Server::start().await;
    for part in ["{a(b:[", "{a{", "{a(b:{c:", "{...{"] {
        let message = server.fail(&part.repeat(60_000 / part.len()), json!({})).await;
        assert!(message.contains("brackets in each other"), "{message}");
    }
}

#[tokio::test]
async fn a_description_of_the_schema_does_not_multiply_itself() {
    let server = Server::start().await;
    let parts = "types{fields{type{".to_owned() + &"fields{type{".repeat(3);
    let query = format!("{{__schema{{{parts}name{}}}}}", "}".repeat(9));
    let message = server.fail(&query, json!({})).await;
    assert!(message.contains("entries of the schema"), "{message}");
    let usual = "{__schema{queryType{name}types{kind name description fields(includeDeprecated:true){\
        name args{...V} type{...T}} inputFields{...V} enumValues{name} possibleTypes{...T}}\
        directives{name args{...V}}}} fragment V on __InputValue{name type{...T} defaultValue}\
        fragment T on __Type{kind name ofType{kind name ofType{kind name ofType{kind name}}}}";
    server.ask(usual, json!({})).await;
}

async fn status(server: &Server, body: String) -> StatusCode {
    let request = Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
    server.raw(request.body(Body::from(body)).unwrap()).await.status()
}

#[tokio::test]
async fn who_has_no_session_cannot_ask_for_much_at_once() {
    let server = Server::start().await;
    let tries: Vec<String> =
        (0..30).map(|n| format!("a{n}:apiKeyUser(id:\"{n}\",secret:\"x\"){{jwt}}")).collect();
    let query = format!("mutation{{{}}}", tries.join(" "));
    let answer = server.send(&query, json!({}), None).await;
    assert_eq!(answer["errors"][0]["message"], "unauthorized", "{answer}");
    let long = json!({ "query": "{viewer{id}}", "variables": { "a": "x".repeat(10_000) } });
    assert_eq!(status(&server, long.to_string()).await, StatusCode::PAYLOAD_TOO_LARGE);
    server.ask("{viewer{id}}", json!({ "a": "x".repeat(200_000) })).await;
}

#[tokio::test]
async fn of_a_body_no_more_is_taken_than_is_allowed() {
    let server = Server::start().await;
    for (jwt, most) in [(None, 8 * 1024), (Some(&server.jwt), 4 << 20)] {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        // Its length is not known beforehand, and it has no end.
        let body = futures::stream::repeat_with(move || {
            counted.fetch_add(1024, Ordering::SeqCst);
            Ok::<_, std::io::Error>("x".repeat(1024))
        });
        let mut request = Request::post("/graphql");
        if let Some(jwt) = jwt {
            request = request.header(header::AUTHORIZATION, format!("Bearer {jwt}"));
        }
        let response = server.raw(request.body(Body::from_stream(body)).unwrap()).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let taken = taken.load(Ordering::SeqCst);
        assert!(taken <= most + 1024, "{taken}");
    }
}

#[tokio::test]
async fn a_request_has_to_come_in_time() {
    let server = Server::start().await;
    tokio::time::pause();
    let begun = futures::stream::iter([Ok::<_, std::io::Error>("{\"query\":")]);
    let body = Body::from_stream(begun.chain(futures::stream::pending()));
    let response = server.raw(Request::post("/graphql").body(body).unwrap()).await;
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn what_is_no_request_or_too_long_is_told_by_its_status() {
    let server = Server::start().await;
    assert_eq!(status(&server, "nonsense".into()).await, StatusCode::BAD_REQUEST);
    assert_eq!(status(&server, "[]".into()).await, StatusCode::BAD_REQUEST);
    let query = format!("{{\"query\":\"{{viewer{{id}}}}{}\"}}", " ".repeat(70_000));
    let bearer = format!("Bearer {}", server.jwt);
    let long = Request::post("/graphql").header(header::AUTHORIZATION, bearer);
    let answer = server.raw(long.body(Body::from(query)).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(status(&server, " ".repeat(5 << 20)).await, StatusCode::PAYLOAD_TOO_LARGE);
    let get = Request::get("/graphql").body(Body::empty()).unwrap();
    assert_eq!(server.raw(get).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}
