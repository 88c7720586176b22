//! Launchers' messages come in: decoded, verified and ordered outside of any transaction; applied in one;
//! then acknowledged.
//!
//! What a message changes, and how far its journal was received, become durable together. Sessions live in
//! memory: after a restart every launcher says hello again.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use gantry_protocol::message::{Ack, Envelope, FromControlPlane, FromLauncher, Unsupported};
use tokio::sync::Mutex;

use super::order::{Ordered, Positions, Step};
use super::verify::{Sender, Unverified, Verified, quoted_kind, verify};
use crate::authority::Issuer;
use crate::clock::unix_seconds;
use crate::core::{Core, UnitOfWork};
use crate::error::OperationError;
use crate::fleet::Hellos;
use crate::fleet::notices::Notices;
use crate::fleet::verify::SignatureCheck;
use crate::pools::certificates::Certificates;
use crate::queue::Specs;
use crate::store::{WorkerKey, sessions};
use crate::transport::Arrived;

/// A message that is spelled as one.
#[derive(Clone)]
struct Decoded {
    worker: WorkerKey,
    envelope: Arc<Envelope>,
}

impl Decoded {
    fn is_hello(&self) -> bool {
        self.envelope.kind == "hello"
    }
}

/// Takes in what launchers say. Clones are the same.
#[derive(Clone)]
pub struct Ingest {
    pub(super) core: Core,
    pub(super) issuer: Arc<Issuer>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) specs: Specs,
    pub(super) notices: Arc<Notices>,
    pub(super) hellos: Arc<Hellos>,
    pub(crate) positions: Arc<Mutex<Positions>>,
    signatures: Arc<dyn SignatureCheck>,
}

impl Deref for Ingest {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Ingest {
    #[expect(clippy::too_many_arguments, reason = "what it needs is what it is made of")]
    pub(crate) fn new(
        core: Core,
        issuer: Arc<Issuer>,
        certificates: Arc<Certificates>,
        specs: Specs,
        notices: Arc<Notices>,
        hellos: Arc<Hellos>,
        positions: Arc<Mutex<Positions>>,
        signatures: Arc<dyn SignatureCheck>,
    ) -> Self {
        Self { core, issuer, certificates, specs, notices, hellos, positions, signatures }
    }

    /// Receives messages, in the order in which they came. Those of one call share a transaction as far as
    /// that can be; if it fails, each gets its own.
    pub async fn receive(&self, batch: Vec<Arrived>) {
        let decoded = batch.into_iter().filter_map(|arrived| self.decode(&arrived)).collect();
        let mut positions = self.positions.lock().await;
        for group in groups(decoded) {
            let Err(error) = self.receive_together(&mut positions, &group).await else { continue };
            let [one] = group.as_slice() else {
                for one in &group {
                    let alone = std::slice::from_ref(one);
                    if let Err(error) = self.receive_together(&mut positions, alone).await {
                        report(one, &error);
                    }
                }
                continue;
            };
            report(one, &error);
        }
    }

    async fn receive_together(
        &self,
        positions: &mut Positions,
        group: &[Decoded],
    ) -> Result<(), OperationError> {
        let verified = self.verify(group).await?;
        let ordered = positions.order(verified);
        let applied = self.apply(positions, ordered).await;
        for message in group {
            match applied {
                Ok(()) => positions.keep(message.worker),
                Err(_) => positions.set_back(message.worker),
            }
        }
        applied
    }

    fn decode(&self, arrived: &Arrived) -> Option<Decoded> {
        let worker = (arrived.pool, arrived.worker);
        match Envelope::decode(&arrived.payload) {
            Ok(envelope) => Some(Decoded { worker, envelope: Arc::new(envelope) }),
            Err(error) => {
                self.notices.say(worker, format_args!("refused a message: {error}"));
                None
            }
        }
    }

    async fn verify(&self, group: &[Decoded]) -> Result<Vec<Verified>, OperationError> {
        let messages: Vec<Unverified> =
            group.iter().filter_map(|message| self.unverified(message)).collect();
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let check = Arc::clone(&self.signatures);
        let notices = Arc::clone(&self.notices);
        let job = move || verify(messages, check.as_ref(), &notices);
        let verified = tokio::task::spawn_blocking(job).await;
        verified.map_err(|_| OperationError::Conflict("signatures could not be checked".to_owned()))
    }

    /// What a message has to be checked with.
    fn unverified(&self, message: &Decoded) -> Option<Unverified> {
        let Decoded { worker, envelope } = message.clone();
        if !message.is_hello() {
            let Some(session) = self.sessions().get(worker) else {
                let kind = quoted_kind(&envelope);
                let what = format_args!("refused a {kind:?} before any hello");
                self.notices.say(worker, what);
                return None;
            };
            return Some(Unverified::Message { worker, envelope, session });
        }
        if !self.hellos.admit(worker, self.now().0) {
            let what = format_args!("passed over a hello: there are too many");
            self.notices.say(worker, what);
            return None;
        }
        let identity = self.certificates.identity(worker.0)?;
        let leaf = self.issuer.signing_leaf(unix_seconds(self.now())).inspect_err(|error| {
            tracing::error!(%error, "cannot issue a signing certificate; launchers say hello again");
        });
        Some(Unverified::Hello { worker, envelope, identity, leaf: leaf.ok()? })
    }

    /// Does what messages ask for, and acknowledges them, in one transaction.
    async fn apply(
        &self,
        positions: &mut Positions,
        ordered: Ordered,
    ) -> Result<(), OperationError> {
        if ordered.steps.is_empty() && ordered.acknowledge.is_empty() {
            return Ok(());
        }
        let mut unit = self.begin().await?;
        let mut begun = Vec::new();
        for step in ordered.steps {
            match step {
                Step::Hello(hello) => {
                    let worker = hello.worker;
                    let position = self.hello(&mut unit, *hello).await?;
                    begun.extend(position.map(|position| (worker, position)));
                }
                Step::Proven(sender) if is_present(&unit, &sender) => {
                    for attempt in &sender.session.unnamed {
                        self.never_started(&mut unit, &sender, *attempt).await?;
                    }
                }
                Step::Sequenced(sender, message) if is_present(&unit, &sender) => {
                    self.sequenced(&mut unit, &sender, message).await?;
                }
                Step::Unsequenced(sender, message) if is_present(&unit, &sender) => {
                    self.unsequenced(&mut unit, &sender, message).await?;
                }
                Step::Unknown(sender, kind) => {
                    let answer = FromControlPlane::Unsupported(Unsupported { kind, run: None });
                    unit.notify(sender.key(), sender.session, answer);
                }
                // Its session has ended since: it is no message of anybody.
                Step::Proven(_) | Step::Sequenced(..) | Step::Unsequenced(..) => {}
            }
        }
        for (worker, session) in ordered.acknowledge {
            let Some(up_to) = positions.received(worker) else { continue };
            if unit.is_present(worker, &session) {
                sessions::set_received(unit.conn(), worker, session.journal, up_to).await?;
                unit.notify(worker, session, FromControlPlane::Ack(Ack { up_to }));
            }
        }
        unit.commit().await?;
        for (worker, position) in begun {
            positions.begin(worker, position);
        }
        Ok(())
    }

    /// What a message of a kind that must not be lost changes.
    async fn sequenced(
        &self,
        unit: &mut UnitOfWork,
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

fn is_present(unit: &UnitOfWork, sender: &Sender) -> bool {
    unit.is_present(sender.key(), &sender.session)
}

/// Messages that can share a transaction: a worker's hello and its other messages cannot, because what they
/// are checked with is another session's.
fn groups(messages: Vec<Decoded>) -> Vec<Vec<Decoded>> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let mut has_hello: HashMap<WorkerKey, bool> = HashMap::new();
    for message in messages {
        let is_hello = message.is_hello();
        if has_hello.get(&message.worker).is_some_and(|has_hello| *has_hello || is_hello) {
            groups.push(std::mem::take(&mut group));
            has_hello.clear();
        }
        has_hello.insert(message.worker, is_hello);
        group.push(message);
    }
    groups.push(group);
    groups
}

fn report(message: &Decoded, error: &OperationError) {
    let (pool, worker) = message.worker;
    let error = error as &dyn std::error::Error;
    tracing::error!(%pool, %worker, error, "cannot receive a message; its sender sends it again");
}
