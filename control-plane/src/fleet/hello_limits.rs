//! How many hellos are taken, and how much of them is kept.
//!
//! A hello costs two durable rows: its nonce and its journal. Whoever has a pool's key can say as many as
//! they like, and a launcher that dies at every start says one each time; neither fills the disk or keeps
//! the database from others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gantry_model::PoolId;

use crate::fleet::workers::MAX_WORKERS;
use crate::rate::Rate;
use crate::store::WorkerKey;
use crate::store::{Connection, StoreError, sessions};

/// How many nonces of a worker are kept, the newest ones. At the rate of a launcher that never gets
/// through, which is two a minute, they are those of the last half hour; what an older hello can do, played
/// again, stands at the place where nonces are compared.
const NONCES: u32 = 64;
/// How many journals of a worker are kept, those heard last. A launcher has one for as long as it has its
/// state directory.
const JOURNALS: u32 = 8;

/// How many hellos a worker says at once.
const WORKER_BURST: u32 = 60;
/// One more that often, in milliseconds.
const WORKER_EVERY_MS: u64 = 1_000;
/// How many a pool says at once: all of its workers come back after an outage, and some of them twice.
const POOL_BURST: u32 = 40_000;
const _: () = assert!(POOL_BURST == 2 * MAX_WORKERS);
/// One more that often, in milliseconds.
const POOL_EVERY_MS: u64 = 10;

/// How many workers are known to have been taken over, and how many former launchers of each.
const REPLACED: (usize, usize) = (20_000, 8);

/// How many hellos there may be, and whose session another launcher has taken over.
#[derive(Debug)]
pub(crate) struct Hellos {
    pools: Rate<PoolId>,
    workers: Rate<WorkerKey>,
    replaced: Mutex<HashMap<WorkerKey, Vec<String>>>,
}

impl Hellos {
    pub(crate) fn new() -> Self {
        let most = POOL_BURST as usize;
        Self {
            pools: Rate::new(POOL_BURST, POOL_EVERY_MS, most),
            workers: Rate::new(WORKER_BURST, WORKER_EVERY_MS, 2 * most),
            replaced: Mutex::default(),
        }
    }

    /// Another launcher has become the worker while the one with this instance was there.
    pub(super) fn replace(&self, key: WorkerKey, instance: String) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        if replaced.len() >= REPLACED.0 && !replaced.contains_key(&key) {
            replaced.clear();
        }
        let former = replaced.entry(key).or_default();
        if former.len() >= REPLACED.1 {
            former.remove(0);
        }
        former.push(instance);
    }

    /// Whether a launcher that comes back was replaced. Each start of one has an instance of its own, so
    /// it and the one that replaced it both live.
    pub(super) fn was_replaced(&self, key: WorkerKey, instance: &str) -> bool {
        let replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.get(&key).is_some_and(|former| former.iter().any(|it| it == instance))
    }

    /// Whether a worker may say hello now.
    pub(super) fn admit(&self, key: WorkerKey, now_ms: u64) -> bool {
        // The pool's turn comes first: a pool that has none left makes no more workers known.
        self.pools.take(key.0, now_ms).is_some() && self.workers.take(key, now_ms).is_some()
    }
}

/// Forgets all but the newest nonces and journals of a worker.
pub(super) async fn forget_old(conn: &mut Connection, key: WorkerKey) -> Result<(), StoreError> {
    sessions::keep_nonces(conn, key, NONCES).await?;
    sessions::keep_journals(conn, key, JOURNALS).await
}
