//! New ids.

use std::sync::{Mutex, PoisonError};

use gantry_model::Timestamp;
use ulid::Ulid;

/// Fills a slice with random bytes.
type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// Makes ULIDs that sort in the order in which they were made, within one millisecond too.
pub struct Ids {
    last: Mutex<u128>,
    fill: Box<Fill>,
}

impl Ids {
    /// Takes random bytes from `fill`.
    #[must_use]
    pub fn new(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self { last: Mutex::new(0), fill: Box::new(fill) }
    }

    /// Takes random bytes from OpenSSL.
    ///
    /// # Panics
    /// Making an id panics when OpenSSL has no entropy: nothing can be right then.
    #[must_use]
    pub fn random() -> Self {
        Self::new(|bytes| {
            openssl::rand::rand_bytes(bytes).expect("OpenSSL has entropy on every running system");
        })
    }

    /// A new id.
    #[must_use]
    pub fn ulid(&self, now: Timestamp) -> Ulid {
        let mut bytes = [0; 16];
        (self.fill)(&mut bytes);
        let fresh = u128::from(Ulid::from_parts(now.0, u128::from_be_bytes(bytes)));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = fresh.max(*last + 1);
        Ulid::from(*last)
    }
}

impl std::fmt::Debug for Ids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ids").finish_non_exhaustive()
    }
}
