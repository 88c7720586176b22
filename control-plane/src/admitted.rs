//! Which certificates are admitted, from memory.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use gantry_model::PoolId;

use crate::broker::{Admissions, serial_text};

/// The present certificate of each pool.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    serials: RwLock<HashMap<String, PoolId>>,
}

impl Admitted {
    /// Makes this the only certificate of the pool.
    pub(crate) fn set(&self, pool: PoolId, serial: &str) {
        let mut serials = self.serials.write().unwrap_or_else(PoisonError::into_inner);
        serials.retain(|_, other| *other != pool);
        serials.insert(serial_text(serial), pool);
    }
}

impl Admissions for Admitted {
    fn pool_of(&self, serial: &str) -> Option<PoolId> {
        self.serials.read().unwrap_or_else(PoisonError::into_inner).get(serial).copied()
    }
}
