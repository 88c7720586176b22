//! The control plane: what the API calls, and what the launchers' messages go to.
//!
//! Everything that must survive is in the database. In memory there are only the launchers' sessions,
//! which end with the process, and what can be read back: which certificate each pool has.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::{LeaseTerms, PoolId, Timestamp};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::authority::Issuer;
use crate::clock::Clock;
use crate::error::OperationError;
use crate::fleet::outbound::Parcel;
use crate::fleet::{Bond, Hellos, Intakes};
use crate::ids::Ids;
use crate::objects::Objects;
use crate::pools::certificates::Admitted;
use crate::rate::{self, Rate};
use crate::store::Store;
use crate::transport::Admissions;
use crate::watchers::Watchers;

/// How many messages to launchers wait to be signed and published. What does not fit is published
/// later, from the outbox.
const PARCELS: usize = 4096;

/// How many certificates can be revoked faster than the broker closes their sessions.
const REVOKED: usize = 64;

/// What a control plane is made of.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Sources, logs, workspaces and states.
    pub objects: Arc<dyn Objects>,
    /// The certificate authority and the signing leaf.
    pub issuer: Arc<Issuer>,
    /// Where new ids come from.
    pub ids: Ids,
    /// How long offers and leases hold.
    pub terms: LeaseTerms,
}

/// Pools, stacks, runs and workers. Clones are the same control plane.
#[derive(Clone)]
pub struct ControlPlane {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) use crate::store::WorkerKey;

pub(crate) struct Inner {
    pub(crate) parts: Parts,
    pub(crate) watchers: Watchers,
    /// The scheduler has something to look at.
    pub(crate) wake: Notify,
    pub(crate) admitted: Arc<Admitted>,
    /// Held from a transaction's begin until its messages are on their way, so that they leave in
    /// the order of the commits.
    pub(crate) gate: Arc<Mutex<()>>,
    pub(crate) bonds: RwLock<HashMap<WorkerKey, Arc<Bond>>>,
    pub(crate) intakes: Mutex<Intakes>,
    pub(crate) parcels: mpsc::Sender<Parcel>,
    pub(crate) posted: Mutex<mpsc::Receiver<Parcel>>,
    /// Serials whose sessions the broker has to close.
    pub(crate) revoked: mpsc::Sender<String>,
    pub(crate) to_close: Mutex<mpsc::Receiver<String>>,
    /// Of lines about what was refused, by the pool that sent it.
    pub(crate) lines: Rate<PoolId>,
    /// Of hellos, by worker and by pool.
    pub(crate) hellos: Hellos,
    /// Whose turn it is to have a source sealed: one at a time, for the memory that it takes.
    pub(crate) sealing: Semaphore,
    /// What people change and may not be left half done.
    changes: TaskTracker,
}

impl ControlPlane {
    /// Takes up the database's content: every lease gets a fresh term, every worker has to say hello again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(parts: Parts) -> Result<Self, OperationError> {
        let (parcels, posted) = mpsc::channel(PARCELS);
        let (revoked, to_close) = mpsc::channel(REVOKED);
        let inner = Inner {
            parts,
            watchers: Watchers::default(),
            wake: Notify::new(),
            admitted: Arc::default(),
            gate: Arc::default(),
            bonds: RwLock::default(),
            intakes: Mutex::default(),
            parcels,
            posted: Mutex::new(posted),
            revoked,
            to_close: Mutex::new(to_close),
            lines: rate::of_lines(),
            hellos: Hellos::new(),
            sealing: Semaphore::new(1),
            changes: TaskTracker::new(),
        };
        let control_plane = Self { inner: Arc::new(inner) };
        control_plane.load_pools().await?;
        control_plane.take_up_leases().await?;
        Ok(control_plane)
    }

    /// Does something to its end, though nobody waits for it any more.
    pub(crate) fn see_through<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.inner.changes.spawn(change)
    }

    /// Resolves when no change is under way. Call it when no more can come. Cancel safe.
    pub async fn changes_done(&self) {
        self.inner.changes.close();
        self.inner.changes.wait().await;
    }

    /// Which certificates the broker may admit.
    #[must_use]
    pub fn admissions(&self) -> Arc<dyn Admissions> {
        Arc::clone(&self.inner.admitted) as Arc<dyn Admissions>
    }

    /// The database, for what is kept beside pools, stacks and runs, such as API keys.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.parts.store
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.parts.clock
    }

    /// Where sources, logs and states are.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.inner.parts.objects
    }

    /// Where certificates and tokens come from.
    #[must_use]
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.inner.parts.issuer
    }

    /// Where new ids come from.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.inner.parts.ids
    }

    pub(crate) fn terms(&self) -> &LeaseTerms {
        &self.inner.parts.terms
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.parts.clock.now()
    }

    pub(crate) fn watchers(&self) -> &Watchers {
        &self.inner.watchers
    }

    pub(crate) fn bond(&self, key: WorkerKey) -> Option<Arc<Bond>> {
        self.inner.bonds.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// No session of the pool counts any more.
    pub(crate) fn drop_bonds(&self, pool: PoolId) {
        let mut bonds = self.inner.bonds.write().unwrap_or_else(PoisonError::into_inner);
        bonds.retain(|(other, _), _| *other != pool);
    }

    pub(crate) fn set_bond(&self, key: WorkerKey, bond: Option<Arc<Bond>>) {
        let mut bonds = self.inner.bonds.write().unwrap_or_else(PoisonError::into_inner);
        match bond {
            Some(bond) => bonds.insert(key, bond),
            None => bonds.remove(&key),
        };
    }
}

/// Seconds since 1970, as certificates count.
pub(crate) fn unix_seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)
}
