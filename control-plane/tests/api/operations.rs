//! What only Gantry has: recipients, sealed secrets, sources, and who did what.

use axum::body::Body;
use axum::http::{Request, header};
use gantry_protocol::{PoolKey, PublicKey, Recipient, seal_bytes};
use serde_json::{Value, json};

use super::clients;
use super::harness::{Server, bytes};

const RECIPIENTS: &str =
    "query($id:ID!){workerPool(id:$id){recipients{kind,fingerprint,publicKey}}}";

async fn recovery(server: &Server) -> PoolKey {
    let key = PoolKey::generate(2048).unwrap();
    let set = "mutation($publicKey:String!){recoveryKeySet(publicKey:$publicKey){fingerprint}}";
    let answer = server.ask(set, json!({ "publicKey": key.public().to_pem().unwrap() })).await;
    assert_eq!(answer["recoveryKeySet"]["fingerprint"], key.public().fingerprint().to_string());
    key
}

#[tokio::test]
async fn durable_things_are_sealed_to_pool_and_recovery_key() {
    let server = Server::start().await;
    assert_eq!(
        server.ask("{recoveryKey{fingerprint}}", json!({})).await["recoveryKey"],
        Value::Null
    );
    let recovery = recovery(&server).await;
    let (pool, key) = server.pool("network").await;
    let answer = server.ask(RECIPIENTS, json!({ "id": pool })).await;
    let mut named: Vec<(String, String)> = answer["workerPool"]["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let public = PublicKey::parse(it["publicKey"].as_str().unwrap().as_bytes()).unwrap();
            assert_eq!(it["fingerprint"], public.fingerprint().to_string());
            (it["kind"].as_str().unwrap().to_owned(), public.fingerprint().to_string())
        })
        .collect();
    named.sort();
    let of = |kind: &str, key: &PoolKey| (kind.to_owned(), key.public().fingerprint().to_string());
    assert_eq!(named, [of("POOL", &key), of("RECOVERY", &recovery)]);
    let again = PoolKey::generate(2048).unwrap().public().to_pem().unwrap();
    let set = "mutation($publicKey:String!){recoveryKeySet(publicKey:$publicKey){fingerprint}}";
    server.fail(set, json!({ "publicKey": again })).await;
}

#[tokio::test]
async fn sealed_secrets_are_taken_and_never_given_back() {
    let server = Server::start().await;
    let (pool, key) = server.pool("network").await;
    server.stack("net", &pool).await;
    let set = "mutation($secrets:SealedSecretsInput!){stackSecretsSet(stack:\"net\",secrets:$secrets){secretsVersion}}";
    let sealed = seal_bytes(&[Recipient::new(key.public().clone()).unwrap()], b"{}").unwrap();
    let sealed = serde_json::to_value(&sealed).unwrap();
    for version in 1..=2 {
        let answer = server.ask(set, json!({ "secrets": sealed })).await;
        assert_eq!(answer["stackSecretsSet"]["secretsVersion"], version);
    }
    let message =
        server.fail(set, json!({ "secrets": { "header": "AAAA", "payload": "AAAA" } })).await;
    assert!(!message.is_empty());
    assert!(
        !gantry_control_plane::http::sdl().contains("payload: String!\n}\n\ntype"),
        "no type has a payload"
    );
}

#[tokio::test]
async fn an_uploaded_source_is_used_by_later_runs() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let source = server.source("net", b"another archive").await;
    assert!(source["size"].as_u64() > Some(15), "it is kept sealed: {source}");
    let query = "{stack(id:\"net\"){source{id,sha256,size,author,message}}}";
    let shown = server.ask(query, json!({})).await["stack"]["source"].take();
    assert_eq!((&shown["id"], &shown["author"]), (&source["id"], &json!("tester")));
    let run = server.run("net").await;
    let query = "query($id:ID!){run(id:$id){commit{hash},stack{id},logLength,attempts{epoch},outputs{name}}}";
    let shown = server.ask(query, json!({ "id": run })).await["run"].take();
    assert_eq!(shown["commit"]["hash"], source["sha256"]);
    assert_eq!(shown["logLength"], 0);
}

#[tokio::test]
async fn what_a_client_attaches_is_kept_with_the_run() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let body =
        json!({ "query": clients::RUN_TRIGGER, "variables": { "stack": "net" } }).to_string();
    let request = Request::post("/graphql")
        .header(header::AUTHORIZATION, format!("Bearer {}", server.jwt))
        .header("Spacelift-User-Provided-Run-Metadata", "ticket 7")
        .body(Body::from(body))
        .unwrap();
    let answer: Value = serde_json::from_slice(&bytes(server.raw(request).await).await).unwrap();
    let run = &answer["data"]["runTrigger"]["id"];
    let query = "query($id:ID!){run(id:$id){userProvidedMetadata,triggeredBy,type}}";
    let shown = server.ask(query, json!({ "id": run })).await["run"].take();
    assert_eq!(shown["userProvidedMetadata"], json!(["ticket 7"]));
    assert_eq!(shown["triggeredBy"], "api::tester");
    assert_eq!(shown["type"], "TRACKED");
}

#[tokio::test]
async fn a_run_of_another_stack_is_not_found() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    server.stack("other", &pool).await;
    let run = server.run("net").await;
    let query = "query($run:ID!){stack(id:\"other\"){run(id:$run){id}}}";
    assert_eq!(server.ask(query, json!({ "run": run })).await["stack"]["run"], Value::Null);
    let stop = "mutation($note:String!$run:ID!$stack:ID!){runStop(stack: $stack, run: $run, note: $note){id}}";
    let message = server.fail(stop, json!({ "run": run, "stack": "other", "note": "" })).await;
    assert!(message.contains("not found"), "{message}");
    server.ask(stop, json!({ "run": run, "stack": "net", "note": "enough" })).await;
    let query = "query($id:ID!){run(id:$id){state,finished}}";
    let shown = server.ask(query, json!({ "id": run })).await["run"].take();
    assert_eq!(shown, json!({ "state": "CANCELED", "finished": true }));
}

#[tokio::test]
async fn a_change_is_finished_though_its_client_hangs_up() {
    let server = Server::start().await;
    let csr = gantry_protocol::CertificateRequest::create(&PoolKey::generate(2048).unwrap());
    let variables = json!({ "name": "network", "csr": csr.unwrap().to_base64(),
        "description": "", "drift_detection_run_limit": -1 });
    let body = json!({ "query": clients::POOL_CREATE, "variables": variables }).to_string();
    let request = Request::post("/graphql")
        .header(header::AUTHORIZATION, format!("Bearer {}", server.jwt))
        .body(Body::from(body))
        .unwrap();
    // It waits for the one who changes something at this moment, and its client does not.
    let other = server.control_plane.core.store().begin().await.unwrap();
    let mut asked = Box::pin(server.raw(request));
    while futures::poll!(Box::pin(server.control_plane.changes.changes_done())).is_ready() {
        assert!(futures::poll!(&mut asked).is_pending());
        tokio::task::yield_now().await;
    }
    drop(asked);
    other.commit().await.unwrap();
    server.control_plane.changes.changes_done().await;
    let pools = server.control_plane.pools.pools().await.unwrap();
    assert_eq!(pools.len(), 1);
    let recipients = server.control_plane.stacks.recipients_of_pool(pools[0].id).await;
    assert_eq!(recipients.unwrap().len(), 1, "it is admitted");
}

#[tokio::test]
async fn what_is_said_about_a_stack_is_kept() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    let input = json!({ "name": "net", "administrative": false, "autodeploy": false,
        "autoretry": false, "branch": "main", "repository": "infrastructure", "namespace": "acme",
        "provider": "GITHUB", "description": "the network", "workerPool": pool });
    let variables = json!({ "input": input, "manageState": true, "slug": "net" });
    server.ask(clients::STACK_CREATE, variables).await;
    let query = "{stack(id:\"net\"){branch,repository,namespace,provider,description}}";
    let shown = server.ask(query, json!({})).await["stack"].take();
    let kept = json!({ "branch": "main", "repository": "infrastructure", "namespace": "acme",
        "provider": "GITHUB", "description": "the network" });
    assert_eq!(shown, kept);
    let input = json!({ "name": "x", "branch": "x".repeat(300), "workerPool": pool });
    let message =
        server.fail(clients::STACK_CREATE, json!({ "input": input, "manageState": true })).await;
    assert!(message.starts_with("branch: "), "{message}");
}

#[tokio::test]
async fn a_stack_is_in_the_state_of_its_newest_run_that_may_change_something() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    server.stack("idle", &pool).await;
    server.run("net").await;
    let variables = json!({ "stack": "net", "type": "PROPOSED" });
    for _ in 0..60 {
        server.ask(clients::RUN_TRIGGER, variables.clone()).await;
    }
    let query = "{stack(id:\"net\"){state} metrics{stacksCountByState{value,labels}}}";
    let shown = server.ask(query, json!({})).await;
    assert_eq!(shown["stack"]["state"], "READY");
    let counts =
        json!([{ "value": 1.0, "labels": ["NONE"] }, { "value": 1.0, "labels": ["READY"] }]);
    assert_eq!(shown["metrics"]["stacksCountByState"], counts);
}

#[tokio::test]
async fn numbers_that_a_launcher_made_up_are_shown_all_the_same() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let run = server.run("net").await;
    let mut transaction = server.control_plane.core.store().begin().await.unwrap();
    let most = u64::MAX;
    sqlx::query("UPDATE runs SET delta = $2 WHERE id = $1")
        .bind(&run)
        .bind(json!({ "add": most, "change": most, "delete": most }).to_string())
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let query = "query($id:ID!){run(id:$id){delta{resources}}}";
    let shown = server.ask(query, json!({ "id": run })).await;
    assert_eq!(shown["run"]["delta"]["resources"], i32::MAX);
}

#[tokio::test]
async fn a_run_keeps_the_name_that_its_key_had() {
    let server = Server::start().await;
    let (pool, _) = server.pool("network").await;
    server.stack("net", &pool).await;
    let run = server.run("net").await;
    let mut transaction = server.control_plane.core.store().begin().await.unwrap();
    let rename = sqlx::query("UPDATE api_keys SET name = 'renamed'");
    rename.execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let query = "query($id:ID!){run(id:$id){triggeredBy}}";
    let shown = server.ask(query, json!({ "id": run })).await;
    assert_eq!(shown["run"]["triggeredBy"], "api::tester");
    let later = server.run("net").await;
    let shown = server.ask(query, json!({ "id": later })).await;
    assert_eq!(shown["run"]["triggeredBy"], "api::renamed");
}

#[tokio::test]
async fn changes_are_in_the_audit() {
    let server = Server::start().await;
    server.pool("network").await;
    let mut connection = server.control_plane.core.store().read().await.unwrap();
    let actors: Vec<String> = sqlx::query_scalar("SELECT actor FROM audit ORDER BY id")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    assert_eq!(actors, ["test", "api::tester"]);
}
