//! Brings stages that wait and workers that are free together.
//!
//! Of a pool's stages the first by rank and age goes to the newest free worker. What is looked at does
//! not grow with the queue: both sides come from indexes that hold only what waits.

use gantry_model::{PoolId, WorkerId};
use gantry_protocol::message::{FromControlPlane, Offer};
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{RUN_COLUMNS, RunRow, id, load_run, read_run, save_run};
use crate::unit::Unit;

/// The most hand-offs of one transaction.
const BATCH: i64 = 32;

/// A stage, whom to offer it to, and the sealed spec.
struct Pair {
    row: RunRow,
    worker: WorkerId,
}

/// Free, and not one that leaves offers lying: what it was sent would pile up.
const IS_IDLE: &str = "w.is_connected = 1 AND w.is_drained = 0 AND w.is_healthy = 1 \
                       AND w.is_passed_over = 0 AND w.run IS NULL \
                       AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.pool = w.pool \
                       AND o.worker = w.id AND o.kind = 'offer')";

impl ControlPlane {
    /// Offers every stage that waits to a free worker, as far as there are any. Answers whether all
    /// went well; what did not is worth another try a little later.
    pub(crate) async fn schedule(&self) -> Result<bool, OperationError> {
        loop {
            let pairs = self.pairs().await?;
            if pairs.is_empty() {
                return Ok(true);
            }
            let mut offers = Vec::new();
            let mut is_well = true;
            for pair in pairs {
                let mut life = pair.row.life.clone();
                let Ok(attempt) = life.offer(pair.worker, self.now(), self.terms()) else {
                    continue;
                };
                match self.sealed_spec(&pair.row, attempt, life.state).await {
                    Ok(spec) => offers.push((pair, Offer { attempt, spec })),
                    Err(error) => {
                        is_well = false;
                        let run = pair.row.life.run;
                        tracing::warn!(%run, error = %error, "cannot make the spec of a run yet");
                    }
                }
            }
            // What could not be offered now would be found again at once.
            if !self.offer_all(offers).await? || !is_well {
                return Ok(false);
            }
        }
    }

    /// Offers what still waits to whoever is still free. False if that led nowhere.
    async fn offer_all(&self, offers: Vec<(Pair, Offer)>) -> Result<bool, OperationError> {
        if offers.is_empty() {
            return Ok(false);
        }
        let mut unit = self.begin().await?;
        let mut is_any = false;
        for (Pair { row, worker }, offer) in offers {
            let idle =
                format!("SELECT 1 FROM workers w WHERE w.pool = $1 AND w.id = $2 AND {IS_IDLE}");
            let is_idle = sqlx::query(sqlx::AssertSqlSafe(idle))
                .bind(row.pool.to_string())
                .bind(worker.to_string())
                .fetch_optional(unit.conn())
                .await?
                .is_some();
            let Some(mut present) = load_run(unit.conn(), row.life.run).await? else { continue };
            if !is_idle || present.life != row.life {
                continue;
            }
            if self.bond((row.pool, worker)).is_none() {
                // Its session ended without a word. It would be chosen again and again.
                no_session(&mut unit, row.pool, worker).await?;
                is_any = true;
                continue;
            }
            let before = present.life.clone();
            let now = unit.now();
            if present.life.offer(worker, now, self.terms()) == Ok(offer.attempt) {
                save_run(&mut unit, &before, &mut present).await?;
                unit.post(row.pool, worker, FromControlPlane::Offer(offer)).await?;
                is_any = true;
            }
        }
        unit.commit().await?;
        Ok(is_any)
    }

    async fn pairs(&self) -> Result<Vec<Pair>, OperationError> {
        let mut conn = self.store().read().await?;
        let pools = format!(
            "SELECT p.id FROM pools p \
             WHERE EXISTS (SELECT 1 FROM runs r WHERE r.pool = p.id AND r.standing = 'waiting') \
             AND EXISTS (SELECT 1 FROM workers w WHERE w.pool = p.id AND {IS_IDLE})"
        );
        let pools = sqlx::query(sqlx::AssertSqlSafe(pools)).fetch_all(&mut *conn).await?;
        let mut pairs = Vec::new();
        for pool in pools {
            let pool: PoolId = id("pool", pool.get("id"))?;
            let runs = format!(
                "SELECT {RUN_COLUMNS} FROM runs r WHERE r.pool = $1 AND r.standing = 'waiting' \
                 ORDER BY r.rank, r.id LIMIT $2"
            );
            let runs = sqlx::query(sqlx::AssertSqlSafe(runs))
                .bind(pool.to_string())
                .bind(BATCH)
                .fetch_all(&mut *conn)
                .await?;
            let workers = format!(
                "SELECT w.id FROM workers w WHERE w.pool = $1 AND {IS_IDLE} ORDER BY w.id DESC LIMIT $2"
            );
            let workers = sqlx::query(sqlx::AssertSqlSafe(workers))
                .bind(pool.to_string())
                .bind(BATCH)
                .fetch_all(&mut *conn)
                .await?;
            for (run, worker) in runs.iter().zip(workers) {
                pairs.push(Pair { row: read_run(run)?, worker: id("worker", worker.get("id"))? });
            }
        }
        Ok(pairs)
    }
}

/// The worker is not connected until its next hello.
async fn no_session(unit: &mut Unit, pool: PoolId, worker: WorkerId) -> Result<(), OperationError> {
    sqlx::query("UPDATE workers SET is_connected = 0 WHERE pool = $1 AND id = $2")
        .bind(pool.to_string())
        .bind(worker.to_string())
        .execute(unit.conn())
        .await?;
    Ok(())
}
