//! One transaction and everything that follows from it: messages that leave, people who watch, a
//! scheduler that looks again. Nothing of that happens unless the transaction is durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::{Attempt, MessageId, PoolId, RunId, Timestamp, WorkerId};
use gantry_protocol::message::{FromControlPlane, Message as _, Revoke};
use tokio::sync::OwnedMutexGuard;

use super::Core;
use super::outbound::{OutboundMessage, RESEND_MS};
use super::sessions::LauncherSession;
use crate::store::audit::{self, AuditEntry};
use crate::store::outbox::{self, OutboxRow};
use crate::store::{Connection, StoreError, Transaction, WorkerKey, workers};

/// What follows in memory from a transaction that is durable.
type Consequence = Box<dyn FnOnce() + Send>;

/// A transaction under way.
pub(crate) struct UnitOfWork {
    core: Core,
    tx: Transaction,
    now: Timestamp,
    changed: BTreeSet<RunId>,
    acting: Option<(RunId, String)>,
    messages: Vec<OutboundMessage>,
    begun: Begun,
    wakes: bool,
    consequences: Vec<Consequence>,
    /// Let go last, when everything that follows is done.
    _turn: OwnedMutexGuard<()>,
}

/// Sessions that began in a transaction and end with it unless it becomes durable: whoever said hello
/// gets no welcome and says it again.
struct Begun {
    core: Core,
    workers: Vec<WorkerKey>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        for worker in self.workers.drain(..) {
            self.core.sessions().end(worker);
        }
    }
}

impl UnitOfWork {
    pub(super) fn new(core: Core, tx: Transaction, turn: OwnedMutexGuard<()>) -> Self {
        Self {
            tx,
            now: core.now(),
            changed: BTreeSet::new(),
            acting: None,
            messages: Vec::new(),
            begun: Begun { core: core.clone(), workers: Vec::new() },
            wakes: false,
            consequences: Vec::new(),
            core,
            _turn: turn,
        }
    }

    /// The connection inside the transaction.
    pub(crate) fn conn(&mut self) -> &mut Connection {
        &mut self.tx
    }

    /// When the transaction began.
    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    /// Those who watch the run will be told.
    pub(crate) fn changed(&mut self, run: RunId) {
        self.changed.insert(run);
    }

    /// What becomes of this run in the transaction is this person's or program's doing.
    pub(crate) fn acts(&mut self, actor: &str, run: RunId) {
        self.acting = Some((run, actor.to_owned()));
    }

    /// Whose doing it is, if somebody acts on this run.
    pub(crate) fn actor_of(&self, run: RunId) -> Option<String> {
        let acting = self.acting.as_ref().filter(|(acted_on, _)| *acted_on == run);
        acting.map(|(_, actor)| actor.clone())
    }

    /// The scheduler will look again.
    pub(crate) fn wake(&mut self) {
        self.wakes = true;
    }

    /// Does this if the transaction becomes durable, and before another one begins: so that memory
    /// follows the database in its order.
    pub(crate) fn then(&mut self, consequence: impl FnOnce() + Send + 'static) {
        self.consequences.push(Box::new(consequence));
    }

    /// Begins a worker's session, which counts from the next [`UnitOfWork::post`] on.
    pub(crate) fn begin_session(&mut self, worker: WorkerKey, session: Arc<LauncherSession>) {
        self.begun.workers.push(worker);
        self.core.sessions().begin(worker, session);
    }

    /// Whether this session is still the worker's present one.
    pub(crate) fn is_present(&self, worker: WorkerKey, session: &Arc<LauncherSession>) -> bool {
        self.core.sessions().is_present(worker, session)
    }

    /// Sends a message of a kind that must not be lost. A worker without a session gets none: its
    /// hello brings all that it needs.
    pub(crate) async fn post(
        &mut self,
        pool: PoolId,
        worker: WorkerId,
        message: FromControlPlane,
    ) -> Result<(), StoreError> {
        let worker = (pool, worker);
        let Some(session) = self.core.sessions().get(worker) else { return Ok(()) };
        let Some(seq) = workers::next_seq(self.conn(), worker).await? else { return Ok(()) };
        let id = self.message_id();
        let body = message.body().expect("our own messages can be spelled");
        let row = OutboxRow {
            worker,
            seq,
            id,
            kind: message.kind().to_owned(),
            body: body.get().to_owned(),
        };
        let next_at = self.now.plus_ms(RESEND_MS);
        outbox::insert_message(self.conn(), &row, next_at).await?;
        self.messages.push(OutboundMessage { worker, session, id, seq: Some(seq), message });
        self.wake();
        Ok(())
    }

    /// Tells a worker that an attempt is not its own any more.
    pub(crate) async fn revoke(
        &mut self,
        (pool, worker): WorkerKey,
        attempt: Attempt,
        reason: &str,
    ) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        self.post(pool, worker, FromControlPlane::Revoke(Revoke { attempt, reason })).await
    }

    /// Sends a message of a kind that may be lost.
    pub(crate) fn notify(
        &mut self,
        worker: WorkerKey,
        session: Arc<LauncherSession>,
        message: FromControlPlane,
    ) {
        let id = self.message_id();
        self.messages.push(OutboundMessage { worker, session, id, seq: None, message });
    }

    fn message_id(&self) -> MessageId {
        MessageId::from_ulid(self.core.ids().ulid(self.now))
    }

    /// Makes it durable, then does what follows from it.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let Self { core, tx, changed, messages, mut begun, wakes, consequences, _turn, .. } = self;
        tx.commit().await?;
        begun.workers.clear();
        for consequence in consequences {
            consequence();
        }
        for message in messages {
            core.outbound().push(message);
        }
        for run in changed {
            core.watchers().changed(run);
        }
        if wakes {
            core.wake();
        }
        Ok(())
    }

    /// Writes down who changed what through the API.
    pub(crate) async fn audit(
        &mut self,
        actor: &str,
        act: &str,
        subject: &str,
        detail: &str,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry {
            id: self.message_id().to_string(),
            at: self.now,
            actor: actor.to_owned(),
            act: act.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        };
        audit::insert_entry(self.conn(), &entry).await
    }
}
