//! The launchers' sessions, which live in memory: after a restart every launcher says hello again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::{Attempt, JournalId, PoolId};
use gantry_protocol::{SessionPublicKey, SigningLeaf};

use crate::store::WorkerKey;

/// A launcher's session: what its messages and ours are bound to.
#[derive(Debug)]
pub(crate) struct LauncherSession {
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

/// The present session of each worker.
#[derive(Debug, Default)]
pub(crate) struct LauncherSessions {
    present: RwLock<HashMap<WorkerKey, Arc<LauncherSession>>>,
}

impl LauncherSessions {
    /// The worker's present session.
    pub(crate) fn get(&self, worker: WorkerKey) -> Option<Arc<LauncherSession>> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).get(&worker).cloned()
    }

    /// Whether this session is still the worker's present one.
    pub(crate) fn is_present(&self, worker: WorkerKey, session: &Arc<LauncherSession>) -> bool {
        self.get(worker).is_some_and(|present| Arc::ptr_eq(&present, session))
    }

    /// Ends the worker's session, if it has one, and begins this one.
    pub(crate) fn begin(&self, worker: WorkerKey, session: Arc<LauncherSession>) {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        present.insert(worker, session);
    }

    /// Ends the worker's session.
    pub(crate) fn end(&self, worker: WorkerKey) {
        self.present.write().unwrap_or_else(PoisonError::into_inner).remove(&worker);
    }

    /// Ends the sessions of all workers of a pool.
    pub(crate) fn end_all(&self, pool: PoolId) {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        present.retain(|(other, _), _| *other != pool);
    }
}
