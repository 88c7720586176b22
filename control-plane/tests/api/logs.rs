//! Logs: by state for public clients, as a stream for ours.

use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use gantry_control_plane::objects::Objects as _;
use serde_json::{Value, json};

use super::harness::{NOW, Server, bytes};

/// A server with a run that a worker tried once, with this log of its plan.
async fn with_log(parts: &[&'static [u8]]) -> (Server, String) {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let run = server.run("net").await;
    let mut transaction = server.control_plane.core.store().begin().await.unwrap();
    let now = i64::try_from(NOW).unwrap();
    sqlx::query("INSERT INTO attempts (run, epoch, stage, worker, offered_at, granted_at, is_log_complete, is_reported) VALUES ($1, 1, 'read', $2, $3, $3, 0, 1)")
        .bind(&run)
        .bind(&run)
        .bind(now)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let mut start = 0;
    for (n, part) in parts.iter().enumerate() {
        let key = format!("log/{run}/1/{n}");
        server.objects.put(&key, (*part).into()).await.unwrap();
        let length = i64::try_from(part.len()).unwrap();
        sqlx::query("INSERT INTO segments (run, epoch, stage, section, start, length, sha256, key, run_start) VALUES ($1, 1, 'read', 2, $2, $3, $4, $5, $2)")
            .bind(&run)
            .bind(start)
            .bind(length)
            .bind(gantry_protocol::Digest::of(part).to_string())
            .bind(key)
            .execute(&mut *transaction)
            .await
            .unwrap();
        start += length;
    }
    sqlx::query("INSERT INTO history (run, n, state, at) SELECT $1, max(n) + 1, 'PLANNING', $2 FROM history WHERE run = $1")
        .bind(&run)
        .bind(now)
        .execute(&mut *transaction)
        .await
        .unwrap();
    sqlx::query("UPDATE runs SET log_length = $2, history_count = history_count + 1 WHERE id = $1")
        .bind(&run)
        .bind(start)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    (server, run)
}

async fn get(server: &Server, path: &str, accept: &str) -> Response<Body> {
    let request = Request::get(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", server.jwt))
        .header(header::ACCEPT, accept);
    server.raw(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn what_is_stored_is_given_as_it_is() {
    let (server, run) = with_log(&[b"\x1b[1mfirst\x1b[0m\n", b"\xffsecond\n"]).await;
    let whole = b"\x1b[1mfirst\x1b[0m\n\xffsecond\n";
    for from in [0, 3, whole.len(), whole.len() + 1] {
        let response = get(&server, &format!("/runs/{run}/log?from={from}"), "*/*").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(bytes(response).await, whole[from.min(whole.len())..], "{from}");
    }
}

#[tokio::test]
async fn a_log_is_for_those_with_a_session() {
    let (server, run) = with_log(&[b"secret"]).await;
    let request = Request::get(format!("/runs/{run}/log")).body(Body::empty()).unwrap();
    assert_eq!(server.raw(request).await.status(), StatusCode::UNAUTHORIZED);
    for path in ["/runs/01J00000000000000000000000/log", "/runs/x/log", "/runs/..%2F..%2Fetc/log"] {
        assert_eq!(get(&server, path, "*/*").await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_follower_gets_states_and_log_and_the_end() {
    let (server, run) = with_log(&[b"first\n", b"second\n"]).await;
    let path = format!("/runs/{run}/log");
    let response = get(&server, &path, "text/event-stream").await;
    let stop = "mutation($run:ID!){runStop(stack:\"net\",run:$run,note:\"enough\"){id}}";
    server.ask(stop, json!({ "run": run })).await;
    let text = String::from_utf8(bytes(response).await).unwrap();
    let (mut states, mut log, mut end) = (vec![], vec![], None);
    for event in text.split("\n\n").filter(|event| event.contains("event: ")) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
        match field("event: ").unwrap() {
            "state" => {
                // The last one comes behind the end of the log.
                assert!(data["state"] != "CANCELED" || log == b"first\nsecond\n");
                states.push(data["state"].as_str().unwrap().to_owned());
            }
            "log" => {
                assert_eq!(data["from"], log.len());
                log.extend(STANDARD.decode(data["data"].as_str().unwrap()).unwrap());
                assert_eq!(field("id: "), Some(log.len().to_string().as_str()));
            }
            "end" => end = Some(data["state"].clone()),
            other => panic!("{other}"),
        }
    }
    assert_eq!(log, b"first\nsecond\n");
    assert_eq!(end, Some(json!("CANCELED")));
    assert_eq!(states.first().map(String::as_str), Some("QUEUED"));
    assert_eq!(states.last().map(String::as_str), Some("CANCELED"));
    let again = Request::get(&path)
        .header(header::AUTHORIZATION, format!("Bearer {}", server.jwt))
        .header(header::ACCEPT, "text/event-stream")
        .header("Last-Event-ID", "6");
    let rest = server.raw(again.body(Body::empty()).unwrap()).await;
    let rest = String::from_utf8(bytes(rest).await).unwrap();
    assert!(rest.contains(&STANDARD.encode("second\n")) && rest.contains("\"from\":6"), "{rest}");
}

#[tokio::test]
async fn a_follower_hears_nothing_after_its_key_was_revoked() {
    let (server, run) = with_log(&[b"first\n"]).await;
    let response = get(&server, &format!("/runs/{run}/log"), "text/event-stream").await;
    let mut events = response.into_body().into_data_stream();
    while !String::from_utf8_lossy(&events.next().await.unwrap().unwrap()).contains("event: log") {}
    let mut transaction = server.control_plane.core.store().begin().await.unwrap();
    sqlx::query("UPDATE api_keys SET revoked_at = 1").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let waits = events.next();
    let stop = server.control_plane.runs.stop("ann", run.parse().unwrap(), None);
    let (rest, stopped) = futures::join!(waits, stop);
    stopped.unwrap();
    assert!(rest.is_none(), "{rest:?}");
}

#[tokio::test]
async fn public_clients_read_by_state_and_token() {
    let (server, run) = with_log(&["grün\n".as_bytes()]).await;
    let query = "query($run:ID!$stack:ID!$state:RunState!$stateVersion:Int!$token:String){stack(id: $stack){run(id: $run)\
        {history{state,stateVersion,hasLogs},logs(state: $state, token: $token, stateVersion: $stateVersion)\
        {exists,finished,hasMore,messages{message},nextToken}}}}";
    let mut variables = json!({ "run": run, "stack": "net", "state": "PLANNING", "stateVersion": 1, "token": null });
    let history = server.ask(query, variables.clone()).await["stack"]["run"]["history"].take();
    let newest = &history[0];
    assert_eq!((&newest["state"], &newest["hasLogs"]), (&json!("PLANNING"), &json!(true)));
    variables["stateVersion"] = newest["stateVersion"].clone();
    let logs = server.ask(query, variables.clone()).await["stack"]["run"]["logs"].take();
    assert_eq!(logs["messages"], json!([{ "message": "grün\n" }]));
    assert_eq!((&logs["exists"], &logs["nextToken"]), (&json!(true), &json!("6")));
    variables["token"] = logs["nextToken"].clone();
    let logs = server.ask(query, variables.clone()).await["stack"]["run"]["logs"].take();
    assert_eq!((&logs["messages"], &logs["hasMore"]), (&json!([]), &json!(false)));
    variables["token"] = json!("nonsense");
    assert!(server.fail(query, variables).await.contains("token"));
}
