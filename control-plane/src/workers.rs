//! Workers as people and autoscalers see them.

use std::collections::BTreeMap;

use gantry_model::{PoolId, RunId, Timestamp, WorkerId};

use crate::control_plane::ControlPlane;
use crate::error::OperationError;

/// A worker.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolId,
    /// When it first said hello.
    pub created_at: Timestamp,
    /// Since when it has had no run; none while it has one.
    pub available_at: Option<Timestamp>,
    /// When it was last heard.
    pub heard_at: Timestamp,
    /// Whether it has a session.
    pub is_connected: bool,
    /// Whether it has a run.
    pub is_busy: bool,
    /// Whether it takes no new runs.
    pub is_drained: bool,
    /// Whether it says that it is well.
    pub is_healthy: bool,
    /// Why not, in its words.
    pub note: Option<String>,
    /// The run that it has.
    pub run: Option<RunId>,
    /// `SPACELIFT_METADATA_*`, without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// Its launcher's version.
    pub version: String,
    /// Its container engine.
    pub engine: String,
}

impl ControlPlane {
    /// The connected workers of a pool, newest first.
    ///
    /// # Errors
    /// When there is no such pool.
    pub async fn workers_of(&self, pool: PoolId) -> Result<Vec<Worker>, OperationError> {
        let _ = pool;
        Err(crate::control_plane::unbuilt())
    }

    /// Sets whether a worker takes no new runs.
    ///
    /// # Errors
    /// When there is no such worker.
    pub async fn set_drained(
        &self,
        actor: &str,
        pool: PoolId,
        worker: WorkerId,
        is_drained: bool,
    ) -> Result<Worker, OperationError> {
        let _ = (actor, pool, worker, is_drained);
        Err(crate::control_plane::unbuilt())
    }
}
