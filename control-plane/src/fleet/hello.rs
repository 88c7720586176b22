//! `hello`: a launcher begins a session, and says what it has in hand.
//!
//! Nothing but the hello's own signature and a nonce that was never used before proves it. It settles
//! everything that was between this worker and us: what it does not name was never started, what it
//! names and has no right to is not its own, and what it still needs to hear it hears again.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Attempt, SessionId};
use gantry_protocol::message::{FromControlPlane, Hello, RefusalReason, Refused, VERSION, Welcome};
use gantry_protocol::{SIGNING_LEAF_LIFETIME, SessionPublicKey, SigningLeaf};

use super::hello_limits;
use super::order::Position;
use super::verify::VerifiedHello;
use crate::clock::millis;
use crate::core::UnitOfWork;
use crate::core::sessions::LauncherSession;
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::fleet::workers::MAX_WORKERS;
use crate::store::WorkerKey;
use crate::store::workers::{Introduction, Launcher};
use crate::store::{outbox, sessions, workers};

/// The longest text of a launcher about itself that is kept.
const MAX_TEXT: usize = 200;
/// The most metadata of a launcher: the bytes of all names and values, as the launcher counts them.
const MAX_METADATA: usize = 16 * 1024;

/// A worker that said bye is nowhere.
const fn is_there(known: &Launcher) -> bool {
    known.session.is_some()
}

impl Ingest {
    /// Takes a hello. The answer is where the new session begins, unless the hello was refused.
    pub(super) async fn hello(
        &self,
        unit: &mut UnitOfWork,
        verified: VerifiedHello,
    ) -> Result<Option<Position>, OperationError> {
        let VerifiedHello { worker: (pool, worker), hello, identity, leaf } = verified;
        let present = self.certificates.identity(pool);
        if !present.is_some_and(|present| Arc::ptr_eq(&present, &identity)) {
            let what = format_args!("refused a hello: its pool was reset in that very moment");
            self.notices.say((pool, worker), what);
            return Ok(None);
        }
        let checked = match check(&hello) {
            Ok(key) => key,
            Err((reason, message)) => {
                self.refuse_hello(unit, (pool, worker), &hello, &leaf, reason, message);
                return Ok(None);
            }
        };
        // That is known of its newest hellos and for long, not for ever: an even older one can end a session, as
        // whoever holds messages back can anyway, and starts no write stage again, because nothing of its
        // session ever proves it.
        if sessions::has_nonce(unit.conn(), (pool, worker), &hello.nonce).await? {
            self.notices.say((pool, worker), format_args!("refused a hello that was used before"));
            return Ok(None);
        }
        let known = workers::find_launcher(unit.conn(), (pool, worker)).await?;
        if let Some(known) = &known
            && is_there(known)
            && known.machine != hello.machine
            && unit.now() < known.heard_at.plus_ms(self.terms().lease_ms)
        {
            let message = format!(
                "another machine is this worker and was heard within the last {} s. If the disk was \
                 moved here, wait as long and start again; if it was copied, start the copy with an \
                 empty GANTRY_STATE_DIR, and it becomes a worker of its own",
                self.terms().lease_ms / 1000
            );
            self.refuse_hello(
                unit,
                (pool, worker),
                &hello,
                &leaf,
                RefusalReason::Duplicate,
                message,
            );
            return Ok(None);
        }
        if self.hellos.was_replaced((pool, worker), &hello.instance) {
            let message = "another launcher with this worker's id has connected since and has taken \
                           its session over: both run at the same time, so one state directory is a \
                           copy of the other. Start the copy with an empty GANTRY_STATE_DIR";
            let (reason, key) = (RefusalReason::Duplicate, (pool, worker));
            self.refuse_hello(unit, key, &hello, &leaf, reason, message.to_owned());
            return Ok(None);
        }
        if known.is_none()
            && workers::count_of_pool(unit.conn(), pool).await? >= u64::from(MAX_WORKERS)
        {
            let message = format!(
                "the pool has {MAX_WORKERS} workers already: keep GANTRY_STATE_DIR over restarts, \
                 or make another pool; workers that are gone are forgotten after 30 days"
            );
            self.refuse_hello(unit, (pool, worker), &hello, &leaf, RefusalReason::Invalid, message);
            return Ok(None);
        }
        let is_drained = known.as_ref().is_some_and(|known| known.is_drained);
        if let Some(known) =
            known.filter(|known| is_there(known) && known.instance != hello.instance)
        {
            self.hellos.replace((pool, worker), known.instance);
        }
        self.accept(unit, (pool, worker), hello, checked, leaf, is_drained).await.map(Some)
    }

    async fn accept(
        &self,
        unit: &mut UnitOfWork,
        key: WorkerKey,
        hello: Hello,
        session_key: SessionPublicKey,
        leaf: Arc<SigningLeaf>,
        is_drained: bool,
    ) -> Result<Position, OperationError> {
        let (pool, worker) = key;
        let session = SessionId::from_ulid(self.ids().ulid(unit.now()));
        self.certificates.note_worker(worker, pool);
        let now = unit.now();
        sessions::insert_nonce(unit.conn(), key, &hello.nonce, now).await?;
        let received = sessions::note_journal(unit.conn(), key, hello.journal, now).await?;
        hello_limits::forget_old(unit.conn(), key).await?;
        outbox::delete_of_worker(unit.conn(), key).await?;
        let introduction = Introduction {
            session,
            instance: &hello.instance,
            machine: &hello.machine,
            journal: hello.journal,
            metadata: &hello.metadata,
            versions: &hello.versions,
            engine: &hello.engine,
        };
        workers::begin_session(unit.conn(), key, &introduction, now).await?;
        let named: HashSet<Attempt> = hello.runs.iter().map(|run| run.attempt).collect();
        let reconciled = self.reconcile(unit, key, &hello, &named).await?;
        let begun = Arc::new(LauncherSession {
            nonce: hello.nonce.clone(),
            key: session_key,
            leaf: Arc::clone(&leaf),
            journal: hello.journal,
            unnamed: reconciled.unnamed,
        });
        unit.begin_session(key, Arc::clone(&begun));
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
            not_yours: reconciled.not_yours,
        };
        unit.notify(key, begun, FromControlPlane::Welcome(welcome));
        for message in reconciled.again {
            unit.post(pool, worker, message).await?;
        }
        unit.wake();
        tracing::info!(%pool, %worker, %session, "a worker has a new session");
        Ok(Position::new(hello.nonce, received))
    }

    fn refuse_hello(
        &self,
        unit: &mut UnitOfWork,
        worker: WorkerKey,
        hello: &Hello,
        leaf: &Arc<SigningLeaf>,
        reason: RefusalReason,
        message: String,
    ) {
        self.notices.say(worker, format_args!("refused a hello: {message}"));
        let nonce: String = hello.nonce.chars().take(64).collect();
        let answer = Refused { reason, message, leaf: leaf.pem.clone() };
        // Only what our own messages are bound to counts in this one.
        let session = LauncherSession {
            nonce,
            key: leaf.key.public(),
            leaf: Arc::clone(leaf),
            journal: hello.journal,
            unnamed: Vec::new(),
        };
        unit.notify(worker, Arc::new(session), FromControlPlane::Refused(answer));
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
