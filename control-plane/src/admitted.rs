//! Which certificates are admitted, and what is sealed and checked with them: from memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_model::PoolId;
use gantry_protocol::{KeyError, Recipient};

use crate::broker::{Admissions, serial_text};

/// A pool's present certificate.
#[derive(Debug)]
pub(crate) struct Face {
    /// PEM.
    pub(crate) certificate: String,
    /// Its key: what hellos are checked with and specs are sealed to.
    pub(crate) recipient: Recipient,
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
}

impl Admitted {
    /// Makes this the only certificate of the pool.
    pub(crate) fn set(
        &self,
        pool: PoolId,
        serial: &str,
        certificate: &str,
    ) -> Result<(), KeyError> {
        let recipient = Recipient::parse(certificate.as_bytes())?;
        let face = Face { certificate: certificate.to_owned(), recipient };
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.serials.retain(|_, other| *other != pool);
        pools.serials.insert(serial_text(serial), pool);
        pools.faces.insert(pool, Arc::new(face));
        Ok(())
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
}
