//! A launcher as the control plane sees it: real keys, real envelopes, a journal in memory.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gantry_model::{Attempt, JournalId, MessageId, Phase, PoolId, Section, Stage, WorkerId};
use gantry_protocol::message::{
    Ack, Arrival, Binding, Carried, Claim, Closing, Direction, Envelope, FromControlPlane,
    FromLauncher, Heartbeat, Hello, Message as _, PhaseEvent, PhaseReport, RunInHand, Segment,
    StageOutcome, StageResult, StateStored, Step, Versions, Welcome, Window, WorkspaceStored,
    signed_bytes,
};
use gantry_protocol::spec::Spec;
use gantry_protocol::{
    Digest, SealedBytes, SessionKey, SessionPublicKey, Signature, seal_bytes, verify_signing_leaf,
};
use ulid::Ulid;

use crate::world::pool_key;

pub(crate) struct Launcher {
    pub(crate) pool: PoolId,
    pub(crate) worker: WorkerId,
    pub(crate) journal: JournalId,
    pub(crate) instance: String,
    pub(crate) machine: String,
    pub(crate) metadata: BTreeMap<String, String>,
    /// What the journal knows.
    pub(crate) runs: BTreeSet<Attempt>,
    /// What was said and not acknowledged.
    pub(crate) waiting: BTreeMap<u64, FromLauncher>,
    pub(crate) welcome: Option<Welcome>,
    /// What was heard, in order, since the last hello.
    pub(crate) heard: Vec<FromControlPlane>,
    ca: String,
    said: u64,
    ids: u128,
    session: Option<Session>,
}

struct Session {
    nonce: String,
    key: SessionKey,
    leaf: Option<SessionPublicKey>,
    window: Window<FromControlPlane>,
}

impl Launcher {
    pub(crate) fn new(pool: PoolId, ca: &str, worker: Ulid, journal: Ulid) -> Self {
        Self {
            pool,
            worker: WorkerId::from_ulid(worker),
            journal: JournalId::from_ulid(journal),
            instance: "instance-1".into(),
            machine: "machine-1".into(),
            metadata: BTreeMap::from([("instance_id".into(), "i-1".into())]),
            runs: BTreeSet::new(),
            waiting: BTreeMap::new(),
            welcome: None,
            heard: Vec::new(),
            ca: ca.to_owned(),
            said: 0,
            ids: 0,
            session: None,
        }
    }

    fn id(&mut self) -> MessageId {
        self.ids += 1;
        MessageId::from_ulid(Ulid::from(u128::from(self.worker_bits()) << 64 | self.ids))
    }

    fn worker_bits(&self) -> u64 {
        self.worker.timestamp_ms()
    }

    /// Begins a session: what was heard before counts no more.
    pub(crate) fn hello(&mut self) -> Bytes {
        let key = SessionKey::generate().unwrap();
        let mut nonce = [0; 32];
        openssl::rand::rand_bytes(&mut nonce).unwrap();
        let nonce = STANDARD.encode(nonce);
        let in_hand = |attempt: &Attempt| RunInHand { attempt: *attempt, step: Step::Started };
        let hello = Hello {
            nonce: nonce.clone(),
            instance: self.instance.clone(),
            machine: self.machine.clone(),
            journal: self.journal,
            runs: self.runs.iter().map(in_hand).collect(),
            versions: Versions { launcher: "0.1.0".into(), protocol: vec![1] },
            capacity: 1,
            engine: "docker".into(),
            pools: vec![self.pool],
            metadata: self.metadata.clone(),
            clock_ms: 0,
            session_key: key.public().to_string(),
        };
        self.welcome = None;
        self.heard.clear();
        self.session = Some(Session { nonce, key, leaf: None, window: Window::after(0) });
        self.signed_by_pool(hello)
    }

    pub(crate) fn signed_by_pool(&mut self, hello: Hello) -> Bytes {
        let id = self.id();
        let (pool, worker) = (self.pool, self.worker);
        let binding = Binding { direction: Direction::FromLauncher, pool, worker, nonce: "" };
        let message = FromLauncher::Hello(hello);
        let sign = |bytes: &[u8]| pool_key().sign_pss(bytes).unwrap().as_bytes().to_vec();
        Envelope::encode(&message, id, None, &binding, sign).unwrap().into()
    }

    /// Says something new. Kinds that must not be lost go to the journal first.
    pub(crate) fn say(&mut self, message: impl Into<FromLauncher>) -> Bytes {
        let message = message.into();
        let seq = message.is_sequenced().then(|| {
            self.said += 1;
            self.waiting.insert(self.said, message.clone());
            self.said
        });
        self.spell(&message, seq)
    }

    /// Starts again and knows nothing of what it did.
    pub(crate) fn lose_journal(&mut self, fresh: JournalId) {
        self.journal = fresh;
        self.runs.clear();
        self.waiting.clear();
        self.said = 0;
    }

    /// Says everything again that was not acknowledged.
    pub(crate) fn again(&mut self) -> Vec<Bytes> {
        let waiting: Vec<_> = self.waiting.iter().map(|(seq, it)| (*seq, it.clone())).collect();
        waiting.into_iter().map(|(seq, message)| self.spell(&message, Some(seq))).collect()
    }

    pub(crate) fn spell(&mut self, message: &FromLauncher, seq: Option<u64>) -> Bytes {
        let id = self.id();
        let session = self.session.as_ref().expect("it said hello");
        let binding = Binding {
            direction: Direction::FromLauncher,
            pool: self.pool,
            worker: self.worker,
            nonce: &session.nonce,
        };
        let sign = |bytes: &[u8]| session.key.sign(bytes).unwrap().as_bytes().to_vec();
        Envelope::encode(message, id, seq, &binding, sign).unwrap().into()
    }

    /// Says something of a kind that only later versions know, or that is misspelled.
    pub(crate) fn say_later(&mut self, kind: &str, body: &str) -> Bytes {
        self.said += 1;
        let (id, seq) = (self.id(), self.said);
        let session = self.session.as_ref().expect("it said hello");
        let binding = Binding {
            direction: Direction::FromLauncher,
            pool: self.pool,
            worker: self.worker,
            nonce: &session.nonce,
        };
        let signed = signed_bytes(1, id, kind, Some(seq), body, &binding);
        let sig = STANDARD.encode(session.key.sign(&signed).unwrap().as_bytes());
        format!(r#"{{"v":1,"id":"{id}","kind":"{kind}","seq":{seq},"body":{body},"sig":"{sig}"}}"#)
            .into()
    }

    /// Takes a message of the control plane; the answer acknowledges it.
    pub(crate) fn hear(&mut self, payload: &[u8]) -> Option<Bytes> {
        let envelope = Envelope::decode(payload).unwrap();
        let session = self.session.as_mut()?;
        if session.leaf.is_none() {
            let body: serde_json::Value = serde_json::from_str(envelope.body.get()).unwrap();
            let leaf = body.get("leaf")?.as_str()?;
            session.leaf = Some(verify_signing_leaf(&self.ca, leaf).unwrap());
        }
        let leaf = session.leaf?;
        let binding = Binding {
            direction: Direction::FromControlPlane,
            pool: self.pool,
            worker: self.worker,
            nonce: &session.nonce,
        };
        let verify = |bytes: &[u8], signature: &[u8]| {
            let signature = Signature::from_bytes(signature.to_vec()).unwrap();
            leaf.verify(bytes, &signature).is_ok()
        };
        // Of an older session: not for this one.
        let message = envelope.open::<FromControlPlane>(&binding, verify).ok()?;
        let Some(seq) = envelope.seq else {
            self.take(message);
            return None;
        };
        if let Arrival::Next(next) = session.window.arrive(seq, message) {
            for (_, message) in next {
                self.take(message);
            }
        }
        let up_to = self.session.as_ref()?.window.received();
        Some(self.spell(&FromLauncher::Ack(Ack { up_to }), None))
    }

    fn take(&mut self, message: FromControlPlane) {
        match &message {
            FromControlPlane::Welcome(welcome) => {
                self.waiting.retain(|seq, _| *seq > welcome.received);
                for attempt in &welcome.not_yours {
                    if attempt.stage == Stage::Read {
                        self.runs.remove(attempt);
                    }
                }
                self.welcome = Some(welcome.clone());
            }
            FromControlPlane::Ack(ack) => self.waiting.retain(|seq, _| *seq > ack.up_to),
            FromControlPlane::Grant(grant) => {
                self.runs.insert(grant.attempt);
            }
            FromControlPlane::Revoke(revoke) => {
                self.runs.remove(&revoke.attempt);
            }
            _ => {}
        }
        self.heard.push(message);
    }

    /// The newest offer that was heard.
    pub(crate) fn offered(&self) -> Option<Attempt> {
        self.heard.iter().rev().find_map(|message| match message {
            FromControlPlane::Offer(offer) => Some(offer.attempt),
            _ => None,
        })
    }

    /// The spec of the newest offer.
    pub(crate) fn spec(&self) -> Spec {
        let carried = self.heard.iter().rev().find_map(|message| match message {
            FromControlPlane::Offer(offer) => Some(offer.spec.clone()),
            _ => None,
        });
        let Some(Carried::Inline(text)) = carried else { panic!("no offer with a spec") };
        let sealed = SealedBytes::from_file(&STANDARD.decode(text).unwrap()).unwrap();
        serde_json::from_slice(&sealed.open(&[pool_key()]).unwrap()).unwrap()
    }

    pub(crate) fn granted(&self, attempt: Attempt) -> bool {
        self.heard.iter().any(
            |message| matches!(message, FromControlPlane::Grant(grant) if grant.attempt == attempt),
        )
    }

    pub(crate) fn revoked(&self, attempt: Attempt) -> bool {
        self.heard
            .iter()
            .any(|message| matches!(message, FromControlPlane::Revoke(it) if it.attempt == attempt))
    }

    pub(crate) fn canceled(&self, attempt: Attempt) -> bool {
        self.heard
            .iter()
            .any(|message| matches!(message, FromControlPlane::Cancel(it) if it.attempt == attempt))
    }

    pub(crate) fn heartbeat(&self) -> Heartbeat {
        Heartbeat { runs: self.runs.iter().copied().collect(), is_healthy: true, note: None }
    }
}

pub(crate) fn claim(attempt: Attempt) -> Claim {
    Claim { attempt }
}

pub(crate) fn began(attempt: Attempt, phase: Phase) -> PhaseReport {
    PhaseReport { attempt, phase, event: PhaseEvent::Began }
}

/// A segment whose object is named as the attempt's are.
pub(crate) fn segment(attempt: Attempt, section: Section, offset: u64, text: &str) -> Segment {
    let name = format!("{section:?}-{offset}").to_lowercase();
    Segment {
        attempt,
        section,
        offset,
        length: text.len() as u64,
        sha256: Digest::of(text.as_bytes()).to_string(),
        key: format!("log/{}/{}/{}{name}", attempt.run, attempt.epoch, attempt.stage),
    }
}

pub(crate) fn workspace(attempt: Attempt) -> WorkspaceStored {
    let payload = b"workspace";
    WorkspaceStored {
        attempt,
        key: format!("workspace/{}/{}/one", attempt.run, attempt.epoch),
        size: 1_000,
        payload_sha256: Digest::of(payload).to_string(),
        payload_size: payload.len() as u64,
        signature: signature(),
    }
}

pub(crate) fn state(attempt: Attempt, serial: u64, predecessor: Option<u64>) -> StateStored {
    static HEADER: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let header = HEADER.get_or_init(|| {
        let recipient = gantry_protocol::Recipient::new(pool_key().public().clone()).unwrap();
        let sealed = seal_bytes(&[recipient], b"state").unwrap();
        STANDARD.encode(sealed.header.as_bytes())
    });
    StateStored {
        attempt,
        serial,
        lineage: "a-lineage".into(),
        header: header.clone(),
        payload_sha256: state_hash(serial),
        payload_size: 5,
        predecessor: predecessor.map(state_hash),
        signature: signature(),
        key: format!("state/network/{}-{serial}", attempt.epoch),
    }
}

pub(crate) fn state_hash(serial: u64) -> String {
    Digest::of(format!("state {serial}").as_bytes()).to_string()
}

fn signature() -> String {
    Signature::from_bytes(vec![1; 256]).unwrap().to_string()
}

pub(crate) fn succeeded(attempt: Attempt, has_changes: bool) -> StageResult {
    ended(attempt, StageOutcome::Succeeded { has_changes })
}

pub(crate) fn ended(attempt: Attempt, outcome: StageOutcome) -> StageResult {
    StageResult {
        attempt,
        outcome,
        delta: None,
        outputs: Vec::new(),
        log: Vec::new(),
        continues: false,
    }
}

pub(crate) fn closing(section: Section, length: u64) -> Closing {
    Closing { section, length }
}
