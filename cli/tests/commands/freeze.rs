//! The real server, and queries that would have frozen it.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;

/// Nothing takes so long unless the server stands still.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client with a connection of its own, and so with a TLS handshake of its own.
fn client(ca: &[u8]) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(ca).unwrap();
    reqwest::Client::builder().tls_certs_only([ca]).timeout(PATIENCE).build().unwrap()
}

#[test]
fn a_query_that_doubles_itself_freezes_no_server() {
    let _already_chosen = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = Server::start();
    let admin = fs::read(server.folder.path().join("data/admin.json")).unwrap();
    let admin: Value = serde_json::from_slice(&admin).unwrap();
    let (url, ca) = (admin["endpoint"].as_str().unwrap(), admin["ca"].as_str().unwrap().as_bytes());
    let ask = async |query: &str, jwt: Option<&str>| {
        let variables = json!({ "id": admin["key_id"], "secret": admin["key_secret"] });
        let body = json!({ "query": query, "variables": variables }).to_string();
        let mut request = client(ca).post(format!("{url}/graphql")).body(body);
        if let Some(jwt) = jwt {
            request = request.bearer_auth(jwt);
        }
        let answer = request.send().await.unwrap().bytes().await.unwrap();
        serde_json::from_slice::<Value>(&answer).unwrap()
    };
    let mut doubling = "{...F0}".to_owned();
    for n in 0..26 {
        let next = n + 1;
        write!(doubling, " fragment F{n} on Query{{...F{next} ...F{next}}}").unwrap();
    }
    doubling += " fragment F26 on Query{__typename}";

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let login = "mutation($id:ID!$secret:String!){apiKeyUser(id:$id,secret:$secret){jwt}}";
        let session = ask(login, None).await;
        let jwt = session["data"]["apiKeyUser"]["jwt"].as_str().unwrap();
        let deep = "{a(b:[".repeat(10_000);
        for (query, jwt, expected) in [
            (&doubling, None, "unauthorized"),
            (&doubling, Some(jwt), "with all fragments"),
            (&deep, Some(jwt), "brackets in each other"),
        ] {
            let asked = futures::future::join_all((0..12).map(|_| ask(query, jwt)));
            let health = client(ca).get(format!("{url}/healthz")).send();
            let (answers, health) = tokio::join!(asked, health);
            assert_eq!(health.unwrap().status(), 200);
            for answer in answers {
                let message = answer["errors"][0]["message"].as_str().unwrap();
                assert!(message.contains(expected), "{message}");
            }
        }
    });
}
