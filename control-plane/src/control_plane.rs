//! The control plane: what the API calls, and what the launchers' messages go to.
//!
//! Everything that must survive is in the database. In memory there are only the launchers' sessions,
//! which end with the process, and what can be read back: which certificate each pool has.

use std::ops::Deref;
use std::sync::Arc;

use gantry_model::{LeaseTerms, Timestamp};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::authority::Issuer;
use crate::clock::Clock;
use crate::core::Core;
use crate::error::OperationError;
use crate::fleet::Hellos;
use crate::fleet::notices::Notices;
use crate::fleet::order::Positions;
use crate::fleet::verify::{OpenSsl, SignatureCheck};
use crate::ids::Ids;
use crate::objects::Objects;
use crate::pools::certificates::Certificates;
use crate::pools::revoked::Revoked;
use crate::store::Store;
use crate::transport::Admissions;

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
    core: Core,
    objects: Arc<dyn Objects>,
    issuer: Arc<Issuer>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) positions: Mutex<Positions>,
    pub(crate) revoked: Revoked,
    pub(crate) signatures: Arc<dyn SignatureCheck>,
    pub(crate) notices: Arc<Notices>,
    /// Of hellos, by worker and by pool.
    pub(crate) hellos: Hellos,
    /// Whose turn it is to have a source sealed: one at a time, for the memory that it takes.
    pub(crate) sealing: Semaphore,
    /// What people change and may not be left half done.
    changes: TaskTracker,
}

impl Deref for ControlPlane {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.inner.core
    }
}

impl ControlPlane {
    /// Takes up the database's content: every lease gets a fresh term, every worker has to say hello again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(parts: Parts) -> Result<Self, OperationError> {
        Self::with_check(parts, Arc::new(OpenSsl)).await
    }

    /// The same, with something else that checks the launchers' signatures.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn with_check(
        parts: Parts,
        signatures: Arc<dyn SignatureCheck>,
    ) -> Result<Self, OperationError> {
        let Parts { store, clock, objects, issuer, ids, terms } = parts;
        let notices = Arc::new(Notices::new(Arc::clone(&clock)));
        let inner = Inner {
            core: Core::new(store, clock, ids, terms),
            objects,
            issuer,
            certificates: Arc::default(),
            positions: Mutex::default(),
            revoked: Revoked::new(),
            signatures,
            notices,
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
        Arc::clone(&self.inner.certificates) as Arc<dyn Admissions>
    }

    /// Where sources, logs and states are.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.inner.objects
    }

    /// Where certificates and tokens come from.
    #[must_use]
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.inner.issuer
    }

    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }
}

/// Seconds since 1970, as certificates count.
pub(crate) fn unix_seconds(at: Timestamp) -> i64 {
    i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)
}
