//! Who the launcher is, for all of its sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{MessageId, PoolId, WorkerId};
use gantry_protocol::message::{Hello, RunInHand, VERSION, Versions};
use gantry_protocol::{CryptoError, Endpoint, PoolKey, SessionPublicKey};
use ulid::Ulid;

use crate::config::Config;
use crate::transport::Address;

/// Where random bytes come from.
pub trait Random: Send + 'static {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The random generator of this host.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandom;

impl SystemRandom {
    /// Checks once that it works.
    ///
    /// # Errors
    /// When it does not.
    pub fn new() -> Result<Self, CryptoError> {
        openssl::rand::rand_bytes(&mut [0])?;
        Ok(Self)
    }
}

impl Random for SystemRandom {
    fn fill(&mut self, bytes: &mut [u8]) {
        openssl::rand::rand_bytes(bytes).expect("it worked at the start and needs nothing since");
    }
}

/// What every `hello` of this launcher says and how it is signed.
pub struct Identity {
    /// Where its messages go.
    pub address: Address,
    /// Where the server is that launchers connect to; only for messages to people.
    pub broker: Endpoint,
    /// The authority's certificate, PEM.
    pub ca: String,
    /// Signs `hello`.
    pub key: PoolKey,
    /// One start of this process, a ULID.
    pub instance: String,
    /// The machine's id; empty if there is none.
    pub machine: String,
    /// How many runs it takes at once.
    pub capacity: u32,
    /// The container engine.
    pub engine: String,
    /// What the user says about this worker.
    pub metadata: BTreeMap<String, String>,
    /// The wall clock, only shown to people.
    pub clock: fn() -> u64,
    /// For nonces, ids and back-off.
    pub random: Box<dyn Random>,
}

impl Identity {
    /// The launcher that `config` describes.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn of(config: &Config, worker: WorkerId, engine: &str) -> Result<Self, CryptoError> {
        let mut random: Box<dyn Random> = Box::new(SystemRandom::new()?);
        Ok(Self {
            address: Address {
                namespace: config.token.namespace.clone(),
                pool: config.token.pool,
                worker,
            },
            broker: config.server(),
            ca: config.token.ca().to_owned(),
            key: config.key.clone(),
            instance: ulid(&mut *random, wall_clock_ms()).to_string(),
            machine: machine_id(),
            capacity: 1,
            engine: engine.to_lowercase(),
            metadata: config.metadata.clone(),
            clock: wall_clock_ms,
            random,
        })
    }

    /// The pool.
    #[must_use]
    pub const fn pool(&self) -> PoolId {
        self.address.pool
    }

    pub(super) fn message_id(&mut self) -> MessageId {
        MessageId::from_ulid(ulid(&mut *self.random, (self.clock)()))
    }

    /// 32 random bytes, base64.
    pub(super) fn nonce(&mut self) -> String {
        let mut bytes = [0; 32];
        self.random.fill(&mut bytes);
        STANDARD.encode(bytes)
    }

    /// Between 0 and 1.
    pub(super) fn fraction(&mut self) -> f64 {
        let mut bytes = [0; 4];
        self.random.fill(&mut bytes);
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    }

    pub(super) fn hello(
        &self,
        nonce: &str,
        session_key: SessionPublicKey,
        journal: gantry_model::JournalId,
        runs: Vec<RunInHand>,
    ) -> Hello {
        Hello {
            nonce: nonce.to_owned(),
            instance: self.instance.clone(),
            machine: self.machine.clone(),
            journal,
            runs,
            versions: Versions {
                launcher: env!("CARGO_PKG_VERSION").to_owned(),
                protocol: vec![VERSION],
            },
            capacity: self.capacity,
            engine: self.engine.clone(),
            pools: vec![self.pool()],
            metadata: self.metadata.clone(),
            clock_ms: (self.clock)(),
            session_key: session_key.to_string(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("address", &self.address)
            .field("broker", &self.broker)
            .field("instance", &self.instance)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

fn ulid(random: &mut dyn Random, now_ms: u64) -> Ulid {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    Ulid::from_parts(now_ms, u128::from_be_bytes(bytes))
}

fn wall_clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// What tells a machine from one that was cloned from the same image; containers may have none.
fn machine_id() -> String {
    let text = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = text.trim();
    let fits =
        id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits { id.to_owned() } else { String::new() }
}
