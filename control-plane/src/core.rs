//! What every part works with: the database and its units of work, the time, new ids.
//!
//! Beside the database there are, in memory, the launchers' sessions and whoever waits for something to
//! change. They follow what is committed, in the order of the commits.

mod changes;
pub(crate) mod outbound;
pub(crate) mod sessions;
mod unit_of_work;
pub(crate) mod watchers;

use std::sync::Arc;

use gantry_model::{LeaseTerms, Timestamp};
use tokio::sync::{Mutex, Notify};

use self::outbound::OutboundQueue;
use self::sessions::LauncherSessions;
use self::watchers::Watchers;
use crate::clock::Clock;
use crate::ids::Ids;
use crate::store::{Store, StoreError};

pub use changes::Changes;
pub(crate) use unit_of_work::UnitOfWork;

/// The database, the time and new ids. Clones are the same.
#[derive(Clone)]
pub struct Core {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    ids: Ids,
    terms: LeaseTerms,
    sessions: LauncherSessions,
    outbound: OutboundQueue,
    watchers: Watchers,
    /// The scheduler has something to look at.
    wake: Notify,
    /// Held from a transaction's begin until its messages are on their way, so that they leave in the
    /// order of the commits.
    commit_order: Arc<Mutex<()>>,
}

impl Core {
    /// Nobody has a session, and nobody waits for anything.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>, ids: Ids, terms: LeaseTerms) -> Self {
        let inner = Inner {
            store,
            clock,
            ids,
            terms,
            sessions: LauncherSessions::default(),
            outbound: OutboundQueue::new(),
            watchers: Watchers::default(),
            wake: Notify::new(),
            commit_order: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Where new ids come from.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.inner.ids
    }

    /// How long offers and leases hold.
    pub(crate) fn terms(&self) -> &LeaseTerms {
        &self.inner.terms
    }

    /// The present instant.
    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Begins a unit of work; others wait until it is over.
    pub(crate) async fn begin(&self) -> Result<UnitOfWork, StoreError> {
        let turn = Arc::clone(&self.inner.commit_order).lock_owned().await;
        let tx = self.inner.store.begin().await?;
        Ok(UnitOfWork::new(self.clone(), tx, turn))
    }

    /// The launchers' sessions.
    pub(crate) fn sessions(&self) -> &LauncherSessions {
        &self.inner.sessions
    }

    /// Messages on their way to launchers.
    pub(crate) fn outbound(&self) -> &OutboundQueue {
        &self.inner.outbound
    }

    /// Whoever watches runs.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.inner.watchers
    }

    /// Lets the scheduler look again.
    pub(crate) fn wake(&self) {
        self.inner.wake.notify_one();
    }

    /// Resolves when the scheduler has something to look at. Cancel safe.
    pub(crate) async fn woken(&self) {
        self.inner.wake.notified().await;
    }
}
