//! What is said when: one `hello` and all that follows it, as a plain state machine.
//!
//! An [`Exchange`] lives as long as one connection. It is told what arrived and what time it is, and
//! answers with [`Effect`]s. It takes a message only if the control plane signed it for this pool, this
//! worker and this `hello`: everything else is refused in one sentence.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::RunId;
use gantry_protocol::message::{
    Ack, Binding, Bye, Direction, Envelope, EnvelopeError, FromControlPlane, FromLauncher, Gone,
    Heartbeat, Message, Refused, Unsupported, VERSION, Welcome,
};
use gantry_protocol::{
    LeafError, SIGNING_LEAF_LIFETIME, SessionKey, SessionPublicKey, Signature, verify_signing_leaf,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::inbox::{Inbox, MOST_AT_ONCE};
use super::{Health, Identity, Outgoing, Receipt, SessionError, SessionEvent, Timing, Waiting};
use crate::transport::LinkError;

/// How many of our messages may be on their way: as many as the other side keeps behind a gap.
const IN_FLIGHT: u64 = 64;
/// The longest time between two tries to deliver the same message.
const LONGEST_RESEND: Duration = Duration::from_mins(1);
/// The bounds of the heartbeat that a control plane may ask for.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(5));

/// What the exchange looks at in each step.
pub struct Context<'a> {
    /// Who the launcher is.
    pub identity: &'a mut Identity,
    /// What waits to be said, and the runs in hand.
    pub outgoing: &'a dyn Outgoing,
    /// Whether new runs may come.
    pub health: &'a Health,
    /// The time.
    pub now: Instant,
    /// How many events the rest of the launcher can take.
    pub room: usize,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Put these bytes on the wire.
    Publish(Bytes),
    /// Drop everything up to this from the journal: the control plane has it.
    Acknowledge(u64),
    /// Tell the rest of the launcher.
    Tell(SessionEvent),
    /// Say in the log that a message was not taken.
    Refuse(Refusal),
    /// The connection is of no more use.
    End(End),
}

/// Why an exchange is over.
#[derive(Debug)]
pub enum End {
    /// Another one may go better.
    Lost(LinkError),
    /// The control plane does not accept this launcher.
    Refused(Refused),
    /// No other one will go better.
    Fatal(SessionError),
}

/// Why a message that arrived was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no message, or not for this session.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its signing certificate is not the control plane's.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// It needs a session and there is none yet.
    #[error("a {0} message before the welcome")]
    TooEarly(String),
    /// A second `welcome`.
    #[error("another welcome for a session that is open")]
    SecondWelcome,
    /// A `welcome` for a protocol that was not offered.
    #[error("a welcome for protocol version {0}, which this launcher did not offer")]
    Protocol(u32),
    /// An acknowledgement of what was never sent.
    #[error("an acknowledgement up to {up_to} when only {sent} was sent")]
    NeverSent {
        /// What it acknowledges.
        up_to: u64,
        /// What was sent.
        sent: u64,
    },
    /// The main loop is behind.
    #[error("a {0} message while too many wait to be dealt with: it will be sent again")]
    Busy(String),
    /// The control plane does not know one of our kinds.
    #[error("the control plane is older than this launcher: it does not know {0} messages")]
    NotUnderstood(String),
    /// An answer for which only a session has use.
    #[error("OpenSSL failed: a message could not be signed")]
    Unsigned,
}

/// One `hello` and all that follows it.
pub struct Exchange {
    nonce: String,
    key: SessionKey,
    timing: Timing,
    state: State,
}

enum State {
    /// The `hello` is on its way.
    Greeting {
        deadline: Instant,
    },
    /// The `welcome` arrived.
    Open(Box<Open>),
    Over,
}

struct Open {
    leaf: SessionPublicKey,
    leaf_until: Instant,
    since: Instant,
    session: gantry_model::SessionId,
    inbox: Inbox,
    heartbeat_every: Duration,
    heartbeat_at: Instant,
    /// The control plane has everything up to this.
    acknowledged: u64,
    /// Everything up to this was sent at least once.
    sent: u64,
    /// When to send again what is not acknowledged, if there is any, and how long to wait then.
    resend_at: Option<Instant>,
    resend_after: Duration,
}

/// What an exchange begins with.
pub struct Beginning {
    /// The exchange.
    pub exchange: Exchange,
    /// What the broker publishes when the connection breaks.
    pub will: Bytes,
    /// What to publish first.
    pub hello: Bytes,
}

/// The part of `welcome` and `refused` that says who signed it.
#[derive(Deserialize)]
struct Signed {
    leaf: String,
}

/// Where messages of unknown kinds may name a run.
#[derive(Default, Deserialize)]
struct Named {
    attempt: Option<NamedRun>,
    run: Option<RunId>,
}

#[derive(Deserialize)]
struct NamedRun {
    run: RunId,
}

impl Exchange {
    /// Begins with a fresh nonce and a fresh key.
    ///
    /// # Errors
    /// When the `hello` does not fit the protocol, or OpenSSL fails.
    pub fn begin(context: &mut Context<'_>, timing: &Timing) -> Result<Beginning, SessionError> {
        let identity = &mut *context.identity;
        let nonce = identity.nonce();
        let key = SessionKey::generate()?;
        let (journal, runs) = (context.outgoing.journal(), context.outgoing.greet());
        let hello: FromLauncher = identity.hello(&nonce, key.public(), journal, runs).into();
        let id = identity.message_id();
        let binding = from_launcher(identity, "");
        let mut failure = None;
        let hello = Envelope::encode(&hello, id, None, &binding, |bytes| {
            match identity.key.sign_pss(bytes) {
                Ok(signature) => signature.as_bytes().to_vec(),
                Err(error) => {
                    failure = Some(error);
                    Vec::new()
                }
            }
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        let state = State::Greeting { deadline: context.now + timing.patience };
        let exchange = Self { nonce, key, timing: timing.clone(), state };
        let gone = Gone { nonce: exchange.nonce.clone() };
        let will = exchange.encode(context.identity, &gone.into(), None)?;
        Ok(Beginning { exchange, will, hello: hello.into() })
    }

    /// The `hello` is on the wire: from now on its answer may take [`Timing::patience`], however long it
    /// took to connect.
    pub fn greeted(&mut self, now: Instant) {
        if let State::Greeting { deadline } = &mut self.state {
            *deadline = now + self.timing.patience;
        }
    }

    /// Whether the `welcome` arrived.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Since when the session is open.
    #[must_use]
    pub fn open_since(&self) -> Option<Instant> {
        match &self.state {
            State::Open(open) => Some(open.since),
            State::Greeting { .. } | State::Over => None,
        }
    }

    /// When [`Exchange::tick`] is to be called next.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Greeting { deadline } => Some(*deadline),
            State::Open(open) => {
                let next = open.heartbeat_at.min(open.leaf_until);
                Some(open.resend_at.map_or(next, |resend_at| next.min(resend_at)))
            }
            State::Over => None,
        }
    }

    /// Takes what arrived.
    pub fn arrive(&mut self, context: &mut Context<'_>, payload: &[u8]) -> Vec<Effect> {
        let envelope = match Envelope::decode(payload) {
            Ok(envelope) => envelope,
            Err(error) => return vec![Effect::Refuse(error.into())],
        };
        let effects = match &self.state {
            State::Greeting { .. } => self.greet(context, &envelope),
            State::Open(_) => self.take(context, &envelope),
            State::Over => Ok(Vec::new()),
        };
        self.settle(effects.unwrap_or_else(|refusal| vec![Effect::Refuse(refusal)]))
    }

    /// Does what is due.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Vec<Effect> {
        let now = context.now;
        let mut effects = Vec::new();
        let open = match &mut self.state {
            State::Greeting { deadline } if *deadline <= now => {
                return self.settle(vec![Effect::End(End::Lost(LinkError::NoWelcome))]);
            }
            State::Greeting { .. } | State::Over => return effects,
            State::Open(open) => open,
        };
        if open.leaf_until <= now {
            return self.settle(vec![Effect::End(End::Lost(LinkError::LeafSpent))]);
        }
        let resend = open.resend_at.is_some_and(|at| at <= now);
        let (after, up_to) = (open.acknowledged, open.sent);
        if open.heartbeat_at <= now {
            effects.extend(self.heartbeat(context));
        }
        if resend {
            effects.extend(self.resend(context, after, up_to));
        }
        self.settle(effects)
    }

    /// Says again that the launcher lives: with the next heartbeat's content, now.
    pub fn heartbeat(&mut self, context: &mut Context<'_>) -> Vec<Effect> {
        let State::Open(open) = &mut self.state else { return Vec::new() };
        open.heartbeat_at = context.now + open.heartbeat_every;
        let heartbeat = Heartbeat {
            runs: context.outgoing.runs().into_iter().map(|run| run.attempt).collect(),
            is_healthy: context.health.complaint.is_none(),
            note: context.health.complaint.clone(),
        };
        vec![self.say(context.identity, &heartbeat.into())]
    }

    /// Sends what the journal has that was not sent yet.
    pub fn fill(&mut self, context: &mut Context<'_>) -> Vec<Effect> {
        let State::Open(open) = &self.state else { return Vec::new() };
        let (acknowledged, sent) = (open.acknowledged, open.sent);
        let room = IN_FLIGHT.saturating_sub(sent - acknowledged);
        if room == 0 {
            return Vec::new();
        }
        let waiting = context.outgoing.waiting(sent);
        let count = usize::try_from(room).unwrap_or(usize::MAX);
        let mut effects = Vec::new();
        for waiting in waiting.into_iter().take(count) {
            let seq = waiting.seq;
            match self.encode_waiting(context.identity, &waiting) {
                Ok(bytes) => effects.push(Effect::Publish(bytes)),
                Err(error) => {
                    effects.push(Effect::End(End::Fatal(error)));
                    return self.settle(effects);
                }
            }
            if let State::Open(open) = &mut self.state {
                open.sent = seq;
                let due = context.now + open.resend_after;
                open.resend_at.get_or_insert(due);
            }
        }
        effects
    }

    /// Acknowledges what became durable here.
    pub fn acknowledge(
        &mut self,
        context: &mut Context<'_>,
        receipts: &BTreeSet<Receipt>,
    ) -> Vec<Effect> {
        let State::Open(open) = &mut self.state else { return Vec::new() };
        let up_to = open.inbox.note_all(receipts);
        up_to.map(|up_to| self.say(context.identity, &Ack { up_to }.into())).into_iter().collect()
    }

    /// Sends a message that may be lost.
    pub fn send(&mut self, context: &mut Context<'_>, message: &FromLauncher) -> Vec<Effect> {
        if self.is_open() { vec![self.say(context.identity, message)] } else { Vec::new() }
    }

    /// Leaves.
    pub fn leave(&mut self, context: &mut Context<'_>, reason: &str) -> Vec<Effect> {
        let bye = Bye { reason: reason.to_owned() };
        let effects = self.send(context, &bye.into());
        self.state = State::Over;
        effects
    }

    /// Takes the answer to `hello`.
    fn greet(
        &mut self,
        context: &mut Context<'_>,
        envelope: &Envelope,
    ) -> Result<Vec<Effect>, Refusal> {
        if !matches!(envelope.kind.as_str(), "welcome" | "refused") {
            return Err(Refusal::TooEarly(short(&envelope.kind)));
        }
        if context.room < MOST_AT_ONCE {
            return Err(Refusal::Busy(short(&envelope.kind)));
        }
        let signed: Signed = serde_json::from_str(envelope.body.get())
            .map_err(|source| EnvelopeError::Body { kind: short(&envelope.kind), source })?;
        let leaf = verify_signing_leaf(&context.identity.ca, &signed.leaf)?;
        match self.open_envelope(context.identity, envelope, leaf)? {
            FromControlPlane::Welcome(welcome) => self.welcome(context, leaf, welcome),
            FromControlPlane::Refused(refused) => Ok(vec![Effect::End(End::Refused(refused))]),
            other @ (FromControlPlane::Offer(_)
            | FromControlPlane::Grant(_)
            | FromControlPlane::Revoke(_)
            | FromControlPlane::Cancel(_)
            | FromControlPlane::Urls(_)
            | FromControlPlane::Drain(_)
            | FromControlPlane::Cycle(_)
            | FromControlPlane::Ack(_)
            | FromControlPlane::Unsupported(_)) => Err(Refusal::TooEarly(other.kind().to_owned())),
        }
    }

    fn welcome(
        &mut self,
        context: &mut Context<'_>,
        leaf: SessionPublicKey,
        welcome: Welcome,
    ) -> Result<Vec<Effect>, Refusal> {
        if welcome.protocol != VERSION {
            return Err(Refusal::Protocol(welcome.protocol));
        }
        let (has, last) = (welcome.received, *context.outgoing.changed().borrow());
        if has > last && context.outgoing.waiting(has - 1).is_empty() {
            let ahead = SessionError::Ahead { has, last };
            return Ok(vec![Effect::End(End::Fatal(ahead))]);
        }
        // Told now, and not when a run is to be taken: everything that is said here would be too early.
        let begins = context.outgoing.waiting(0).first().map_or(last + 1, |first| first.seq);
        if has + 1 < begins {
            let gap = SessionError::Gap { has, begins };
            return Ok(vec![Effect::End(End::Fatal(gap))]);
        }
        let leaf_valid = Duration::from_millis(welcome.leaf_valid_ms).min(SIGNING_LEAF_LIFETIME);
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms);
        self.state = State::Open(Box::new(Open {
            leaf,
            leaf_until: context.now + leaf_valid,
            since: context.now,
            session: welcome.session,
            inbox: Inbox::new(welcome.session),
            heartbeat_every: heartbeat.clamp(HEARTBEAT.0, HEARTBEAT.1),
            heartbeat_at: context.now,
            acknowledged: welcome.received,
            sent: welcome.received,
            resend_at: None,
            resend_after: self.timing.resend,
        }));
        context.outgoing.opened(welcome.session);
        let mut effects = Vec::new();
        if welcome.received > 0 {
            effects.push(Effect::Acknowledge(welcome.received));
        }
        effects.push(Effect::Tell(SessionEvent::Opened(welcome)));
        effects.extend(self.heartbeat(context));
        Ok(effects)
    }

    /// Takes a message of the open session.
    fn take(
        &mut self,
        context: &mut Context<'_>,
        envelope: &Envelope,
    ) -> Result<Vec<Effect>, Refusal> {
        let State::Open(open) = &mut self.state else { return Ok(Vec::new()) };
        if context.room < MOST_AT_ONCE {
            return Err(Refusal::Busy(short(&envelope.kind)));
        }
        let leaf = open.leaf;
        let message = match self.open_envelope(context.identity, envelope, leaf) {
            Ok(message) => message,
            // Signed for this session, yet not understood: it must not hold up what comes after it.
            Err(error @ (EnvelopeError::UnknownKind(_) | EnvelopeError::Body { .. })) => {
                return Ok(self.not_understood(context, envelope, error));
            }
            Err(error) => return Err(error.into()),
        };
        match (message, envelope.seq) {
            (FromControlPlane::Ack(Ack { up_to }), _) => self.acknowledged(context.now, up_to),
            (FromControlPlane::Refused(refused), _) => Ok(vec![Effect::End(End::Refused(refused))]),
            (FromControlPlane::Welcome(welcome), _) => match &self.state {
                // The broker may deliver it twice.
                State::Open(open) if open.session == welcome.session => Ok(Vec::new()),
                State::Open(_) | State::Greeting { .. } | State::Over => {
                    Err(Refusal::SecondWelcome)
                }
            },
            (FromControlPlane::Unsupported(Unsupported { kind, .. }), _) => {
                Err(Refusal::NotUnderstood(short(&kind)))
            }
            (message, Some(seq)) => Ok(self.sequenced(context, seq, Some(message))),
            (message, None) => {
                Ok(vec![Effect::Tell(SessionEvent::Message { receipt: None, message })])
            }
        }
    }

    fn sequenced(
        &mut self,
        context: &mut Context<'_>,
        seq: u64,
        message: Option<FromControlPlane>,
    ) -> Vec<Effect> {
        let State::Open(open) = &mut self.state else { return Vec::new() };
        let taken = open.inbox.arrive(seq, message);
        let mut effects: Vec<_> = taken.events.into_iter().map(Effect::Tell).collect();
        if let Some(up_to) = taken.acknowledge {
            effects.push(self.say(context.identity, &Ack { up_to }.into()));
        }
        effects
    }

    fn not_understood(
        &mut self,
        context: &mut Context<'_>,
        envelope: &Envelope,
        error: EnvelopeError,
    ) -> Vec<Effect> {
        let named: Named = serde_json::from_str(envelope.body.get()).unwrap_or_default();
        let run = named.attempt.map(|attempt| attempt.run).or(named.run);
        let unsupported = Unsupported { kind: short(&envelope.kind), run };
        let mut effects = vec![Effect::Refuse(error.into())];
        effects.push(self.say(context.identity, &unsupported.into()));
        if let Some(seq) = envelope.seq {
            effects.extend(self.sequenced(context, seq, None));
        }
        effects
    }

    fn acknowledged(&mut self, now: Instant, up_to: u64) -> Result<Vec<Effect>, Refusal> {
        let State::Open(open) = &mut self.state else { return Ok(Vec::new()) };
        if up_to > open.sent {
            return Err(Refusal::NeverSent { up_to, sent: open.sent });
        }
        if up_to <= open.acknowledged {
            return Ok(Vec::new());
        }
        open.acknowledged = up_to;
        open.resend_after = self.timing.resend;
        open.resend_at = (open.sent > up_to).then(|| now + open.resend_after);
        Ok(vec![Effect::Acknowledge(up_to)])
    }

    /// Sends again what is not acknowledged, each time after a longer wait while nothing is.
    fn resend(&mut self, context: &mut Context<'_>, after: u64, up_to: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let waiting = context.outgoing.waiting(after);
        for waiting in waiting.into_iter().take_while(|waiting| waiting.seq <= up_to) {
            match self.encode_waiting(context.identity, &waiting) {
                Ok(bytes) => effects.push(Effect::Publish(bytes)),
                Err(error) => effects.push(Effect::End(End::Fatal(error))),
            }
        }
        if let State::Open(open) = &mut self.state {
            open.resend_after = (open.resend_after * 2).min(LONGEST_RESEND);
            open.resend_at = Some(context.now + open.resend_after);
        }
        effects
    }

    /// After an end nothing more is taken or sent.
    fn settle(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        if effects.iter().any(|effect| matches!(effect, Effect::End(_))) {
            self.state = State::Over;
        }
        effects
    }

    fn open_envelope(
        &self,
        identity: &Identity,
        envelope: &Envelope,
        leaf: SessionPublicKey,
    ) -> Result<FromControlPlane, EnvelopeError> {
        let direction = Direction::FromControlPlane;
        let binding = Binding { direction, ..from_launcher(identity, &self.nonce) };
        envelope.open(&binding, |bytes, signature| {
            Signature::from_bytes(signature.to_vec())
                .is_ok_and(|signature| leaf.verify(bytes, &signature).is_ok())
        })
    }

    /// A message of the journal. One that is too long is cut: it holds up everything behind it until the
    /// control plane has it, whatever a container or a policy put into it.
    fn encode_waiting(
        &self,
        identity: &mut Identity,
        waiting: &Waiting,
    ) -> Result<Bytes, SessionError> {
        let numbered = Some((waiting.seq, waiting.id));
        match self.encode_body(identity, &waiting.kind, &waiting.body, numbered) {
            Err(SessionError::Message(EnvelopeError::TooLarge { .. })) => {
                self.encode(identity, &waiting.message()?.shortened(), numbered)
            }
            encoded => encoded,
        }
    }

    /// A message of this session that has no place in the order. One that cannot be said is refused:
    /// none of them is indispensable.
    fn say(&self, identity: &mut Identity, message: &FromLauncher) -> Effect {
        match self.encode(identity, message, None) {
            Ok(bytes) => Effect::Publish(bytes),
            Err(SessionError::Message(error)) => Effect::Refuse(error.into()),
            Err(_) => Effect::Refuse(Refusal::Unsigned),
        }
    }

    fn encode(
        &self,
        identity: &mut Identity,
        message: &FromLauncher,
        numbered: Option<(u64, gantry_model::MessageId)>,
    ) -> Result<Bytes, SessionError> {
        let kind = message.kind();
        let is_sequenced = message.is_sequenced();
        if numbered.is_some() != is_sequenced {
            return Err(EnvelopeError::Seq(kind.to_owned()).into());
        }
        let body = message
            .body()
            .map_err(|source| EnvelopeError::Body { kind: kind.to_owned(), source })?;
        self.encode_body(identity, kind, &body, numbered)
    }

    fn encode_body(
        &self,
        identity: &mut Identity,
        kind: &str,
        body: &RawValue,
        numbered: Option<(u64, gantry_model::MessageId)>,
    ) -> Result<Bytes, SessionError> {
        let (seq, id) = match numbered {
            Some((seq, id)) => (Some(seq), id),
            None => (None, identity.message_id()),
        };
        let binding = from_launcher(identity, &self.nonce);
        let mut failure = None;
        let bytes = Envelope::encode_body(kind, body, id, seq, &binding, |bytes| {
            match self.key.sign(bytes) {
                Ok(signature) => signature.as_bytes().to_vec(),
                Err(error) => {
                    failure = Some(error);
                    Vec::new()
                }
            }
        })?;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(bytes.into()),
        }
    }
}

fn from_launcher<'a>(identity: &Identity, nonce: &'a str) -> Binding<'a> {
    Binding {
        direction: Direction::FromLauncher,
        pool: identity.pool(),
        worker: identity.address.worker,
        nonce,
    }
}

/// At most 64 characters of a kind.
fn short(kind: &str) -> String {
    kind.chars().take(64).collect()
}
