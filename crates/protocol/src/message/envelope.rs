//! The envelope: limits, kinds, and which bytes are signed.

use gantry_model::{MessageId, PoolId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::body::{
    Ack, Bye, Cancel, Claim, Cycle, Decision, Decline, Drain, Gone, Grant, Heartbeat, Hello,
    MoreOutputs, NeedUrls, Offer, PhaseReport, Refused, Revoke, Segment, StageResult, StateStored,
    Unsupported, Urls, Welcome, WorkspaceStored,
};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// The largest envelope, in bytes. More goes as an object with its hash.
pub const MAX_ENVELOPE: usize = 64 * 1024;

/// The longest signature, in base64 characters: that of an RSA key of 8192 bits.
const MAX_SIGNATURE: usize = 1368;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the control plane.
    FromLauncher,
    /// To the launcher.
    FromControlPlane,
}

/// What a signature binds a message to, besides its own content.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// Which way it goes.
    pub direction: Direction,
    /// The launcher's pool.
    pub pool: PoolId,
    /// The launcher's worker.
    pub worker: WorkerId,
    /// The nonce of the launcher's `hello`, as that spells it. Empty for `hello` itself, which carries it.
    pub nonce: &'a str,
}

/// A message on the wire, its signature not yet checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub v: u32,
    /// The message's id.
    pub id: MessageId,
    /// The kind, such as `offer`.
    pub kind: String,
    /// Its place in the order of kinds that must not be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What it says, as spelled.
    pub body: Box<RawValue>,
    /// The signature over [`signed_bytes`], base64.
    pub sig: String,
}

/// Why an envelope or a body is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is larger than [`MAX_ENVELOPE`].
    #[error("a message of {size} bytes: the limit is {MAX_ENVELOPE}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// It is no envelope.
    #[error("a message that is not an envelope")]
    Malformed(#[source] serde_json::Error),
    /// Its version is not ours.
    #[error("a message of protocol version {0}: this side speaks {VERSION}")]
    Version(u32),
    /// The kind is not known here: answer `unsupported`.
    #[error("a message of the unknown kind {0:?}")]
    UnknownKind(String),
    /// The body does not fit its kind.
    #[error("the body of a {kind} message is wrong")]
    Body {
        /// The kind.
        kind: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A kind that needs a `seq` has none, or the other way round.
    #[error("a {0} message with its seq missing or out of place")]
    Seq(String),
    /// The signature is no base64 of a sensible length, or does not fit.
    #[error(
        "a {0} message whose signature does not fit: it is from elsewhere or of another session"
    )]
    Signature(String),
}

/// The kinds that go one way.
pub trait Message: Sized {
    /// Which way they go.
    const DIRECTION: Direction;

    /// The kind's name.
    fn kind(&self) -> &'static str;

    /// Whether the kind must not be lost, so that it carries a `seq`.
    fn is_sequenced(&self) -> bool;

    /// The body as JSON.
    ///
    /// # Errors
    /// When a value in it cannot be spelled as JSON.
    fn body(&self) -> Result<Box<RawValue>, serde_json::Error>;

    /// Reads the body of a kind.
    ///
    /// # Errors
    /// [`EnvelopeError::UnknownKind`] and [`EnvelopeError::Body`].
    fn from_body(kind: &str, body: &RawValue) -> Result<Self, EnvelopeError>;
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident, $direction:expr, {
        $($variant:ident($body:ty) = $kind:literal, $sequenced:literal, $vdoc:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $(#[doc = $vdoc] $variant($body),)*
        }

        impl Message for $name {
            const DIRECTION: Direction = $direction;

            fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            fn is_sequenced(&self) -> bool {
                match self { $(Self::$variant(_) => $sequenced,)* }
            }

            fn body(&self) -> Result<Box<RawValue>, serde_json::Error> {
                match self { $(Self::$variant(body) => serde_json::value::to_raw_value(body),)* }
            }

            fn from_body(kind: &str, body: &RawValue) -> Result<Self, EnvelopeError> {
                let wrong = |source| EnvelopeError::Body { kind: kind.to_owned(), source };
                match kind {
                    $($kind => serde_json::from_str(body.get()).map(Self::$variant).map_err(wrong),)*
                    _ => Err(EnvelopeError::UnknownKind(kind.chars().take(64).collect())),
                }
            }
        }

        $(impl From<$body> for $name {
            fn from(body: $body) -> Self {
                Self::$variant(body)
            }
        })*
    };
}

messages!(
    /// What a launcher says.
    FromLauncher, Direction::FromLauncher, {
        Hello(Hello) = "hello", false, "Who it is and what it has in hand.";
        Heartbeat(Heartbeat) = "heartbeat", false, "It lives.";
        Claim(Claim) = "claim", true, "It wants an offer.";
        Decline(Decline) = "decline", true, "It does not.";
        Phase(PhaseReport) = "phase", true, "A phase began or ended.";
        Segment(Segment) = "segment", true, "A part of the log is stored.";
        State(StateStored) = "state", true, "A state version is stored.";
        Workspace(WorkspaceStored) = "workspace", true, "A sealed workspace is stored.";
        Decision(Decision) = "decision", true, "What the policy said.";
        Outputs(MoreOutputs) = "outputs", true, "Outputs that its result has no room for.";
        NeedUrls(NeedUrls) = "need_urls", false, "It needs URLs; they are asked for until they come.";
        Result(StageResult) = "result", true, "A stage is over.";
        Bye(Bye) = "bye", false, "It leaves.";
        Gone(Gone) = "gone", false, "The last will.";
        Ack(Ack) = "ack", false, "What arrived is durable.";
        Unsupported(Unsupported) = "unsupported", false, "A kind is not known to it.";
    }
);

messages!(
    /// What the control plane says.
    FromControlPlane, Direction::FromControlPlane, {
        Welcome(Welcome) = "welcome", false, "The hello is accepted.";
        Refused(Refused) = "refused", false, "It is not.";
        Offer(Offer) = "offer", true, "A stage for whoever claims it.";
        Grant(Grant) = "grant", true, "The launcher is the owner.";
        Revoke(Revoke) = "revoke", true, "It is not any more.";
        Cancel(Cancel) = "cancel", true, "Someone wants a stage stopped.";
        Urls(Urls) = "urls", false, "The URLs that were asked for.";
        Drain(Drain) = "drain", true, "Take no new runs, or take them again.";
        Cycle(Cycle) = "cycle", true, "Exit.";
        Ack(Ack) = "ack", false, "What arrived is durable.";
        Unsupported(Unsupported) = "unsupported", false, "A kind is not known here.";
    }
);

impl Envelope {
    /// Wraps and signs a message. `seq` is given exactly when the kind is sequenced.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`], and [`EnvelopeError::Seq`] when `seq` does not fit the kind.
    pub fn encode<M: Message>(
        message: &M,
        id: MessageId,
        seq: Option<u64>,
        binding: &Binding<'_>,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let kind = message.kind();
        if seq.is_some() != message.is_sequenced() {
            return Err(EnvelopeError::Seq(kind.to_owned()));
        }
        let body = message
            .body()
            .map_err(|source| EnvelopeError::Body { kind: kind.to_owned(), source })?;
        Self::encode_body(kind, &body, id, seq, binding, sign)
    }

    /// The same for a body that is spelled already, of a kind that `seq` fits.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`].
    pub fn encode_body(
        kind: &str,
        body: &RawValue,
        id: MessageId,
        seq: Option<u64>,
        binding: &Binding<'_>,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let signature = sign(&signed_bytes(VERSION, id, kind, seq, body.get(), binding));
        let envelope = Self {
            v: VERSION,
            id,
            kind: kind.to_owned(),
            seq,
            body: body.to_owned(),
            sig: STANDARD.encode(signature),
        };
        let bytes = serde_json::to_vec(&envelope).map_err(EnvelopeError::Malformed)?;
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeError::TooLarge { size: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads an envelope and checks its limits, not yet its signature.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`], [`EnvelopeError::Malformed`] and [`EnvelopeError::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeError::TooLarge { size: bytes.len() });
        }
        let envelope: Self = serde_json::from_slice(bytes).map_err(EnvelopeError::Malformed)?;
        if envelope.v != VERSION {
            return Err(EnvelopeError::Version(envelope.v));
        }
        Ok(envelope)
    }

    /// Checks the signature and gives the message.
    ///
    /// `verify` gets the signed bytes and the signature.
    ///
    /// # Errors
    /// [`EnvelopeError::Signature`] first; then what [`Message::from_body`] and the kind's `seq` say.
    pub fn open<M: Message>(
        &self,
        binding: &Binding<'_>,
        verify: impl FnOnce(&[u8], &[u8]) -> bool,
    ) -> Result<M, EnvelopeError> {
        let unfit = || EnvelopeError::Signature(self.kind.chars().take(64).collect());
        if self.sig.len() > MAX_SIGNATURE {
            return Err(unfit());
        }
        let signature = STANDARD.decode(&self.sig).map_err(|_| unfit())?;
        let signed = signed_bytes(self.v, self.id, &self.kind, self.seq, self.body.get(), binding);
        if !verify(&signed, &signature) {
            return Err(unfit());
        }
        let message = M::from_body(&self.kind, &self.body)?;
        if self.seq.is_some() == message.is_sequenced() {
            Ok(message)
        } else {
            Err(EnvelopeError::Seq(self.kind.clone()))
        }
    }
}

/// The bytes that a signature covers: `gantry message v1`, NUL, then each field behind its length as
/// eight big-endian bytes: direction, pool, worker, nonce, version, id, kind, seq (empty if none), body.
#[must_use]
pub fn signed_bytes(
    version: u32,
    id: MessageId,
    kind: &str,
    seq: Option<u64>,
    body: &str,
    binding: &Binding<'_>,
) -> Vec<u8> {
    let direction = match binding.direction {
        Direction::FromLauncher => "from-launcher",
        Direction::FromControlPlane => "from-control-plane",
    };
    let fields = [
        direction.to_owned(),
        binding.pool.to_string(),
        binding.worker.to_string(),
        binding.nonce.to_owned(),
        version.to_string(),
        id.to_string(),
        kind.to_owned(),
        seq.map(|seq| seq.to_string()).unwrap_or_default(),
    ];
    let mut bytes = b"gantry message v1\0".to_vec();
    for field in fields.iter().map(String::as_str).chain([body]) {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    bytes
}
