//! How many hellos are taken, and how much of them is kept.
//!
//! A hello costs two durable rows: its nonce and its journal. Whoever has a pool's key can say as many as
//! they like, and a launcher that dies at every start says one each time; neither fills the disk or keeps
//! the database from others.

use gantry_model::PoolId;

use super::WorkerKey;
use crate::error::OperationError;
use crate::rate::Rate;
use crate::unit::Unit;
use crate::workers::MAX_WORKERS;

/// How many nonces of a worker are kept, the newest ones. At the rate of a launcher that never gets
/// through, which is two a minute, they are those of the last half hour; what an older hello can do, played
/// again, stands at the place where nonces are compared.
const NONCES: i64 = 64;
/// How many journals of a worker are kept, those heard last. A launcher has one for as long as it has its
/// state directory.
const JOURNALS: i64 = 8;

/// How many hellos a worker says at once.
const WORKER_BURST: u32 = 60;
/// One more that often, in milliseconds.
const WORKER_EVERY_MS: u64 = 1_000;
/// How many a pool says at once: all of its workers come back after an outage, and some of them twice.
const POOL_BURST: u32 = 40_000;
const _: () = assert!(POOL_BURST as i64 == 2 * MAX_WORKERS);
/// One more that often, in milliseconds.
const POOL_EVERY_MS: u64 = 10;

/// How many hellos there may be.
#[derive(Debug)]
pub(crate) struct Hellos {
    pools: Rate<PoolId>,
    workers: Rate<WorkerKey>,
}

impl Hellos {
    pub(crate) fn new() -> Self {
        let most = POOL_BURST as usize;
        Self {
            pools: Rate::new(POOL_BURST, POOL_EVERY_MS, most),
            workers: Rate::new(WORKER_BURST, WORKER_EVERY_MS, 2 * most),
        }
    }

    /// Whether a worker may say hello now.
    pub(super) fn admit(&self, key: WorkerKey, now_ms: u64) -> bool {
        self.workers.take(key, now_ms).is_some() && self.pools.take(key.0, now_ms).is_some()
    }
}

/// Forgets all but the newest nonces and journals of a worker.
pub(super) async fn forget_old(
    unit: &mut Unit,
    (pool, worker): WorkerKey,
) -> Result<(), OperationError> {
    let nonces = "DELETE FROM nonces WHERE pool = $1 AND worker = $2 AND nonce NOT IN \
                  (SELECT nonce FROM nonces WHERE pool = $1 AND worker = $2 \
                  ORDER BY at DESC, nonce LIMIT $3)";
    let journals = "DELETE FROM journals WHERE pool = $1 AND worker = $2 AND journal NOT IN \
                    (SELECT journal FROM journals WHERE pool = $1 AND worker = $2 \
                    ORDER BY heard_at DESC, journal LIMIT $3)";
    for (delete, most) in [(nonces, NONCES), (journals, JOURNALS)] {
        sqlx::query(delete)
            .bind(pool.to_string())
            .bind(worker.to_string())
            .bind(most)
            .execute(unit.conn())
            .await?;
    }
    Ok(())
}
