//! Pools: workers that share one certificate, one queue and one key.

use gantry_model::{PoolId, Timestamp};

use crate::control_plane::ControlPlane;
use crate::error::OperationError;

/// A pool that someone wants.
#[derive(Debug, Clone, Default)]
pub struct NewPool {
    /// Its name, 1 to 100 characters, unique.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// The certificate request, PEM, that `openssl req` or `gantry pool create` made.
    pub csr: String,
}

/// A pool.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its present certificate, PEM.
    pub certificate: String,
    /// That certificate's serial.
    pub serial: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How many workers are connected.
    pub workers_count: u64,
    /// How many of those have a run.
    pub busy_workers: u64,
    /// How many runs wait for one of its workers.
    pub pending_runs: u64,
}

impl ControlPlane {
    /// Creates a pool and answers its token, the value of `SPACELIFT_TOKEN`.
    ///
    /// # Errors
    /// When the name is taken or something given is not acceptable.
    pub async fn create_pool(
        &self,
        actor: &str,
        new: NewPool,
    ) -> Result<(Pool, String), OperationError> {
        let _ = (actor, new);
        Err(crate::control_plane::unbuilt())
    }

    /// The pool with this id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn pool(&self, pool: PoolId) -> Result<Pool, OperationError> {
        let _ = pool;
        Err(crate::control_plane::unbuilt())
    }

    /// All pools, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pools(&self) -> Result<Vec<Pool>, OperationError> {
        Err(crate::control_plane::unbuilt())
    }

    /// Gives the pool a new certificate and token. The old ones are worth nothing from the return on.
    ///
    /// # Errors
    /// When there is no such pool or the request is not acceptable.
    pub async fn reset_pool(
        &self,
        actor: &str,
        pool: PoolId,
        csr: &str,
    ) -> Result<(Pool, String), OperationError> {
        let _ = (actor, pool, csr);
        Err(crate::control_plane::unbuilt())
    }

    /// Sets the public key, PEM, to which everything durable is sealed besides its pools.
    ///
    /// # Errors
    /// When the text is no RSA public key or certificate.
    pub async fn set_recovery_key(&self, actor: &str, pem: &str) -> Result<(), OperationError> {
        let _ = (actor, pem);
        Err(crate::control_plane::unbuilt())
    }

    /// The recovery key, PEM, if one was set.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recovery_key(&self) -> Result<Option<String>, OperationError> {
        Err(crate::control_plane::unbuilt())
    }
}
