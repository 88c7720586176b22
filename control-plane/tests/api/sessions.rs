//! Who may ask.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::harness::{Server, URL, bytes};

const LOGIN: &str =
    "mutation($id:ID!$secret:String!){apiKeyUser(id: $id, secret: $secret){jwt,validUntil}}";

#[tokio::test]
async fn without_a_session_every_field_but_the_login_is_unauthorized() {
    let server = Server::start().await;
    for query in [
        "{viewer{id,name}}",
        "{workerPools(){id}}",
        "{debugInfo{selfHostedVersion}}",
        "{a:stacks{id}}",
        "{...on Query{stacks{id}}}",
        "query{...f} fragment f on Query{stacks{id}}",
        "mutation{runConfirm(stack:\"a\",run:\"b\"){id}}",
        "mutation{recoveryKeySet(publicKey:\"\"){fingerprint}}",
    ] {
        for jwt in [None, Some("nonsense"), Some("")] {
            let answer = server.send(query, json!({}), jwt).await;
            assert_eq!(answer["errors"][0]["message"], "unauthorized", "{query}");
            assert_eq!(answer["data"], Value::Null, "{query}");
        }
    }
    let schema = server.send("{__schema{types{name}}}", json!({}), None).await;
    assert!(!schema.to_string().contains("WorkerPool"), "{schema}");
}

#[tokio::test]
async fn a_session_is_opened_by_the_right_secret_only() {
    let server = Server::start().await;
    let wrong = [
        (server.key_id.clone(), "wrong".to_owned()),
        (server.key_id.clone(), String::new()),
        (server.key_id.clone(), "x".repeat(1000)),
        ("01J00000000000000000000000".to_owned(), server.key_secret.clone()),
        ("' OR 1=1 --".to_owned(), server.key_secret.clone()),
    ];
    for (id, secret) in wrong {
        let answer = server.send(LOGIN, json!({ "id": id, "secret": secret }), None).await;
        assert_eq!(answer, json!({ "data": { "apiKeyUser": null } }));
    }
    let viewer = server.ask("{viewer{id,name}}", json!({})).await;
    assert_eq!(viewer, json!({ "viewer": { "id": server.key_id, "name": "tester" } }));
}

#[tokio::test]
async fn logins_that_fail_have_to_wait() {
    let server = Server::start().await;
    let login = async |secret: &str| {
        server.send(LOGIN, json!({ "id": server.key_id, "secret": secret }), None).await
    };
    for _ in 0..10 {
        assert_eq!(login("wrong").await, json!({ "data": { "apiKeyUser": null } }));
    }
    // Now the right one is not looked at either: whoever guesses learns nothing.
    for secret in ["wrong", &server.key_secret] {
        let answer = login(secret).await;
        let error = &answer["errors"][0];
        assert!(error["message"].as_str().unwrap().starts_with("too many logins"), "{answer}");
        assert_eq!(error["extensions"]["code"], "TOO_MANY");
        assert_eq!(error["extensions"]["next"], "try again in 6 s");
    }
    // Who has a session does not notice.
    server.ask("{viewer{id}}", json!({})).await;
    server.clock.advance_ms(6_000);
    assert!(login(&server.key_secret).await["data"]["apiKeyUser"]["jwt"].is_string());
}

#[tokio::test]
async fn a_token_has_one_audience_and_an_end() {
    let server = Server::start().await;
    let variables = json!({ "id": server.key_id, "secret": server.key_secret });
    let answer = server.send(LOGIN, variables, None).await;
    let session = &answer["data"]["apiKeyUser"];
    let claims =
        jsonwebtoken::dangerous::insecure_decode::<Value>(session["jwt"].as_str().unwrap());
    let claims = claims.unwrap().claims;
    assert_eq!(claims["aud"], json!([URL]));
    assert_eq!(claims["exp"], session["validUntil"]);
}

#[tokio::test]
async fn a_session_ends_after_ten_hours() {
    let server = Server::start().await;
    server.clock.advance_ms(10 * 60 * 60 * 1000 - 1000);
    server.ask("{viewer{id}}", json!({})).await;
    server.clock.advance_ms(1000);
    assert_eq!(server.fail("{viewer{id}}", json!({})).await, "unauthorized");
    let jwt = server.login().await;
    let answer = server.send("{viewer{id}}", json!({}), Some(&jwt)).await;
    assert_eq!(answer.get("errors"), None);
}

#[tokio::test]
async fn a_revoked_key_ends_its_sessions() {
    let server = Server::start().await;
    let mut transaction = server.control_plane.core.store().begin().await.unwrap();
    sqlx::query("UPDATE api_keys SET revoked_at = 1").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(server.fail("{viewer{id}}", json!({})).await, "unauthorized");
}

#[tokio::test]
async fn a_token_of_another_key_or_algorithm_is_none() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let server = Server::start().await;
    let claims = json!({ "aud": [URL], "sub": server.key_id, "iat": 0, "exp": u32::MAX });
    let sign = |algorithm, key: &[u8], claims: &Value| {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(key)).unwrap()
    };
    let mut elsewhere = claims.clone();
    elsewhere["aud"] = json!(["https://elsewhere"]);
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.".to_owned();
    for token in [
        sign(Algorithm::HS256, &[8; 32], &claims),
        sign(Algorithm::HS512, &[7; 32], &claims),
        sign(Algorithm::HS256, &[7; 32], &elsewhere),
        unsigned,
    ] {
        let answer = server.send("{viewer{id}}", json!({}), Some(&token)).await;
        assert_eq!(answer["errors"][0]["message"], "unauthorized");
    }
    let right = sign(Algorithm::HS256, &[7; 32], &claims);
    assert_eq!(server.send("{viewer{id}}", json!({}), Some(&right)).await.get("errors"), None);
}

#[tokio::test]
async fn secrets_are_kept_as_salted_hashes() {
    let server = Server::start().await;
    let mut connection = server.control_plane.core.store().read().await.unwrap();
    let kept: String = sqlx::query_scalar("SELECT secret_sha256 FROM api_keys")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert!(!kept.contains(&server.key_secret), "{kept}");
    assert_eq!(kept.len(), 32 + 1 + 64, "salt and hash in hex");
}

#[tokio::test]
async fn health_certificate_and_schema_are_open() {
    let server = Server::start().await;
    for (path, part) in [
        ("/healthz", "ok"),
        ("/ca.pem", "-----BEGIN CERTIFICATE-----"),
        ("/schema.graphql", "type WorkerPool"),
    ] {
        let response = server.raw(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let text = String::from_utf8(bytes(response).await).unwrap();
        assert!(text.contains(part), "{path}: {text}");
    }
}
