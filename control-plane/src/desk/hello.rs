//! `hello`: a launcher begins a session, and says what it has in hand.
//!
//! Nothing but the hello's own signature and a nonce that was never used before proves it. It settles
//! everything that was between this worker and us: what it does not name was never started, what it
//! names and has no right to is not its own, and what it still needs to hear it hears again.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Attempt, PoolId, SessionId};
use gantry_protocol::SIGNING_LEAF_LIFETIME;
use gantry_protocol::SessionPublicKey;
use gantry_protocol::message::{
    Binding, Direction, Envelope, FromControlPlane, FromLauncher, Hello, RefusalReason, Refused,
    VERSION, Welcome, Window,
};
use gantry_protocol::{Signature, SigningLeaf};
use sqlx::Row as _;

use super::{Bond, Intake, hellos};
use crate::control_plane::{ControlPlane, WorkerKey, unix_seconds};
use crate::dispatch::millis;
use crate::error::OperationError;
use crate::store::{at, from_db, to_db, to_json};
use crate::transport::Arrived;
use crate::unit::Unit;
use crate::workers::MAX_WORKERS;

/// The longest text of a launcher about itself that is kept.
const MAX_TEXT: usize = 200;
/// The most metadata of a launcher: the bytes of all names and values, as the launcher counts them.
const MAX_METADATA: usize = 16 * 1024;

/// What is known of a worker before its hello counts.
struct Known {
    is_drained: bool,
    is_there: bool,
    instance: String,
    machine: String,
    heard_at: gantry_model::Timestamp,
}

impl ControlPlane {
    /// Takes a hello. The answer is the new session's intake, unless the hello was refused.
    pub(super) async fn hello(
        &self,
        unit: &mut Unit,
        arrived: &Arrived,
        envelope: &Envelope,
    ) -> Result<Option<Intake>, OperationError> {
        let (pool, worker) = (arrived.pool, arrived.worker);
        if !self.inner.hellos.admit((pool, worker), unit.now().0) {
            self.tell((pool, worker), format_args!("passed over a hello: there are too many"));
            return Ok(None);
        }
        let Some(hello) = self.open_hello(arrived, envelope) else { return Ok(None) };
        let leaf = self.issuer().signing_leaf(unix_seconds(unit.now()))?;
        let checked = match check(&hello) {
            Ok(key) => key,
            Err((reason, message)) => {
                refuse(unit, (pool, worker), &hello, &leaf, reason, message);
                return Ok(None);
            }
        };
        if was_used(unit, (pool, worker), &hello.nonce).await? {
            self.tell((pool, worker), format_args!("refused a hello that was used before"));
            return Ok(None);
        }
        let known = known(unit, (pool, worker)).await?;
        if let Some(known) = &known
            && known.is_there
            && known.machine != hello.machine
            && unit.now() < known.heard_at.plus_ms(self.terms().lease_ms)
        {
            let message = format!(
                "another machine is this worker and was heard within the last {} s. If the disk was \
                 moved here, wait as long and start again; if it was copied, start the copy with an \
                 empty GANTRY_STATE_DIR, and it becomes a worker of its own",
                self.terms().lease_ms / 1000
            );
            refuse(unit, (pool, worker), &hello, &leaf, RefusalReason::Duplicate, message);
            return Ok(None);
        }
        if self.inner.hellos.was_replaced((pool, worker), &hello.instance) {
            let message = "another launcher with this worker's id has connected since and has taken \
                           its session over: both run at the same time, so one state directory is a \
                           copy of the other. Start the copy with an empty GANTRY_STATE_DIR";
            let (reason, key) = (RefusalReason::Duplicate, (pool, worker));
            refuse(unit, key, &hello, &leaf, reason, message.to_owned());
            return Ok(None);
        }
        if known.is_none() && is_full(unit, pool).await? {
            let message = format!(
                "the pool has {MAX_WORKERS} workers already: keep GANTRY_STATE_DIR over restarts, \
                 or make another pool; workers that are gone are forgotten after 30 days"
            );
            refuse(unit, (pool, worker), &hello, &leaf, RefusalReason::Invalid, message);
            return Ok(None);
        }
        let is_drained = known.as_ref().is_some_and(|known| known.is_drained);
        if let Some(known) =
            known.filter(|known| known.is_there && known.instance != hello.instance)
        {
            self.inner.hellos.replace((pool, worker), known.instance);
        }
        self.accept(unit, (pool, worker), hello, checked, leaf, is_drained).await.map(Some)
    }

    fn open_hello(&self, arrived: &Arrived, envelope: &Envelope) -> Option<Hello> {
        let (pool, worker) = (arrived.pool, arrived.worker);
        let face = self.inner.admitted.face(pool)?;
        let binding = Binding { direction: Direction::FromLauncher, pool, worker, nonce: "" };
        let verify = |bytes: &[u8], signature: &[u8]| {
            Signature::from_bytes(signature.to_vec())
                .is_ok_and(|signature| face.recipient.key().verify_pss(bytes, &signature).is_ok())
        };
        match envelope.open::<FromLauncher>(&binding, verify) {
            Ok(FromLauncher::Hello(hello)) => Some(hello),
            Ok(_) => None,
            Err(error) => {
                self.tell((pool, worker), format_args!("refused a hello: {error}"));
                None
            }
        }
    }

    async fn accept(
        &self,
        unit: &mut Unit,
        key: WorkerKey,
        hello: Hello,
        session_key: SessionPublicKey,
        leaf: Arc<SigningLeaf>,
        is_drained: bool,
    ) -> Result<Intake, OperationError> {
        let (pool, worker) = key;
        let session = SessionId::from_ulid(self.ids().ulid(unit.now()));
        self.inner.admitted.note_worker(worker, pool);
        note_nonce(unit, key, &hello.nonce).await?;
        let received = note_journal(unit, key, &hello).await?;
        hellos::forget_old(unit, key).await?;
        note_worker(unit, key, &hello, session).await?;
        let named: HashSet<Attempt> = hello.runs.iter().map(|run| run.attempt).collect();
        let settled = self.settle(unit, key, &hello, &named).await?;
        let bond = Arc::new(Bond {
            nonce: hello.nonce.clone(),
            key: session_key,
            leaf: Arc::clone(&leaf),
            journal: hello.journal,
            unnamed: settled.unnamed,
        });
        unit.bind(key, Arc::clone(&bond));
        let welcome = Welcome {
            session,
            leaf: leaf.pem.clone(),
            // What is left of it is at least half, see the issuer.
            leaf_valid_ms: millis(SIGNING_LEAF_LIFETIME) / 2,
            lease_ms: self.terms().lease_ms,
            heartbeat_ms: self.terms().heartbeat_ms,
            server_ms: unit.now().0,
            received,
            is_drained,
            protocol: VERSION,
            not_yours: settled.not_yours,
        };
        unit.say(key, bond, FromControlPlane::Welcome(welcome));
        for message in settled.again {
            unit.post(pool, worker, message).await?;
        }
        unit.wake();
        tracing::info!(%pool, %worker, %session, "a worker has a new session");
        let window = Window::after(received);
        Ok(Intake { nonce: hello.nonce, window, durable: received, is_proven: false })
    }
}

/// What is wrong with a hello, if anything; else its session key.
fn check(hello: &Hello) -> Result<SessionPublicKey, (RefusalReason, String)> {
    let invalid = |message: &str| (RefusalReason::Invalid, message.to_owned());
    if !hello.versions.protocol.contains(&VERSION) {
        let message = format!(
            "this launcher speaks protocol {:?} and the control plane {VERSION}: install a \
             launcher of the control plane's version",
            hello.versions.protocol
        );
        return Err((RefusalReason::Version, message));
    }
    let nonce = STANDARD.decode(&hello.nonce).ok().filter(|nonce| nonce.len() == 32);
    if nonce.is_none() || hello.nonce.len() != 44 {
        return Err(invalid("the hello's nonce is not 32 bytes in base64"));
    }
    if hello.capacity == 0 {
        return Err(invalid("the launcher has no room for any run: give it at least one worker"));
    }
    let metadata: usize = hello.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if metadata > MAX_METADATA {
        return Err(invalid("the SPACELIFT_METADATA_ variables are larger than 16 KiB together"));
    }
    let texts = [&hello.instance, &hello.machine, &hello.engine, &hello.versions.launcher];
    if texts.into_iter().any(|text| text.len() > MAX_TEXT) {
        return Err(invalid("a text of the launcher about itself is longer than 200 bytes"));
    }
    let key = hello.session_key.parse();
    key.map_err(|_| invalid("the hello's session key is not 32 bytes in base64"))
}

fn refuse(
    unit: &mut Unit,
    key: WorkerKey,
    hello: &Hello,
    leaf: &Arc<SigningLeaf>,
    reason: RefusalReason,
    message: String,
) {
    unit.control_plane().tell(key, format_args!("refused a hello: {message}"));
    let nonce: String = hello.nonce.chars().take(64).collect();
    let answer = Refused { reason, message, leaf: leaf.pem.clone() };
    // Only what our own messages are bound to counts in this one.
    let bond = Bond {
        nonce,
        key: leaf.key.public(),
        leaf: Arc::clone(leaf),
        journal: hello.journal,
        unnamed: Vec::new(),
    };
    unit.say(key, Arc::new(bond), FromControlPlane::Refused(answer));
}

/// Whether the worker used the nonce before: the hello is an old one. That is known of its newest ones
/// and for long, not for ever: an even older one can end a session, as whoever holds messages back can
/// anyway, and starts no write stage again, because nothing of its session ever proves it.
async fn was_used(
    unit: &mut Unit,
    (pool, worker): WorkerKey,
    nonce: &str,
) -> Result<bool, OperationError> {
    let select = "SELECT 1 FROM nonces WHERE pool = $1 AND worker = $2 AND nonce = $3";
    let row = sqlx::query(select)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(nonce)
        .fetch_optional(unit.conn())
        .await?;
    Ok(row.is_some())
}

/// Notes that the nonce is used. Only what begins a session is noted.
async fn note_nonce(
    unit: &mut Unit,
    (pool, worker): WorkerKey,
    nonce: &str,
) -> Result<(), OperationError> {
    let now = to_db(unit.now().0);
    sqlx::query("INSERT INTO nonces (pool, worker, nonce, at) VALUES ($1, $2, $3, $4)")
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(nonce)
        .bind(now)
        .execute(unit.conn())
        .await?;
    Ok(())
}

async fn known(
    unit: &mut Unit,
    (pool, worker): WorkerKey,
) -> Result<Option<Known>, OperationError> {
    let select = "SELECT is_drained, session, instance, machine, heard_at FROM workers \
         WHERE pool = $1 AND id = $2";
    let row = sqlx::query(select)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .fetch_optional(unit.conn())
        .await?;
    Ok(row.map(|row| Known {
        is_drained: row.get::<i64, _>("is_drained") != 0,
        // A worker that said bye is nowhere.
        is_there: !row.get::<&str, _>("session").is_empty(),
        instance: row.get("instance"),
        machine: row.get("machine"),
        heard_at: at(row.get("heard_at")),
    }))
}

/// Whether the pool can have no more workers.
async fn is_full(unit: &mut Unit, pool: PoolId) -> Result<bool, OperationError> {
    let count = "SELECT COUNT(*) AS n FROM workers WHERE pool = $1";
    let row = sqlx::query(count).bind(pool.to_string()).fetch_one(unit.conn()).await?;
    Ok(row.get::<i64, _>("n") >= MAX_WORKERS)
}

/// How far the journal was taken in; 0 for a new one.
async fn note_journal(
    unit: &mut Unit,
    (pool, worker): WorkerKey,
    hello: &Hello,
) -> Result<u64, OperationError> {
    let upsert = "INSERT INTO journals (pool, worker, journal, received, heard_at) \
                  VALUES ($1, $2, $3, 0, $4) \
                  ON CONFLICT (pool, worker, journal) DO UPDATE SET heard_at = $4 \
                  RETURNING received";
    let now = to_db(unit.now().0);
    let row = sqlx::query(upsert)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(hello.journal.to_string())
        .bind(now)
        .fetch_one(unit.conn())
        .await?;
    Ok(from_db(row.get("received")))
}

/// The worker as its hello describes it, in a new session whose outbox is empty.
async fn note_worker(
    unit: &mut Unit,
    (pool, worker): WorkerKey,
    hello: &Hello,
    session: SessionId,
) -> Result<(), OperationError> {
    let now = to_db(unit.now().0);
    sqlx::query("DELETE FROM outbox WHERE pool = $1 AND worker = $2")
        .bind(pool.to_string())
        .bind(worker.to_string())
        .execute(unit.conn())
        .await?;
    let upsert = "INSERT INTO workers (pool, id, created_at, available_at, heard_at, is_connected, \
        is_drained, is_healthy, is_passed_over, session, instance, machine, journal, sent, \
        metadata, versions, engine) \
        VALUES ($1, $2, $3, $3, $3, 1, 0, 1, 0, $4, $5, $6, $7, 0, $8, $9, $10) \
        ON CONFLICT (pool, id) DO UPDATE SET heard_at = $3, is_connected = 1, is_healthy = 1, \
        is_passed_over = 0, note = NULL, session = $4, instance = $5, machine = $6, journal = $7, \
        sent = 0, metadata = $8, versions = $9, engine = $10";
    sqlx::query(upsert)
        .bind(pool.to_string())
        .bind(worker.to_string())
        .bind(now)
        .bind(session.to_string())
        .bind(&hello.instance)
        .bind(&hello.machine)
        .bind(hello.journal.to_string())
        .bind(to_json(&hello.metadata))
        .bind(to_json(&hello.versions))
        .bind(&hello.engine)
        .execute(unit.conn())
        .await?;
    Ok(())
}
