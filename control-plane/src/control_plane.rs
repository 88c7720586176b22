//! The control plane: what the API calls and what the broker's messages go to.

use std::sync::Arc;

use gantry_model::Terms;
use tokio::sync::Notify;

use crate::broker::Admissions;
use crate::clock::Clock;
use crate::credentials::Credentials;
use crate::error::OperationError;
use crate::ids::Ids;
use crate::objects::Objects;
use crate::store::Store;
use crate::watchers::Watchers;

/// What a control plane is made of.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Sources, logs, workspaces and states.
    pub objects: Arc<dyn Objects>,
    /// The certificate authority and the signing leaf.
    pub credentials: Arc<dyn Credentials>,
    /// Where new ids come from.
    pub ids: Ids,
    /// How long offers and leases hold.
    pub terms: Terms,
}

/// Pools, stacks, runs and workers. Clones are the same control plane.
#[derive(Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    watchers: Watchers,
    wake: Notify,
    admitted: Arc<crate::admitted::Admitted>,
}

impl ControlPlane {
    /// Takes up the database's content: every lease gets a fresh term, every worker has to say hello again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(parts: Parts) -> Result<Self, OperationError> {
        let admitted = Arc::default();
        let inner = Inner { parts, watchers: Watchers::default(), wake: Notify::new(), admitted };
        Ok(Self { inner: Arc::new(inner) })
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

    pub(crate) fn watchers(&self) -> &Watchers {
        &self.inner.watchers
    }
}

pub(crate) fn unbuilt() -> OperationError {
    OperationError::Conflict("this is not built yet".to_owned())
}
