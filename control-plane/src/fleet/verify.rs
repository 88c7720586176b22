//! Who said it: signatures of hellos and of the messages of a session.
//!
//! A message counts only within the session that its sender's `hello` began: it is signed with the key
//! that the hello introduced and bound to its nonce; the hello itself is signed with the pool's key. All of
//! that is checked outside of any transaction, on a thread where it holds up nobody.

use std::sync::Arc;

use gantry_model::{Attempt, PoolId, WorkerId};
use gantry_protocol::message::{Binding, Direction, Envelope, EnvelopeError, FromLauncher, Hello};
use gantry_protocol::{PublicKey, SessionPublicKey, Signature, SigningLeaf};

use super::notices::Notices;
use crate::core::sessions::LauncherSession;
use crate::pools::certificates::PoolIdentity;
use crate::store::WorkerKey;

/// How much of a kind that nobody knows is quoted, in characters.
const MAX_KIND: usize = 64;

/// Checks signatures.
pub trait SignatureCheck: Send + Sync + 'static {
    /// Whether a pool's key signed these bytes.
    fn is_pools(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool;

    /// Whether a session's key signed these bytes.
    fn is_sessions(&self, key: &SessionPublicKey, bytes: &[u8], signature: &Signature) -> bool;
}

/// Checks signatures with OpenSSL.
#[derive(Debug, Clone, Copy)]
pub struct OpenSsl;

impl SignatureCheck for OpenSsl {
    fn is_pools(&self, key: &PublicKey, bytes: &[u8], signature: &Signature) -> bool {
        key.verify_pss(bytes, signature).is_ok()
    }

    fn is_sessions(&self, key: &SessionPublicKey, bytes: &[u8], signature: &Signature) -> bool {
        key.verify(bytes, signature).is_ok()
    }
}

/// The sender of a message, proven.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) pool: PoolId,
    pub(super) worker: WorkerId,
    pub(super) session: Arc<LauncherSession>,
    notices: Arc<Notices>,
}

impl Sender {
    pub(super) const fn key(&self) -> WorkerKey {
        (self.pool, self.worker)
    }

    /// Says why something that it sent is not kept. It is acknowledged all the same: sent again, it
    /// would be no better.
    pub(super) fn refuse(&self, attempt: Attempt, what: &str, why: &str) {
        self.notices.say(self.key(), format_args!("refused a {what} of {attempt}: {why}"));
    }
}

/// A message that has yet to be checked.
pub(super) enum Unverified {
    /// A hello, and the pool that it has to be from.
    Hello {
        worker: WorkerKey,
        envelope: Arc<Envelope>,
        identity: Arc<PoolIdentity>,
        leaf: Arc<SigningLeaf>,
    },
    /// Anything else, and the session that it has to be from.
    Message { worker: WorkerKey, envelope: Arc<Envelope>, session: Arc<LauncherSession> },
}

/// A message that its sender has said.
pub(super) enum Verified {
    Hello(Box<VerifiedHello>),
    Message { sender: Sender, seq: Option<u64>, said: Said },
}

/// A hello that the pool's key has signed.
pub(super) struct VerifiedHello {
    pub(super) worker: WorkerKey,
    pub(super) hello: Hello,
    /// What it was checked with.
    pub(super) identity: Arc<PoolIdentity>,
    /// What the answer is signed with.
    pub(super) leaf: Arc<SigningLeaf>,
}

/// What a session's launcher has said.
pub(super) enum Said {
    /// A message.
    Message(Box<FromLauncher>),
    /// Something of a kind that this version does not know.
    Unknown { kind: String },
    /// Something that this version cannot make sense of.
    Unreadable,
}

/// Checks messages, in their order. Those that nobody is proven to have said are left out.
pub(super) fn verify(
    messages: Vec<Unverified>,
    check: &dyn SignatureCheck,
    notices: &Arc<Notices>,
) -> Vec<Verified> {
    messages.into_iter().filter_map(|message| verify_one(message, check, notices)).collect()
}

fn verify_one(
    message: Unverified,
    check: &dyn SignatureCheck,
    notices: &Arc<Notices>,
) -> Option<Verified> {
    match message {
        Unverified::Hello { worker, envelope, identity, leaf } => {
            let binding = binding(worker, "");
            let key = identity.recipient.key();
            let is_signed = |bytes: &[u8], signature: &[u8]| {
                Signature::from_bytes(signature.to_vec())
                    .is_ok_and(|signature| check.is_pools(key, bytes, &signature))
            };
            match envelope.open::<FromLauncher>(&binding, is_signed) {
                Ok(FromLauncher::Hello(hello)) => {
                    let verified = VerifiedHello { worker, hello, identity, leaf };
                    Some(Verified::Hello(Box::new(verified)))
                }
                Ok(_) => None,
                Err(error) => {
                    notices.say(worker, format_args!("refused a hello: {error}"));
                    None
                }
            }
        }
        Unverified::Message { worker, envelope, session } => {
            let said = open(worker, &envelope, &session, check, notices)?;
            let notices = Arc::clone(notices);
            let (pool, worker) = worker;
            let sender = Sender { pool, worker, session, notices };
            Some(Verified::Message { sender, seq: envelope.seq, said })
        }
    }
}

fn open(
    worker: WorkerKey,
    envelope: &Envelope,
    session: &LauncherSession,
    check: &dyn SignatureCheck,
    notices: &Notices,
) -> Option<Said> {
    let is_signed = |bytes: &[u8], signature: &[u8]| {
        Signature::from_bytes(signature.to_vec())
            .is_ok_and(|signature| check.is_sessions(&session.key, bytes, &signature))
    };
    match envelope.open::<FromLauncher>(&binding(worker, &session.nonce), is_signed) {
        Ok(message) => Some(Said::Message(Box::new(message))),
        Err(EnvelopeError::UnknownKind(kind)) => {
            Some(Said::Unknown { kind: kind.chars().take(MAX_KIND).collect() })
        }
        Err(error @ (EnvelopeError::Body { .. } | EnvelopeError::Seq(_))) => {
            let kind = quoted_kind(envelope);
            notices.say(worker, format_args!("passed over a {kind:?}: {error}"));
            Some(Said::Unreadable)
        }
        Err(
            error @ (EnvelopeError::TooLarge { .. }
            | EnvelopeError::Malformed(_)
            | EnvelopeError::Version(_)
            | EnvelopeError::Signature(_)),
        ) => {
            let kind = quoted_kind(envelope);
            notices.say(worker, format_args!("refused a {kind:?}: {error}"));
            None
        }
    }
}

/// As much of the kind as is quoted.
pub(super) fn quoted_kind(envelope: &Envelope) -> String {
    envelope.kind.chars().take(MAX_KIND).collect()
}

const fn binding((pool, worker): WorkerKey, nonce: &str) -> Binding<'_> {
    Binding { direction: Direction::FromLauncher, pool, worker, nonce }
}
