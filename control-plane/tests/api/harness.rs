//! A control plane with its API, and a client of it.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use gantry_control_plane::authority::Issuer;
use gantry_control_plane::clock::FakeClock;
use gantry_control_plane::http::{self, ApiConfig};
use gantry_control_plane::ids::Ids;
use gantry_control_plane::objects::FakeObjects;
use gantry_control_plane::server::{Parts, Services};
use gantry_model::{LeaseTerms, Timestamp};
use gantry_protocol::{Authority, CertificateRequest, PoolKey};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use zeroize::Zeroizing;

use crate::database::Database;

pub const URL: &str = "https://gantry.test";
pub const NOW: u64 = 1_795_264_800_000;

/// A server and who uses it.
pub struct Server {
    pub control_plane: Services,
    pub clock: Arc<FakeClock>,
    pub objects: FakeObjects,
    pub router: Router,
    pub key_id: String,
    pub key_secret: String,
    pub jwt: String,
    _database: Database,
}

impl Server {
    pub async fn start() -> Self {
        let database = Database::new();
        let clock = Arc::new(FakeClock::at(Timestamp(NOW)));
        let objects = FakeObjects::new();
        let control_plane = control_plane(&database, &clock, &objects).await;
        let key = gantry_control_plane::keys::create_key(&control_plane.core, "test", "tester")
            .await
            .unwrap();
        let config =
            ApiConfig { base_url: URL.to_owned(), session_key: Zeroizing::new(vec![7; 32]) };
        let router = http::router(control_plane.operations(), config);
        let mut server = Self {
            control_plane,
            clock,
            objects,
            router,
            key_id: key.id,
            key_secret: key.secret.to_string(),
            jwt: String::new(),
            _database: database,
        };
        server.jwt = server.login().await;
        server
    }

    pub async fn login(&self) -> String {
        let query = "mutation($id:ID!$secret:String!){apiKeyUser(id: $id, secret: $secret){jwt,validUntil}}";
        let variables = json!({ "id": self.key_id, "secret": self.key_secret });
        let answer = self.send(query, variables, None).await;
        answer["data"]["apiKeyUser"]["jwt"].as_str().unwrap().to_owned()
    }

    /// Asks and takes the whole answer.
    pub async fn send(&self, query: &str, variables: Value, jwt: Option<&str>) -> Value {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let mut request =
            Request::post("/graphql").header(header::CONTENT_TYPE, "application/json");
        if let Some(jwt) = jwt {
            request = request.header(header::AUTHORIZATION, format!("Bearer {jwt}"));
        }
        let response = self.raw(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{query}");
        serde_json::from_slice(&bytes(response).await).unwrap()
    }

    pub async fn raw(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// What a query answers that must not fail.
    pub async fn ask(&self, query: &str, variables: Value) -> Value {
        let mut answer = self.send(query, variables, Some(&self.jwt)).await;
        assert_eq!(answer.get("errors"), None, "{query}");
        answer["data"].take()
    }

    /// The message with which a query fails that must fail.
    pub async fn fail(&self, query: &str, variables: Value) -> String {
        let answer = self.send(query, variables, Some(&self.jwt)).await;
        answer["errors"][0]["message"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Makes a pool as the public Terraform provider does; answers its id and key.
    pub async fn pool(&self, name: &str) -> (String, PoolKey) {
        let key = PoolKey::generate(2048).unwrap();
        let csr = CertificateRequest::create(&key).unwrap().to_base64();
        let answer = self.ask(super::clients::POOL_CREATE, json!({
            "csr": csr, "description": "for tests", "drift_detection_run_limit": -1, "labels": ["a"],
            "name": name, "space": "root",
        }));
        let id = answer.await["workerPoolCreate"]["id"].as_str().unwrap().to_owned();
        (id, key)
    }

    /// Makes a stack with a source.
    pub async fn stack(&self, slug: &str, pool: &str) {
        let input = json!({
            "name": slug, "administrative": false, "autodeploy": false, "autoretry": false,
            "branch": "main", "githubActionDeploy": false, "localPreviewEnabled": false,
            "protectFromDeletion": false, "repository": "", "workerPool": pool,
        });
        let variables = json!({ "input": input, "manageState": true, "slug": slug });
        self.ask(super::clients::STACK_CREATE, variables).await;
        self.source(slug, b"an archive").await;
    }

    pub async fn source(&self, stack: &str, archive: &'static [u8]) -> Value {
        use gantry_control_plane::objects::Objects as _;
        let upload = "mutation($stack:ID!){sourceUpload(stack:$stack){id,uploadUrl,uploadHeaders{entries{key,value}}}}";
        let upload = self.ask(upload, json!({ "stack": stack })).await["sourceUpload"].take();
        let header = &upload["uploadHeaders"]["entries"][0];
        assert_eq!((&header["key"], &header["value"]), (&json!("If-None-Match"), &json!("*")));
        let url = upload["uploadUrl"].as_str().unwrap();
        let key = FakeObjects::key_of_url(url).unwrap();
        self.objects.put(key, archive.into()).await.unwrap();
        let use_it = "mutation($id:ID!$sha256:String!$size:Long!$stack:ID!){\
            sourceUse(stack:$stack,id:$id,sha256:$sha256,size:$size,message:\"first\"){id,sha256,size}}";
        let variables = json!({
            "stack": stack, "id": upload["id"], "size": archive.len(),
            "sha256": gantry_protocol::Digest::of(archive).to_string(),
        });
        self.ask(use_it, variables).await["sourceUse"].take()
    }

    /// Triggers a run; answers its id.
    pub async fn run(&self, stack: &str) -> String {
        let variables =
            json!({ "stack": stack, "type": "TRACKED", "sha": null, "runtimeConfig": null });
        let answer = self.ask(super::clients::RUN_TRIGGER, variables).await;
        answer["runTrigger"]["id"].as_str().unwrap().to_owned()
    }
}

async fn control_plane(
    database: &Database,
    clock: &Arc<FakeClock>,
    objects: &FakeObjects,
) -> Services {
    let seconds = i64::try_from(NOW / 1000).unwrap();
    let issuer = Issuer::new(
        Authority::generate(seconds).unwrap(),
        "127.0.0.1:1984".parse().unwrap(),
        "gantry".parse().unwrap(),
        Some(URL.to_owned()),
    );
    let parts = Parts {
        store: database.open().await,
        clock: Arc::clone(clock) as _,
        objects: Arc::new(objects.clone()),
        issuer: Arc::new(issuer),
        ids: Ids::random(),
        terms: LeaseTerms::default(),
    };
    Services::new(parts).await.unwrap()
}

pub async fn bytes(response: Response<Body>) -> Vec<u8> {
    to_bytes(response.into_body(), 64 << 20).await.unwrap().to_vec()
}
