//! Brings stages that wait and workers that are free together.
//!
//! Of a pool's stages the first by rank and age goes to the newest free worker that is well. A stage that
//! came back goes to one that has not had it, as long as there is one. What is looked at does not grow
//! with the queue: both sides come from indexes that hold only what waits.

use gantry_model::{PoolId, Stage, Timestamp, WorkerId};
use gantry_protocol::message::{FromControlPlane, Offer};
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::attempts::workers_granted;
use crate::store::{Connection, RUN_COLUMNS, RunRow, id, load_run, read_run, save_run, to_db};
use crate::unit_of_work::Unit;

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

    /// Since when a worker must have been heard for a stage that came back to wait for it.
    pub(crate) fn heard_since(&self) -> Timestamp {
        Timestamp(self.now().0.saturating_sub(self.terms().lease_ms))
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
            let heard = self.heard_since();
            let mut idle = Vec::new();
            for worker in &workers {
                idle.push(id("worker", worker.get("id"))?);
            }
            for run in &runs {
                let row = read_run(run)?;
                if let Some(worker) = choose(&mut conn, &row, &mut idle, heard).await? {
                    pairs.push(Pair { row, worker });
                }
                if idle.is_empty() {
                    break;
                }
            }
        }
        Ok(pairs)
    }
}

/// Takes the worker for a stage out of those that are idle: the first one, but for a stage that came back
/// one that has not had it. None while such a one is only busy and was heard since `heard`: the others
/// would give the stage back once more.
async fn choose(
    conn: &mut Connection,
    row: &RunRow,
    idle: &mut Vec<WorkerId>,
    heard: Timestamp,
) -> Result<Option<WorkerId>, OperationError> {
    if row.life.read_attempts == 0 || row.life.stage != Stage::Read {
        return Ok((!idle.is_empty()).then(|| idle.remove(0)));
    }
    let tried = workers_granted(conn, row.life.run).await?;
    if let Some(at) = idle.iter().position(|worker| !tried.contains(worker)) {
        return Ok(Some(idle.remove(at)));
    }
    let waits = is_one_busy(conn, row, heard).await?;
    Ok((!waits && !idle.is_empty()).then(|| idle.remove(0)))
}

/// Whether a stage that came back waits though workers are free: all of those have had it, and another one
/// that has not is busy.
pub(crate) async fn waits_for_another(
    conn: &mut Connection,
    row: &RunRow,
    heard: Timestamp,
) -> Result<bool, OperationError> {
    if row.life.read_attempts == 0 || row.life.stage != Stage::Read {
        return Ok(false);
    }
    let fresh = format!(
        "SELECT 1 FROM workers w WHERE w.pool = $1 AND {IS_IDLE} AND NOT EXISTS (SELECT 1 FROM attempts a \
         WHERE a.run = $2 AND a.worker = w.id AND a.granted_at IS NOT NULL) LIMIT 1"
    );
    let fresh = sqlx::query(sqlx::AssertSqlSafe(fresh))
        .bind(row.pool.to_string())
        .bind(row.life.run.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    Ok(fresh.is_none() && is_one_busy(conn, row, heard).await?)
}

/// Whether a worker that has not had the stage could have it, were it free.
async fn is_one_busy(
    conn: &mut Connection,
    row: &RunRow,
    heard: Timestamp,
) -> Result<bool, OperationError> {
    let others = "SELECT 1 FROM workers w WHERE w.pool = $1 AND w.is_connected = 1 \
                  AND w.is_drained = 0 AND w.is_healthy = 1 AND w.is_passed_over = 0 \
                  AND w.heard_at >= $3 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.run = $2 AND a.worker = w.id \
                  AND a.granted_at IS NOT NULL) LIMIT 1";
    let found = sqlx::query(others)
        .bind(row.pool.to_string())
        .bind(row.life.run.to_string())
        .bind(to_db(heard.0))
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
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
