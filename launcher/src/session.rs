//! The launcher's standing with its pool.
//!
//! A session opens when the control plane accepts the launcher's `hello`. It ends when the connection
//! drops, the pool is reset or the launcher leaves, and it is never resumed: a reconnect opens a new
//! one, while leases taken in the old one hold until they lapse.
//!
//! What must not be lost is kept by its sender until the other side says that it is durable: here by
//! the journal, behind [`Outgoing`]. So the wire may lose, double and reorder as it likes.
//!
//! [`Session`] is all that the rest of the launcher sees. What is said when is decided in
//! [`exchange`], a plain state machine; the wire stays in [`transport`](crate::transport).

pub mod exchange;
#[cfg(feature = "fake")]
pub mod fake;

mod backoff;
mod drive;
mod identity;
mod inbox;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gantry_model::{JournalId, MessageId, SessionId, WorkerId};
use gantry_protocol::message::{
    EnvelopeError, FromControlPlane, FromLauncher, Message as _, Refused, RunInHand, Welcome,
};
use gantry_protocol::{CryptoError, Endpoint};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Wire};
use crate::explain::{Exit, Explain};
use crate::transport::mqtt::Mqtt;
use crate::transport::poll::Poll;
use crate::transport::{LinkError, Transport};

pub use self::backoff::Backoff;
pub use self::identity::{Identity, Random, SystemRandom};

/// How many events wait for the main loop. What does not fit is left to its sender to send again.
const EVENTS: usize = 256;
/// How many unsequenced messages wait for the wire.
const UNSEQUENCED: usize = 64;

/// What waits in the journal for the control plane.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its place in the order of this journal, from 1, without gaps.
    pub seq: u64,
    /// Its id, the same however often it is sent.
    pub id: MessageId,
    /// Its kind.
    pub kind: String,
    /// What it says, spelled once and for all.
    pub body: Arc<RawValue>,
}

impl Waiting {
    /// Spells a message.
    ///
    /// # Errors
    /// When a value in it cannot be spelled as JSON.
    pub fn new(seq: u64, id: MessageId, message: &FromLauncher) -> Result<Self, serde_json::Error> {
        Ok(Self { seq, id, kind: message.kind().to_owned(), body: message.body()?.into() })
    }

    /// What it says.
    ///
    /// # Errors
    /// When it is none of this version's.
    pub fn message(&self) -> Result<FromLauncher, EnvelopeError> {
        FromLauncher::from_body(&self.kind, &self.body)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        let parts = |it: &Self| (it.seq, it.id, it.kind.clone(), it.body.get().to_owned());
        parts(self) == parts(other)
    }
}

/// The journal cannot keep what it has to.
#[derive(Debug, thiserror::Error)]
#[error("the journal cannot note what the control plane has")]
pub struct OutgoingError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// What the session needs of the journal.
pub trait Outgoing: Send + Sync + 'static {
    /// Which journal this is.
    fn journal(&self) -> JournalId;

    /// All runs in hand, for heartbeats to renew their leases.
    fn runs(&self) -> Vec<RunInHand>;

    /// All runs in hand, for a `hello`. From this snapshot on, no grant of an earlier session may be
    /// taken: the control plane gives away whatever the `hello` does not name.
    fn greet(&self) -> Vec<RunInHand>;

    /// The `hello` was accepted: grants of this session may be taken, until the next [`Outgoing::greet`].
    fn opened(&self, session: SessionId);

    /// What waits behind `after`, in order and without gaps, at most 64 of them.
    fn waiting(&self, after: u64) -> Vec<Waiting>;

    /// Drops everything up to `up_to`: the control plane has it durably. Durable itself when it returns.
    ///
    /// # Errors
    /// When the journal cannot be written, or never had so much.
    fn acknowledge(&self, up_to: u64) -> Result<(), OutgoingError>;

    /// The highest `seq` that there ever was; wakes the session when there is more to send.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// Whether new runs may come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why not, in words; none if they may.
    pub complaint: Option<String>,
}

/// Proof that a message was delivered. It is worth nothing in another session, so a late
/// acknowledgement cannot cover what came after a reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    session: SessionId,
    seq: u64,
}

/// What happens to the standing with the pool.
#[derive(Debug)]
pub enum SessionEvent {
    /// The control plane accepted the `hello`.
    Opened(Welcome),
    /// A verified message. Those of one session come in order and once each.
    Message {
        /// To be given to [`Session::acknowledge`] once the message's effect is durable; none for kinds
        /// that may be lost.
        receipt: Option<Receipt>,
        /// What it says.
        message: FromControlPlane,
    },
    /// The session ended. The next one is being opened.
    Lost {
        /// Why, in words.
        reason: String,
    },
    /// The control plane does not accept this launcher. The last event.
    Refused(Refused),
    /// No session can be had, or none can be kept. The last event.
    Fatal(SessionError),
}

/// Why there is no session, and there will be none.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The broker does not admit the pool's certificate.
    #[error("the pool was reset or deleted: {broker} refuses its certificate")]
    NotAdmitted {
        /// The broker.
        broker: Endpoint,
    },
    /// No session could be opened for some time after the start.
    #[error("cannot open a session with {broker}")]
    Unreachable {
        /// The broker.
        broker: Endpoint,
        /// Why not, the last time.
        source: LinkError,
    },
    /// The control plane misses messages that are gone here.
    #[error(
        "the control plane has messages of this journal up to {has} and the journal goes on at {begins}"
    )]
    Gap {
        /// The last one that it has.
        has: u64,
        /// The first one that is still here.
        begins: u64,
    },
    /// The control plane has messages that this journal never held.
    #[error(
        "the control plane has messages of this journal up to {has} and the journal ends at {last}"
    )]
    Ahead {
        /// The last one that it has.
        has: u64,
        /// The last one that was ever here.
        last: u64,
    },
    /// Another launcher goes on as this worker.
    #[error("another launcher took this worker's session over, again and again")]
    TakenOver,
    /// The journal cannot be written.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
    /// Our own message does not fit an envelope.
    #[error("a message of ours does not fit the protocol")]
    Message(#[from] gantry_protocol::message::EnvelopeError),
    /// Key and certificate cannot be used for TLS.
    #[error("the pool's certificate and key cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    /// OpenSSL failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl Explain for SessionError {
    fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotAdmitted { .. } => {
                "fetch the pool's new token, set SPACELIFT_TOKEN and the key that belongs to it, and start again"
            }
            Self::Unreachable { source, .. } => return source.help(),
            Self::Gap { .. } => {
                "the control plane was set back, perhaps restored from a backup: move GANTRY_STATE_DIR away and start with an empty one. If GANTRY_STATE_DIR/runs is not empty, let the containers of those runs end before, and keep it: what they wrote lies there"
            }
            Self::Ahead { .. } => {
                "GANTRY_STATE_DIR was set back, perhaps by a snapshot of this machine: remove the containers that its runs left, then start with an empty GANTRY_STATE_DIR"
            }
            Self::TakenOver => {
                "this machine's disk or its GANTRY_STATE_DIR is a copy of another one's that is in use: start one of the two with an empty GANTRY_STATE_DIR"
            }
            Self::Outgoing(_) => "check that GANTRY_STATE_DIR can be written and has space",
            Self::Message(_) => "report this with the log: it is a bug in the launcher",
            Self::Tls(_) => "use an RSA key of 2048 to 8192 bits, and the token made for it",
            Self::Crypto(_) => return None,
        })
    }

    fn exit_code(&self) -> Exit {
        match self {
            Self::NotAdmitted { .. } => Exit::Refused,
            // The copy may end.
            Self::TakenOver => Exit::NotNow,
            Self::Unreachable { .. } => Exit::Broker,
            Self::Gap { .. } | Self::Ahead { .. } | Self::Outgoing(_) => Exit::State,
            Self::Tls(_) => Exit::Configuration,
            Self::Message(_) | Self::Crypto(_) => Exit::Unexpected,
        }
    }
}

/// Spans of time that the launcher chooses itself. The others come with the `welcome`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// A dead connection is noticed within two of these. At least 5 s.
    pub keep_alive: Duration,
    /// How long connecting, and the answer to a `hello`, may take each.
    pub patience: Duration,
    /// After how long what is not acknowledged is sent again, at first.
    pub resend: Duration,
    /// How long to go on trying before the first session; for ever when there are runs in hand.
    pub give_up: Duration,
    /// The bounds between which attempts are apart.
    pub backoff: (Duration, Duration),
    /// How long leaving may take.
    pub farewell: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(15),
            patience: Duration::from_secs(10),
            resend: Duration::from_secs(5),
            give_up: Duration::from_secs(120),
            // Half of the usual lease, so that a read stage outlives an attempt that came just too early.
            backoff: (Duration::from_secs(1), Duration::from_secs(30)),
            farewell: Duration::from_secs(5),
        }
    }
}

/// The launcher's end of all its sessions, one after the other.
#[derive(Debug)]
pub struct Session {
    events: mpsc::Receiver<SessionEvent>,
    handle: SessionHandle,
}

/// Speaks through whatever session is open. Cheap to clone; never waits.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    shared: Arc<Shared>,
    unsequenced: mpsc::Sender<FromLauncher>,
}

/// What the handles tell the task.
#[derive(Debug)]
struct Shared {
    acknowledged: Mutex<BTreeSet<Receipt>>,
    /// Changes with every acknowledgement.
    acknowledgements: watch::Sender<u64>,
    /// Why the launcher leaves, once it does.
    leaving: watch::Sender<Option<String>>,
}

impl Receipt {
    /// The session that the message came in.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }
}

impl Session {
    /// Opens sessions over the wire that `config` names, one after the other, until it is closed or no more can be had.
    ///
    /// The future that comes with it does the work: it is to be awaited in the caller's `JoinSet`.
    ///
    /// # Errors
    /// When key and certificate cannot be used.
    pub fn start(
        config: &Config,
        worker: WorkerId,
        engine: &str,
        outgoing: Arc<dyn Outgoing>,
        health: watch::Receiver<Health>,
    ) -> Result<(Self, BoxFuture<'static, ()>), SessionError> {
        let identity = Identity::of(config, worker, engine)?;
        let timing = Timing::default();
        Ok(match &config.transport {
            Wire::Mqtt => {
                let transport = Mqtt::new(config, &timing)?;
                let (session, task) = Self::over(transport, identity, timing, outgoing, health);
                (session, task.boxed())
            }
            Wire::Poll(base) => {
                let transport = Poll::new(config, base, &timing)?;
                let (session, task) = Self::over(transport, identity, timing, outgoing, health);
                (session, task.boxed())
            }
        })
    }

    /// The same over any transport.
    pub fn over<T: Transport>(
        transport: T,
        identity: Identity,
        timing: Timing,
        outgoing: Arc<dyn Outgoing>,
        health: watch::Receiver<Health>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (unsequenced, to_send) = mpsc::channel(UNSEQUENCED);
        let shared = Arc::new(Shared {
            acknowledged: Mutex::default(),
            acknowledgements: watch::Sender::new(0),
            leaving: watch::Sender::new(None),
        });
        let task = drive::run(
            transport,
            identity,
            timing,
            outgoing,
            drive::Ends { events, to_send, shared: Arc::clone(&shared), health },
        );
        (Self { events: receiver, handle: SessionHandle { shared, unsequenced } }, task)
    }

    /// What happens next; none after the last event or [`Session::close`]. Cancel safe.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        self.events.recv().await
    }

    /// A handle for tasks that do not own the session.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        self.handle.clone()
    }

    /// See [`SessionHandle::acknowledge`].
    pub fn acknowledge(&self, receipt: Receipt) {
        self.handle.acknowledge(receipt);
    }

    /// See [`SessionHandle::send`].
    pub fn send(&self, message: FromLauncher) {
        self.handle.send(message);
    }

    /// Says `bye` with this reason, waits for the broker to have it, for a bounded time, and ends.
    pub async fn close(mut self, reason: &str) {
        self.handle.shared.leaving.send_replace(Some(reason.to_owned()));
        // The task drops its end when it is done, which takes at most `Timing::farewell`.
        while self.events.recv().await.is_some() {}
    }
}

impl SessionHandle {
    /// Notes that a message's effect is durable. The control plane learns of it in the order in which
    /// the messages came, whatever the order of these calls.
    pub fn acknowledge(&self, receipt: Receipt) {
        let mut all = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(receipt);
        drop(all);
        self.shared.acknowledgements.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Sends a message that may be lost, such as `need_urls`: it is dropped when no session is open.
    /// Kinds that must not be lost go through the journal.
    pub fn send(&self, message: FromLauncher) {
        if self.unsequenced.try_send(message).is_err() {
            tracing::debug!("a message that may be lost was dropped: too many wait");
        }
    }
}
