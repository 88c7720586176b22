//! Where launchers' messages are checked, taken in once and in order, and answered.
//!
//! A message counts only within the session that its sender's `hello` began: it is signed with the
//! key that the hello introduced and bound to its nonce. Sessions live in memory: after a restart
//! every launcher says hello again. What a message changes, and how far its journal was taken in,
//! become durable in one transaction; only then is it acknowledged.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use gantry_model::{Attempt, JournalId, PoolId, WorkerId};
use gantry_protocol::message::{
    Ack, Arrival, Binding, Direction, Envelope, EnvelopeError, FromControlPlane, FromLauncher,
    Unsupported, Window,
};
use gantry_protocol::{SessionPublicKey, Signature, SigningLeaf};

use crate::control_plane::{ControlPlane, WorkerKey};
use crate::error::OperationError;
use crate::store::sessions;
use crate::transport::Arrived;
use crate::unit_of_work::Unit;

/// A launcher's session: what its messages and ours are bound to.
#[derive(Debug)]
pub(crate) struct Bond {
    /// The hello's nonce, as it spelled it.
    pub(crate) nonce: String,
    /// What the launcher signs with.
    pub(crate) key: SessionPublicKey,
    /// What we sign with.
    pub(crate) leaf: Arc<SigningLeaf>,
    /// The journal that the launcher goes on with.
    pub(crate) journal: JournalId,
    /// Write stages that were granted to this journal and that the hello did not name. That they never
    /// started counts only once a later message proves that the hello was not an old one held back
    /// on its way.
    pub(crate) unnamed: Vec<Attempt>,
}

/// How far the messages of each session were taken in.
pub(crate) type Intakes = HashMap<WorkerKey, Intake>;

/// How far the messages of a session were taken in.
pub(crate) struct Intake {
    nonce: String,
    /// None stands for a message that nobody here understands: it takes its place in the order.
    window: Window<Option<FromLauncher>>,
    /// What of that is durable.
    durable: u64,
    /// A message came that only this session's launcher can have sent.
    is_proven: bool,
}

impl Intake {
    /// Nothing of the session came yet; of its journal everything up to `received` did.
    pub(super) fn new(nonce: String, received: u64) -> Self {
        Self { nonce, window: Window::after(received), durable: received, is_proven: false }
    }
}

/// The sender of a message, proven.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) pool: PoolId,
    pub(crate) worker: WorkerId,
    pub(crate) bond: Arc<Bond>,
    control_plane: ControlPlane,
}

impl Sender {
    pub(crate) const fn key(&self) -> WorkerKey {
        (self.pool, self.worker)
    }

    /// Says why something that it sent is not kept. It is acknowledged all the same: sent again, it
    /// would be no better.
    pub(crate) fn refuse(&self, attempt: Attempt, what: &str, why: &str) {
        self.control_plane.tell(self.key(), format_args!("refused a {what} of {attempt}: {why}"));
    }
}

/// What a transaction touched besides the database.
#[derive(Default)]
struct Touched {
    acknowledge: HashMap<WorkerKey, Arc<Bond>>,
}

impl ControlPlane {
    /// Says what became of something that a launcher sent, as often as its pool may cause that. What the
    /// launcher has written is quoted, so that it cannot pass for a line of ours.
    pub(super) fn tell(&self, (pool, worker): WorkerKey, what: fmt::Arguments<'_>) {
        if let Some(turn) = self.inner.lines.take(pool, self.now().0) {
            let unsaid = turn.held_back;
            tracing::warn!(%pool, %worker, unsaid, "{what}");
        }
    }

    /// Takes in messages. Those of one call share a transaction; if that fails, each gets its own.
    pub async fn take_in(&self, batch: Vec<Arrived>) {
        let mut intakes = self.inner.intakes.lock().await;
        let Err(error) = self.take_in_all(&mut intakes, &batch).await else { return };
        if batch.len() > 1 {
            for arrived in batch {
                let one = std::slice::from_ref(&arrived);
                if let Err(error) = self.take_in_all(&mut intakes, one).await {
                    report(&arrived, &error);
                }
            }
        } else if let Some(arrived) = batch.first() {
            report(arrived, &error);
        }
    }

    async fn take_in_all(
        &self,
        intakes: &mut Intakes,
        batch: &[Arrived],
    ) -> Result<(), OperationError> {
        let result = self.one_transaction(intakes, batch).await;
        for arrived in batch {
            if let Some(intake) = intakes.get_mut(&(arrived.pool, arrived.worker)) {
                if result.is_ok() {
                    intake.durable = intake.window.received();
                } else {
                    // Not durable, so not taken in: the sender sends it again. What a proof led to
                    // was undone too; done a second time it changes nothing.
                    intake.window = Window::after(intake.durable);
                    intake.is_proven = false;
                }
            }
        }
        result
    }

    async fn one_transaction(
        &self,
        intakes: &mut Intakes,
        batch: &[Arrived],
    ) -> Result<(), OperationError> {
        let mut unit = self.begin().await?;
        let mut touched = Touched::default();
        for arrived in batch {
            self.take_in_one(&mut unit, intakes, &mut touched, arrived).await?;
        }
        for ((pool, worker), bond) in touched.acknowledge {
            let Some(intake) = intakes.get(&(pool, worker)) else { continue };
            let up_to = intake.window.received();
            sessions::set_received(unit.conn(), (pool, worker), bond.journal, up_to).await?;
            unit.say((pool, worker), bond, FromControlPlane::Ack(Ack { up_to }));
        }
        unit.commit().await?;
        Ok(())
    }

    async fn take_in_one(
        &self,
        unit: &mut Unit,
        intakes: &mut Intakes,
        touched: &mut Touched,
        arrived: &Arrived,
    ) -> Result<(), OperationError> {
        let (pool, worker) = (arrived.pool, arrived.worker);
        let envelope = match Envelope::decode(&arrived.payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.tell((pool, worker), format_args!("refused a message: {error}"));
                return Ok(());
            }
        };
        if envelope.kind == "hello" {
            if let Some(intake) = self.hello(unit, arrived, &envelope).await? {
                touched.acknowledge.remove(&(pool, worker));
                intakes.insert((pool, worker), intake);
            }
            return Ok(());
        }
        let Some(bond) = self.bond((pool, worker)) else {
            let kind = kind(&envelope);
            self.tell((pool, worker), format_args!("refused a {kind:?} before any hello"));
            return Ok(());
        };
        let sender = Sender { pool, worker, bond, control_plane: self.clone() };
        let message = match open(unit, &sender, &envelope) {
            Opened::Message(message) => {
                self.proven(unit, intakes, &sender, &message).await?;
                Some(*message)
            }
            Opened::NotUnderstood => None,
            Opened::Refused => return Ok(()),
        };
        let Some(seq) = envelope.seq else {
            return match message {
                Some(message) => self.loose(unit, &sender, message).await,
                None => Ok(()),
            };
        };
        let Some(intake) = intakes.get_mut(&sender.key()) else { return Ok(()) };
        let next = match intake.window.arrive(seq, message) {
            Arrival::Next(next) => next,
            Arrival::Repeated => Vec::new(),
            Arrival::Early => return Ok(()),
        };
        touched.acknowledge.insert(sender.key(), Arc::clone(&sender.bond));
        for message in next.into_iter().filter_map(|(_, message)| message) {
            self.sequenced(unit, &sender, message).await?;
        }
        Ok(())
    }

    /// The sender has our welcome, so its hello was not an old one: what that did not name was never
    /// started.
    async fn proven(
        &self,
        unit: &mut Unit,
        intakes: &mut Intakes,
        sender: &Sender,
        message: &FromLauncher,
    ) -> Result<(), OperationError> {
        let Some(intake) = intakes.get_mut(&sender.key()) else { return Ok(()) };
        // A launcher says these without having a welcome, so that they may be old ones.
        let is_proof = !matches!(message, FromLauncher::Gone(_) | FromLauncher::Bye(_));
        if intake.is_proven || !is_proof || intake.nonce != sender.bond.nonce {
            return Ok(());
        }
        for attempt in &sender.bond.unnamed {
            self.never_started(unit, sender, *attempt).await?;
        }
        intake.is_proven = true;
        Ok(())
    }

    /// What a message of a kind that must not be lost changes.
    async fn sequenced(
        &self,
        unit: &mut Unit,
        sender: &Sender,
        message: FromLauncher,
    ) -> Result<(), OperationError> {
        match message {
            FromLauncher::Claim(claim) => self.claim(unit, sender, claim).await,
            FromLauncher::Decline(decline) => self.decline(unit, sender, decline).await,
            FromLauncher::Phase(report) => self.phase(unit, sender, report).await,
            FromLauncher::Segment(segment) => self.segment(unit, sender, segment).await,
            FromLauncher::State(state) => self.state_stored(unit, sender, state).await,
            FromLauncher::Workspace(stored) => self.workspace_stored(unit, sender, stored).await,
            FromLauncher::Decision(decision) => self.decision(unit, sender, decision).await,
            FromLauncher::Outputs(more) => self.keep_outputs(unit, sender, more).await,
            FromLauncher::Result(result) => self.result(unit, sender, result).await,
            FromLauncher::Hello(_)
            | FromLauncher::Heartbeat(_)
            | FromLauncher::NeedUrls(_)
            | FromLauncher::Bye(_)
            | FromLauncher::Gone(_)
            | FromLauncher::Ack(_)
            | FromLauncher::Unsupported(_) => Ok(()),
        }
    }
}

fn report(arrived: &Arrived, error: &OperationError) {
    let Arrived { pool, worker, .. } = arrived;
    tracing::error!(%pool, %worker, error = %error, "cannot take in a message; its sender sends it again");
}

fn kind(envelope: &Envelope) -> String {
    envelope.kind.chars().take(64).collect()
}

/// What an envelope turned out to hold.
enum Opened {
    /// A message of the sender's session.
    Message(Box<FromLauncher>),
    /// Something of the sender's session that this version cannot make sense of. With a `seq` it is
    /// passed over: a newer launcher must not wait for ever to have it acknowledged.
    NotUnderstood,
    /// Nothing that the sender's session has said.
    Refused,
}

fn open(unit: &mut Unit, sender: &Sender, envelope: &Envelope) -> Opened {
    let Sender { pool, worker, bond, .. } = sender;
    let binding = Binding {
        direction: Direction::FromLauncher,
        pool: *pool,
        worker: *worker,
        nonce: &bond.nonce,
    };
    let verify = |bytes: &[u8], signature: &[u8]| {
        Signature::from_bytes(signature.to_vec())
            .is_ok_and(|signature| bond.key.verify(bytes, &signature).is_ok())
    };
    match envelope.open::<FromLauncher>(&binding, verify) {
        Ok(message) => Opened::Message(Box::new(message)),
        Err(EnvelopeError::UnknownKind(kind)) => {
            let unsupported = Unsupported { kind: kind.chars().take(64).collect(), run: None };
            let answer = FromControlPlane::Unsupported(unsupported);
            unit.say(sender.key(), Arc::clone(bond), answer);
            Opened::NotUnderstood
        }
        Err(error @ (EnvelopeError::Body { .. } | EnvelopeError::Seq(_))) => {
            let kind = kind(envelope);
            sender
                .control_plane
                .tell(sender.key(), format_args!("passed over a {kind:?}: {error}"));
            Opened::NotUnderstood
        }
        Err(
            error @ (EnvelopeError::TooLarge { .. }
            | EnvelopeError::Malformed(_)
            | EnvelopeError::Version(_)
            | EnvelopeError::Signature(_)),
        ) => {
            let kind = kind(envelope);
            sender.control_plane.tell(sender.key(), format_args!("refused a {kind:?}: {error}"));
            Opened::Refused
        }
    }
}
