//! What is too much is refused.

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
    assert!(message.contains("recursion depth"), "{message}");
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
    assert!(answer["errors"][0]["message"].as_str().unwrap().contains("too complex"), "{answer}");
    let long = json!({ "query": "{viewer{id}}", "variables": { "a": "x".repeat(200_000) } });
    assert_eq!(status(&server, long.to_string()).await, StatusCode::PAYLOAD_TOO_LARGE);
    server.ask("{viewer{id}}", json!({ "a": "x".repeat(200_000) })).await;
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
    assert_eq!(status(&server, query).await, StatusCode::BAD_REQUEST);
    assert_eq!(status(&server, " ".repeat(5 << 20)).await, StatusCode::PAYLOAD_TOO_LARGE);
    let get = Request::get("/graphql").body(Body::empty()).unwrap();
    assert_eq!(server.raw(get).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}
