//! A journal and a control plane for tests.
//!
//! [`Counterpart`] checks what a launcher says exactly as a control plane does, and signs what it answers.
//! The wire between them is [`transport::fake`](crate::transport::fake).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_model::{JournalId, MessageId, SessionId, WorkerId};
use gantry_protocol::message::{
    Binding, Direction, Envelope, EnvelopeError, FromControlPlane, FromLauncher, Hello,
    RefusalReason, Refused, RunInHand, VERSION, Welcome,
};
use gantry_protocol::{
    Authority, CryptoError, PoolToken, PublicKey, SessionPublicKey, Signature, SigningLeaf,
};
use tokio::sync::watch;
use ulid::Ulid;

use super::{Outgoing, OutgoingError, Random, Waiting};

/// Random bytes that anyone can foretell.
#[derive(Debug, Clone, Default)]
pub struct Counting(u64);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 += 1;
            let count = self.0.to_be_bytes();
            chunk.copy_from_slice(&count[8 - chunk.len()..]);
        }
    }
}

/// A journal that forgets everything when it is dropped.
#[derive(Debug)]
pub struct MemoryOutgoing {
    journal: JournalId,
    inside: Mutex<Inside>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inside {
    runs: Vec<RunInHand>,
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
    acknowledged: u64,
    is_broken: bool,
}

impl MemoryOutgoing {
    /// An empty journal.
    #[must_use]
    pub fn new(journal: JournalId) -> Self {
        Self { journal, inside: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// Adds a message; gives its `seq`.
    ///
    /// # Panics
    /// When it cannot be spelled, which no message of a test is.
    #[expect(clippy::needless_pass_by_value, reason = "tests make it for this")]
    pub fn push(&self, message: FromLauncher) -> u64 {
        let mut inside = self.inside();
        inside.last += 1;
        let seq = inside.last;
        let id = MessageId::from_ulid(Ulid::from_parts(seq, 7));
        let waiting = Waiting::new(seq, id, &message).expect("a message can be spelled");
        inside.waiting.insert(seq, waiting);
        drop(inside);
        self.changed.send_replace(seq);
        seq
    }

    /// Sets the runs in hand.
    pub fn set_runs(&self, runs: Vec<RunInHand>) {
        self.inside().runs = runs;
    }

    /// From now on nothing can be written.
    pub fn break_disk(&self) {
        self.inside().is_broken = true;
    }

    /// The last `seq` that was acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.inside().acknowledged
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing for MemoryOutgoing {
    fn journal(&self) -> JournalId {
        self.journal
    }

    fn runs(&self) -> Vec<RunInHand> {
        self.inside().runs.clone()
    }

    fn greet(&self) -> Vec<RunInHand> {
        self.runs()
    }

    fn opened(&self, _: SessionId) {}

    fn waiting(&self, after: u64) -> Vec<Waiting> {
        self.inside().waiting.range(after + 1..).take(64).map(|(_, it)| it.clone()).collect()
    }

    fn acknowledge(&self, up_to: u64) -> Result<(), OutgoingError> {
        let mut inside = self.inside();
        if inside.is_broken {
            return Err(OutgoingError("the disk is broken".into()));
        }
        inside.waiting.retain(|seq, _| *seq > up_to);
        inside.acknowledged = inside.acknowledged.max(up_to);
        inside.last = inside.last.max(up_to);
        Ok(())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A control plane's part in sessions with one pool.
#[derive(Debug)]
pub struct Counterpart {
    leaf: SigningLeaf,
    pool: gantry_model::PoolId,
    pool_key: PublicKey,
    next: u128,
}

/// A launcher whose `hello` was checked.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its worker.
    pub worker: WorkerId,
    /// What it said.
    pub hello: Hello,
    key: SessionPublicKey,
}

/// A launcher's message, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Its id.
    pub id: MessageId,
    /// Its place in the order, if it has one.
    pub seq: Option<u64>,
    /// What it says.
    pub message: FromLauncher,
}

impl Counterpart {
    /// Speaks for `authority` to the pool of `token`.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn new(
        authority: &Authority,
        token: &PoolToken,
        now_unix: i64,
    ) -> Result<Self, CryptoError> {
        Ok(Self {
            leaf: authority.issue_signing_leaf(now_unix)?,
            pool: token.pool,
            pool_key: token.public_key().clone(),
            next: 0,
        })
    }

    /// Reads and checks a `hello`.
    ///
    /// # Errors
    /// When it is none, or not signed with the pool's key.
    pub fn meet(&self, worker: WorkerId, payload: &[u8]) -> Result<Known, EnvelopeError> {
        let direction = Direction::FromLauncher;
        let binding = Binding { direction, pool: self.pool, worker, nonce: "" };
        let message = Envelope::decode(payload)?.open(&binding, |bytes, signature| {
            Signature::from_bytes(signature.to_vec())
                .is_ok_and(|signature| self.pool_key.verify_pss(bytes, &signature).is_ok())
        })?;
        let unfit = || EnvelopeError::Signature("hello".to_owned());
        match message {
            FromLauncher::Hello(hello) => {
                let key = hello.session_key.parse().map_err(|_| unfit())?;
                Ok(Known { worker, hello, key })
            }
            FromLauncher::Heartbeat(_)
            | FromLauncher::Claim(_)
            | FromLauncher::Decline(_)
            | FromLauncher::Phase(_)
            | FromLauncher::Segment(_)
            | FromLauncher::State(_)
            | FromLauncher::Workspace(_)
            | FromLauncher::Decision(_)
            | FromLauncher::Outputs(_)
            | FromLauncher::NeedUrls(_)
            | FromLauncher::Result(_)
            | FromLauncher::Bye(_)
            | FromLauncher::Gone(_)
            | FromLauncher::Ack(_)
            | FromLauncher::Unsupported(_) => Err(unfit()),
        }
    }

    /// Reads and checks a later message.
    ///
    /// # Errors
    /// When it is none, or not of this launcher's session.
    pub fn hear(&self, known: &Known, payload: &[u8]) -> Result<Said, EnvelopeError> {
        let binding = self.binding(known, Direction::FromLauncher);
        let envelope = Envelope::decode(payload)?;
        let message = envelope.open(&binding, |bytes, signature| {
            Signature::from_bytes(signature.to_vec())
                .is_ok_and(|signature| known.key.verify(bytes, &signature).is_ok())
        })?;
        Ok(Said { id: envelope.id, seq: envelope.seq, message })
    }

    /// A `welcome` with short spans of time.
    #[must_use]
    pub fn welcome(&mut self, received: u64) -> Welcome {
        Welcome {
            session: SessionId::from_ulid(self.ulid()),
            leaf: self.leaf.pem.clone(),
            leaf_valid_ms: 3_600_000,
            lease_ms: 60_000,
            heartbeat_ms: 15_000,
            server_ms: 0,
            received,
            is_drained: false,
            protocol: VERSION,
            not_yours: Vec::new(),
        }
    }

    /// A `refused`.
    #[must_use]
    pub fn refused(&self, reason: RefusalReason, message: &str) -> Refused {
        Refused { reason, message: message.to_owned(), leaf: self.leaf.pem.clone() }
    }

    /// Signs a message for a launcher.
    ///
    /// # Errors
    /// When it does not fit an envelope.
    pub fn say(
        &mut self,
        known: &Known,
        seq: Option<u64>,
        message: &FromControlPlane,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let id = MessageId::from_ulid(self.ulid());
        let binding = self.binding(known, Direction::FromControlPlane);
        Envelope::encode(message, id, seq, &binding, |bytes| self.sign(bytes))
    }

    /// Signs a message of a kind that no launcher knows.
    ///
    /// # Errors
    /// When it cannot be spelled.
    pub fn say_unknown(
        &mut self,
        known: &Known,
        seq: Option<u64>,
        kind: &str,
        body: &str,
    ) -> Result<Vec<u8>, serde_json::Error> {
        use base64::Engine as _;
        let id = MessageId::from_ulid(self.ulid());
        let binding = self.binding(known, Direction::FromControlPlane);
        let signed = gantry_protocol::message::signed_bytes(VERSION, id, kind, seq, body, &binding);
        let envelope = Envelope {
            v: VERSION,
            id,
            kind: kind.to_owned(),
            seq,
            body: serde_json::value::RawValue::from_string(body.to_owned())?,
            sig: base64::engine::general_purpose::STANDARD.encode(self.sign(&signed)),
        };
        serde_json::to_vec(&envelope)
    }

    /// The kind of a message that was not checked.
    #[must_use]
    pub fn kind(payload: &[u8]) -> String {
        Envelope::decode(payload).map_or_else(|error| error.to_string(), |envelope| envelope.kind)
    }

    fn binding<'a>(&self, known: &'a Known, direction: Direction) -> Binding<'a> {
        Binding { direction, pool: self.pool, worker: known.worker, nonce: &known.hello.nonce }
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature = self.leaf.key.sign(bytes);
        signature.map(|signature| signature.as_bytes().to_vec()).unwrap_or_default()
    }

    fn ulid(&mut self) -> Ulid {
        self.next += 1;
        Ulid::from_parts(1, self.next)
    }
}
