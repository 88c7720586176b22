//! The HTTP form of the wire: how a launcher opens a session of long polls, and how messages travel in it.
//!
//! The envelopes are those of MQTT, byte for byte: who speaks is proven by their signatures, as on every
//! wire. What stands here says only which pool's worker a request comes from. `docs/protocol.md` has the
//! page that both ends are written from.

use gantry_model::{PoolId, WorkerId};
use serde::{Deserialize, Serialize};

use crate::certificate::Serial;
use crate::digest::Digest;
use crate::pem;
use crate::signature::Signature;

/// Where a session is opened.
pub const SESSIONS: &str = "/workers/v1/sessions";
/// The session of the token that comes with the request.
pub const SESSION: &str = "/workers/v1/session";
/// Messages of a session, either way.
pub const MESSAGES: &str = "/workers/v1/messages";

/// The largest request to open a session, in bytes.
pub const MAX_OPENING: usize = 4 * 1024;
/// The largest last will, in bytes.
pub const MAX_WILL: usize = 1024;
/// The largest body with messages, in bytes.
pub const MAX_BATCH: usize = 128 * 1024;
/// The most messages of a body.
pub const MAX_MESSAGES: usize = 64;
/// The largest answer without messages, in bytes.
pub const MAX_ANSWER: usize = 4 * 1024;

/// What a launcher sends to open a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The serial number of the pool's certificate.
    pub serial: Serial,
    /// The worker.
    pub worker: WorkerId,
    /// For how long a request for messages is to be held, in milliseconds.
    pub keep_alive_ms: u64,
    /// The envelope that counts as said when the session ends without a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will: Option<String>,
    /// The proof of the pool's key, where its certificate was not shown to the TLS layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// The pool's signature over a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The challenge, as it came.
    pub challenge: String,
    /// The signature of [`Opening::proven`], by RSA-PSS.
    pub signature: Signature,
}

/// A session was opened.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// What comes as bearer token with each request of the session. A secret.
    pub token: String,
    /// For how long a request for messages is held at most, in milliseconds.
    pub hold_ms: u64,
}

/// A request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// Why, in words.
    pub message: String,
    /// What is to be signed, with [`Code::Prove`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The pool's key has to sign the challenge.
    Prove,
    /// The pool was reset or deleted, or the proof is wrong.
    NotAdmitted,
    /// The worker belongs to another pool.
    ForeignWorker,
    /// There is no such session, or none any more.
    NoSession,
    /// Another launcher has opened a session as this worker.
    TakenOver,
    /// The request is none of this protocol.
    Invalid,
    /// A body or a message is too large.
    TooLarge,
    /// There are too many requests, or too many sessions.
    TooMany,
    /// The server is busy or stopping.
    Busy,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

impl Opening {
    /// The bytes that prove the pool: they name the control plane by its authority, the pool, its
    /// certificate, the worker and the challenge, so that the signature is worth nothing elsewhere.
    #[must_use]
    pub fn proven(&self, authority: &Digest, pool: PoolId, challenge: &str) -> Vec<u8> {
        let Self { serial, worker, .. } = self;
        format!("gantry.poll.session.v1\n{authority}\n{pool}\n{serial}\n{worker}\n{challenge}\n")
            .into_bytes()
    }
}

/// By what a control plane is named in a proof: the SHA-256 of its authority's certificate. None if the
/// PEM text has no certificate.
#[must_use]
pub fn authority_name(ca: &str) -> Option<Digest> {
    pem::content(ca, &["CERTIFICATE"]).map(|der| Digest::of(&der))
}

/// Puts a message behind others: each is a line. False if there is no room for it any more.
pub fn append(body: &mut Vec<u8>, count: &mut usize, message: &[u8]) -> bool {
    if *count > 0 && (*count == MAX_MESSAGES || body.len() + message.len() >= MAX_BATCH) {
        return false;
    }
    body.extend_from_slice(message);
    body.push(b'\n');
    *count += 1;
    true
}

/// The messages of a body. None if there are too many.
#[must_use]
pub fn split(body: &[u8]) -> Option<Vec<&[u8]>> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.take(MAX_MESSAGES + 1).collect();
    (lines.len() <= MAX_MESSAGES).then_some(lines)
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("hold_ms", &self.hold_ms).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_for_the_next_body() {
        let (mut body, mut count) = (Vec::new(), 0);
        let large = vec![b'x'; MAX_BATCH / 2 - 1];
        assert!(append(&mut body, &mut count, &large));
        assert!(append(&mut body, &mut count, &large[1..]));
        assert!(!append(&mut body, &mut count, b"one more"));
        assert!(body.len() <= MAX_BATCH);
        assert_eq!(split(&body).unwrap(), [&large[..], &large[1..]]);

        let (mut body, mut count) = (Vec::new(), 0);
        while append(&mut body, &mut count, b"{}") {}
        assert_eq!(split(&body).map(|lines| lines.len()), Some(MAX_MESSAGES));
        body.extend_from_slice(b"{}\n");
        assert_eq!(split(&body), None);
        assert_eq!(split(b"").map(|lines| lines.len()), Some(0));
    }

    #[test]
    fn a_code_of_a_later_version_is_a_refusal_all_the_same() {
        let text = r#"{"code":"on_holiday","message":"later","more":1}"#;
        let refusal: Refusal = serde_json::from_str(text).unwrap();
        assert_eq!(refusal.code, Code::Other);
    }
}
