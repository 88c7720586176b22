//! Two pools, the transport that their launchers poll, and launchers that do what they should not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use gantry_control_plane::tls::Peer;
use gantry_control_plane::transport::{Admissions, PollTransport};
use gantry_model::{PoolId, WorkerId};
use gantry_protocol::poll::{
    self, Code, MESSAGES, Opened, Opening, Proof, Refusal, SESSION, SESSIONS,
};
use gantry_protocol::{Authority, CertificateRequest, Digest, PoolKey, PublicKey, Serial};
use tower::ServiceExt as _;
use ulid::Ulid;

/// Who is admitted.
#[derive(Default)]
pub struct Register {
    serials: Mutex<HashMap<String, PoolId>>,
    keys: Mutex<HashMap<PoolId, PublicKey>>,
    pub owners: Mutex<HashMap<WorkerId, PoolId>>,
}

impl Register {
    pub fn revoke(&self, serial: &Serial) {
        self.serials.lock().unwrap().remove(serial.as_str());
    }
}

impl Admissions for Register {
    fn pool_of(&self, serial: &str) -> Option<PoolId> {
        self.serials.lock().unwrap().get(serial).copied()
    }

    fn key_of(&self, pool: PoolId) -> Option<PublicKey> {
        self.keys.lock().unwrap().get(&pool).cloned()
    }

    fn owner_of(&self, worker: WorkerId) -> Option<PoolId> {
        self.owners.lock().unwrap().get(&worker).copied()
    }
}

/// What a member of a pool has.
#[derive(Clone)]
pub struct Member {
    pub pool: PoolId,
    pub serial: Serial,
    pub key: PoolKey,
}

pub struct World {
    pub authority: Authority,
    pub register: Arc<Register>,
    pub transport: PollTransport,
    pub router: Router,
}

pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

pub fn pool_id(n: u128) -> PoolId {
    PoolId::from_ulid(Ulid::from_parts(1, n))
}

pub fn worker(n: u128) -> WorkerId {
    WorkerId::from_ulid(Ulid::from_parts(2, n))
}

/// A request that was refused, and why.
#[derive(Debug)]
pub struct No {
    pub status: StatusCode,
    pub refusal: Refusal,
}

impl World {
    pub fn new() -> Self {
        let authority = Authority::generate(now()).unwrap();
        let register = Arc::<Register>::default();
        let transport = PollTransport::new(register.clone(), authority.certificate_pem()).unwrap();
        let router = transport.router();
        Self { authority, register, transport, router }
    }

    /// A pool with a certificate that is admitted, and with the key that proves it.
    pub fn member(&self, pool: PoolId) -> Member {
        let key = PoolKey::generate(2048).unwrap();
        let request = CertificateRequest::create(&key).unwrap();
        let issued = self.authority.issue_pool(&request, pool, now()).unwrap();
        self.register.serials.lock().unwrap().insert(issued.serial.to_string(), pool);
        self.register.keys.lock().unwrap().insert(pool, key.public().clone());
        Member { pool, serial: issued.serial, key }
    }

    /// What this control plane is called in proofs.
    pub fn name(&self) -> Digest {
        poll::authority_name(self.authority.certificate_pem()).unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> (StatusCode, Bytes) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, body)
    }

    /// Asks for a session from an address; `peer` is whose certificate the TLS layer saw.
    pub async fn ask(
        &self,
        opening: &Opening,
        peer: Option<&Serial>,
        from: [u8; 4],
    ) -> Result<Opened, No> {
        let body = serde_json::to_vec(opening).unwrap();
        let mut request = Request::post(SESSIONS).body(Body::from(body)).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((from, 4444))));
        if let Some(serial) = peer {
            request.extensions_mut().insert(Peer(serial.clone()));
        }
        let (status, body) = self.send(request).await;
        if status == StatusCode::CREATED {
            return Ok(serde_json::from_slice(&body).unwrap());
        }
        Err(No { status, refusal: serde_json::from_slice(&body).unwrap() })
    }

    /// A challenge for whoever names this certificate.
    pub async fn challenge(&self, member: &Member) -> String {
        let no = self.ask(&opening(member, worker(1)), None, [127, 0, 0, 1]).await.unwrap_err();
        assert_eq!((no.status, no.refusal.code), (StatusCode::UNAUTHORIZED, Code::Prove));
        no.refusal.challenge.unwrap()
    }

    /// A session of a launcher whose certificate is shown.
    pub async fn open(&self, member: &Member, worker: WorkerId) -> Launcher<'_> {
        self.open_with(member, opening(member, worker)).await.unwrap()
    }

    pub async fn open_with(&self, member: &Member, opening: Opening) -> Result<Launcher<'_>, Code> {
        let opened = self.ask(&opening, Some(&member.serial), [127, 0, 0, 1]).await;
        let opened = opened.map_err(|no| no.refusal.code)?;
        Ok(Launcher { world: self, token: opened.token })
    }
}

pub fn opening(member: &Member, worker: WorkerId) -> Opening {
    let serial = member.serial.clone();
    Opening { serial, worker, keep_alive_ms: 15_000, will: None, proof: None }
}

/// An opening with the proof that this key makes of it.
pub fn proven(
    opening: Opening,
    name: &Digest,
    key: &PoolKey,
    pool: PoolId,
    challenge: &str,
) -> Opening {
    let signature = key.sign_pss(&opening.proven(name, pool, challenge)).unwrap();
    let challenge = challenge.to_owned();
    Opening { proof: Some(Proof { challenge, signature }), ..opening }
}

/// A launcher's end of a session.
pub struct Launcher<'a> {
    pub world: &'a World,
    pub token: String,
}

impl Launcher<'_> {
    fn request(&self, method: Method, path: &str, body: Body) -> Request<Body> {
        let request = Request::builder().method(method).uri(path);
        request.header("authorization", format!("Bearer {}", self.token)).body(body).unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Result<Bytes, Code> {
        let (status, body) = self.world.send(request).await;
        if status.is_success() {
            return Ok(body);
        }
        Err(serde_json::from_slice::<Refusal>(&body).unwrap().code)
    }

    /// What there is to hear, or nothing after one keep-alive.
    pub async fn fetch(&self) -> Result<Vec<Bytes>, Code> {
        let request = self.request(Method::GET, MESSAGES, Body::empty());
        let body = self.answer(request).await?;
        Ok(poll::split(&body).unwrap().into_iter().map(Bytes::copy_from_slice).collect())
    }

    pub async fn say(&self, body: impl Into<Body>) -> Result<(), Code> {
        self.answer(self.request(Method::POST, MESSAGES, body.into())).await.map(drop)
    }

    pub async fn leave(&self) -> Result<(), Code> {
        self.answer(self.request(Method::DELETE, SESSION, Body::empty())).await.map(drop)
    }
}
