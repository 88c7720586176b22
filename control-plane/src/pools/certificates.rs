//! Which certificates are admitted, and what is sealed and checked with them: from memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::{PoolId, WorkerId};
use gantry_protocol::{KeyError, PublicKey, Recipient};

use crate::transport::{Admissions, serial_text};

/// A pool's present certificate.
#[derive(Debug)]
pub(crate) struct PoolIdentity {
    /// PEM.
    pub(crate) certificate: String,
    /// Its key: what hellos are checked with and specs are sealed to.
    pub(crate) recipient: Recipient,
}

impl PoolIdentity {
    /// What a certificate, PEM, is looked at for.
    pub(crate) fn new(certificate: &str) -> Result<Self, KeyError> {
        let recipient = Recipient::parse(certificate.as_bytes())?;
        Ok(Self { certificate: certificate.to_owned(), recipient })
    }
}

/// The present certificate of each pool.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pools: RwLock<Pools>,
}

#[derive(Debug, Default)]
struct Pools {
    serials: HashMap<String, PoolId>,
    identities: HashMap<PoolId, Arc<PoolIdentity>>,
    /// In which pool a worker was first seen.
    workers: HashMap<WorkerId, PoolId>,
}

impl Certificates {
    /// Makes this the only certificate of the pool.
    pub(crate) fn set(&self, pool: PoolId, serial: &str, identity: PoolIdentity) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.serials.retain(|_, other| *other != pool);
        pools.serials.insert(serial_text(serial), pool);
        pools.identities.insert(pool, Arc::new(identity));
    }

    /// The pool is no more.
    pub(crate) fn remove(&self, pool: PoolId) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.serials.retain(|_, other| *other != pool);
        pools.identities.remove(&pool);
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
    pub(crate) fn identity(&self, pool: PoolId) -> Option<Arc<PoolIdentity>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).identities.get(&pool).cloned()
    }
}

impl Admissions for Certificates {
    fn pool_of(&self, serial: &str) -> Option<PoolId> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.serials.get(serial).copied()
    }

    fn key_of(&self, pool: PoolId) -> Option<PublicKey> {
        self.identity(pool).map(|identity| identity.recipient.key().clone())
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
        let certificates = Certificates::default();
        let pool = |n| PoolId::from_ulid(Ulid::from_parts(n, 0));
        let worker = WorkerId::from_ulid(Ulid::from_parts(9, 9));
        assert_eq!(certificates.owner_of(worker), None);
        certificates.note_worker(worker, pool(1));
        certificates.note_worker(worker, pool(2));
        assert_eq!(certificates.owner_of(worker), Some(pool(1)));
        certificates.forget_worker(worker, pool(2));
        assert_eq!(certificates.owner_of(worker), Some(pool(1)));
        certificates.forget_worker(worker, pool(1));
        assert_eq!(certificates.owner_of(worker), None);
    }
}
