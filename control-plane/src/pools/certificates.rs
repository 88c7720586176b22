//! Which certificates are admitted, and what is sealed and checked with them: from memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::{PoolId, WorkerId};
use gantry_protocol::{KeyError, PublicKey, Recipient};

use crate::transport::{Admissions, serial_text};

/// A pool's present certificate.
#[derive(Debug)]
pub(crate) struct Face {
    /// PEM.
    pub(crate) certificate: String,
    /// Its key: what hellos are checked with and specs are sealed to.
    pub(crate) recipient: Recipient,
}

impl Face {
    /// What a certificate, PEM, is looked at for.
    pub(crate) fn new(certificate: &str) -> Result<Self, KeyError> {
        let recipient = Recipient::parse(certificate.as_bytes())?;
        Ok(Self { certificate: certificate.to_owned(), recipient })
    }
}

/// The present certificate of each pool.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    pools: RwLock<Pools>,
}

#[derive(Debug, Default)]
struct Pools {
    serials: HashMap<String, PoolId>,
    faces: HashMap<PoolId, Arc<Face>>,
    /// In which pool a worker was first seen.
    workers: HashMap<WorkerId, PoolId>,
}

impl Admitted {
    /// Makes this the only certificate of the pool.
    pub(crate) fn set(&self, pool: PoolId, serial: &str, face: Face) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.serials.retain(|_, other| *other != pool);
        pools.serials.insert(serial_text(serial), pool);
        pools.faces.insert(pool, Arc::new(face));
    }

    /// The pool is no more.
    pub(crate) fn remove(&self, pool: PoolId) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.serials.retain(|_, other| *other != pool);
        pools.faces.remove(&pool);
        pools.workers.retain(|_, other| *other != pool);
    }

    /// The worker is one of this pool's, unless another pool had it first.
    pub(crate) fn note_worker(&self, worker: WorkerId, pool: PoolId) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.workers.entry(worker).or_insert(pool);
    }

    /// The worker is nobody's any more.
    pub(crate) fn forget_worker(&self, worker: WorkerId, pool: PoolId) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.workers.get(&worker) == Some(&pool) {
            pools.workers.remove(&worker);
        }
    }

    /// The pool's present certificate.
    pub(crate) fn face(&self, pool: PoolId) -> Option<Arc<Face>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).faces.get(&pool).cloned()
    }
}

impl Admissions for Admitted {
    fn pool_of(&self, serial: &str) -> Option<PoolId> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.serials.get(serial).copied()
    }

    fn key_of(&self, pool: PoolId) -> Option<PublicKey> {
        self.face(pool).map(|face| face.recipient.key().clone())
    }

    fn owner_of(&self, worker: WorkerId) -> Option<PoolId> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.workers.get(&worker).copied()
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    #[test]
    fn a_worker_belongs_to_the_pool_that_had_it_first() {
        let admitted = Admitted::default();
        let pool = |n| PoolId::from_ulid(Ulid::from_parts(n, 0));
        let worker = WorkerId::from_ulid(Ulid::from_parts(9, 9));
        assert_eq!(admitted.owner_of(worker), None);
        admitted.note_worker(worker, pool(1));
        admitted.note_worker(worker, pool(2));
        assert_eq!(admitted.owner_of(worker), Some(pool(1)));
        admitted.forget_worker(worker, pool(2));
        assert_eq!(admitted.owner_of(worker), Some(pool(1)));
        admitted.forget_worker(worker, pool(1));
        assert_eq!(admitted.owner_of(worker), None);
    }
}
