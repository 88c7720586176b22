//! One transaction and everything that follows from it: messages that leave, people who watch, a
//! scheduler that looks again. Nothing of that happens unless the transaction is durable.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_model::{MessageId, PoolId, RunId, Timestamp, WorkerId};
use gantry_protocol::message::{FromControlPlane, Message as _};
use tokio::sync::OwnedMutexGuard;

use crate::control_plane::{ControlPlane, WorkerKey};
use crate::fleet::Bond;
use crate::fleet::outbound::{Parcel, RESEND_MS};
use crate::store::audit::{self, AuditEntry};
use crate::store::outbox::{self, OutboxRow};
use crate::store::{Connection, StoreError, Transaction, workers};

/// What follows in memory from a transaction that is durable.
type Consequence = Box<dyn FnOnce(&ControlPlane) + Send>;

/// A transaction under way.
pub(crate) struct Unit {
    control_plane: ControlPlane,
    tx: Transaction,
    now: Timestamp,
    changed: BTreeSet<RunId>,
    acting: Option<(RunId, String)>,
    parcels: Vec<Parcel>,
    bound: Bound,
    wakes: bool,
    consequences: Vec<Consequence>,
    /// Let go last, when everything that follows is done.
    _gate: OwnedMutexGuard<()>,
}

/// Sessions that began in a transaction and end with it unless it becomes durable: whoever said hello
/// gets no welcome and says it again.
struct Bound {
    control_plane: ControlPlane,
    keys: Vec<WorkerKey>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        for key in self.keys.drain(..) {
            self.control_plane.set_bond(key, None);
        }
    }
}

impl ControlPlane {
    /// Begins a transaction; others wait until it is over.
    pub(crate) async fn begin(&self) -> Result<Unit, StoreError> {
        let gate = Arc::clone(&self.inner.gate).lock_owned().await;
        Ok(Unit {
            control_plane: self.clone(),
            tx: self.store().begin().await?,
            now: self.now(),
            changed: BTreeSet::new(),
            acting: None,
            parcels: Vec::new(),
            bound: Bound { control_plane: self.clone(), keys: Vec::new() },
            wakes: false,
            consequences: Vec::new(),
            _gate: gate,
        })
    }
}

impl Unit {
    /// The connection inside the transaction.
    pub(crate) fn conn(&mut self) -> &mut Connection {
        &mut self.tx
    }

    /// When the transaction began.
    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) const fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
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
    pub(crate) fn then(&mut self, consequence: impl FnOnce(&ControlPlane) + Send + 'static) {
        self.consequences.push(Box::new(consequence));
    }

    /// The worker's new session: counts from the next [`Unit::post`] on.
    pub(crate) fn bind(&mut self, key: WorkerKey, bond: Arc<Bond>) {
        self.bound.keys.push(key);
        self.control_plane.set_bond(key, Some(bond));
    }

    /// Sends a message of a kind that must not be lost. A worker without a session gets none: its
    /// hello brings all that it needs.
    pub(crate) async fn post(
        &mut self,
        pool: PoolId,
        worker: WorkerId,
        message: FromControlPlane,
    ) -> Result<(), StoreError> {
        let Some(bond) = self.control_plane.bond((pool, worker)) else { return Ok(()) };
        let key = (pool, worker);
        let Some(seq) = workers::next_seq(self.conn(), key).await? else { return Ok(()) };
        let id = self.message_id();
        let body = message.body().expect("our own messages can be spelled");
        let row = OutboxRow {
            worker: key,
            seq,
            id,
            kind: message.kind().to_owned(),
            body: body.get().to_owned(),
        };
        let next_at = self.now.plus_ms(RESEND_MS);
        outbox::insert_message(self.conn(), &row, next_at).await?;
        self.parcels.push(Parcel { pool, worker, bond, id, seq: Some(seq), message });
        self.wake();
        Ok(())
    }

    /// Sends a message of a kind that may be lost.
    pub(crate) fn say(&mut self, key: WorkerKey, bond: Arc<Bond>, message: FromControlPlane) {
        let id = self.message_id();
        let (pool, worker) = key;
        self.parcels.push(Parcel { pool, worker, bond, id, seq: None, message });
    }

    fn message_id(&self) -> MessageId {
        MessageId::from_ulid(self.control_plane.ids().ulid(self.now))
    }

    /// Makes it durable, then does what follows from it.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let Self {
            control_plane, tx, changed, parcels, mut bound, wakes, consequences, _gate, ..
        } = self;
        tx.commit().await?;
        bound.keys.clear();
        for consequence in consequences {
            consequence(&control_plane);
        }
        for parcel in parcels {
            control_plane.hand_over(parcel);
        }
        for run in changed {
            control_plane.watchers().changed(run);
        }
        if wakes {
            control_plane.inner.wake.notify_one();
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
