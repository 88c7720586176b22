//! A pool, its launcher and what both need.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use gantry_launcher::session::fake::{Counterpart, MemoryOutgoing};
use gantry_launcher::session::{Health, Identity, Random};
use gantry_launcher::transport::Address;
use gantry_model::{Attempt, Epoch, JournalId, PoolId, RunId, Stage, WorkerId};
use gantry_protocol::message::{FromLauncher, Grant, PhaseEvent, PhaseReport, RunInHand, Step};
use gantry_protocol::{
    Authority, CertificateRequest, Endpoint, Namespace, PoolKey, PoolToken, TokenParts,
};
use tokio::sync::watch;
use ulid::Ulid;

/// One pool for all tests: keys take a while.
pub struct Pool {
    pub authority: Authority,
    pub key: PoolKey,
    pub certificate: String,
}

pub fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let authority = Authority::generate(now_unix()).unwrap();
        let key = PoolKey::generate(2048).unwrap();
        let request = CertificateRequest::create(&key).unwrap();
        let certificate = authority.issue_pool(&request, pool_id(), now_unix()).unwrap().pem;
        Pool { authority, key, certificate }
    })
}

pub fn now_unix() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

pub fn pool_id() -> PoolId {
    PoolId::from_ulid(Ulid::from_parts(1, 1))
}

pub fn worker(number: u128) -> WorkerId {
    WorkerId::from_ulid(Ulid::from_parts(2, number))
}

pub fn attempt(number: u128) -> Attempt {
    let run = RunId::from_ulid(Ulid::from_parts(3, number));
    Attempt { run, stage: Stage::Read, epoch: Epoch(1) }
}

pub fn in_hand(number: u128) -> RunInHand {
    RunInHand { attempt: attempt(number), step: Step::Started }
}

pub fn grant(number: u128) -> Grant {
    Grant { attempt: attempt(number), urls: Vec::new() }
}

/// A message of the launcher's that must not be lost.
pub fn report(number: u128) -> FromLauncher {
    let phase = gantry_model::Phase::Plan;
    PhaseReport { attempt: attempt(number), phase, event: PhaseEvent::Began }.into()
}

pub fn token(broker: Endpoint) -> PoolToken {
    PoolToken::new(TokenParts {
        broker,
        namespace: Namespace::default(),
        pool: pool_id(),
        certificate: pool().certificate.clone(),
        ca: pool().authority.certificate_pem().to_owned(),
        api: None,
    })
    .unwrap()
}

pub fn nowhere() -> Endpoint {
    "localhost:1984".parse().unwrap()
}

/// Different bytes each time, but for back-off, whose waits are always the longest possible.
#[derive(Default)]
pub struct Patient(u64);

impl Random for Patient {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 1;
        bytes.fill(0xff);
        if bytes.len() > 4 {
            bytes[..8].copy_from_slice(&self.0.to_be_bytes());
        }
    }
}

pub fn identity(token: &PoolToken, worker: WorkerId) -> Identity {
    Identity {
        address: Address { namespace: token.namespace.clone(), pool: token.pool, worker },
        broker: token.broker.clone(),
        ca: token.ca().to_owned(),
        key: pool().key.clone(),
        instance: "01J00000000000000000000000".to_owned(),
        machine: "machine".to_owned(),
        capacity: 1,
        engine: "docker".to_owned(),
        metadata: BTreeMap::from([("instance_id".to_owned(), "i-0abc".to_owned())]),
        clock: || 1_795_219_200_000,
        random: Box::new(Patient::default()),
    }
}

pub fn counterpart() -> Counterpart {
    Counterpart::new(&pool().authority, &token(nowhere()), now_unix()).unwrap()
}

pub fn outgoing() -> Arc<MemoryOutgoing> {
    Arc::new(MemoryOutgoing::new(JournalId::from_ulid(Ulid::from_parts(4, 4))))
}

pub fn healthy() -> (watch::Sender<Health>, watch::Receiver<Health>) {
    watch::channel(Health::default())
}
