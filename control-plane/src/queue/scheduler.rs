//! Brings stages that wait and workers that are free together.
//!
//! Of a pool's stages the first by rank and age goes to the newest free worker that is well. A stage that
//! came back goes to one that has not had it, as long as there is one. What is looked at does not grow
//! with the queue: both sides come from indexes that hold only what waits.

use super::dispatch::Specs;
use crate::core::Core;
use gantry_model::{ChosenWorker, Timestamp, WorkerId, choose_worker};
use gantry_protocol::message::{FromControlPlane, Offer};
use std::ops::Deref;

use crate::error::OperationError;
use crate::runs::change::save_run;
use crate::store::attempts::workers_granted;
use crate::store::queue::{
    disconnect_worker, idle_workers, is_fresh_one_idle, is_fresh_one_there, is_idle,
    pools_with_work, waiting_runs,
};
use crate::store::{Connection, RunRow, load_run};

/// The most hand-offs of one transaction.
const BATCH: i64 = 32;

/// A stage, whom to offer it to, and the sealed spec.
struct Pair {
    row: RunRow,
    worker: WorkerId,
}

/// The stages that wait for workers. Clones are the same.
#[derive(Clone)]
pub struct Queue {
    core: Core,
    specs: Specs,
}

impl Deref for Queue {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Queue {
    pub(crate) fn new(core: Core, specs: Specs) -> Self {
        Self { core, specs }
    }

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
                let mut lifecycle = pair.row.lifecycle.clone();
                let Ok(attempt) = lifecycle.offer(pair.worker, self.now(), self.terms()) else {
                    continue;
                };
                match self.specs.sealed_spec(&pair.row, attempt, lifecycle.state()).await {
                    Ok(spec) => offers.push((pair, Offer { attempt, spec })),
                    Err(error) => {
                        is_well = false;
                        let run = pair.row.lifecycle.run();
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
            let is_idle = is_idle(unit.conn(), row.pool, worker).await?;
            let Some(mut present) = load_run(unit.conn(), row.lifecycle.run()).await? else {
                continue;
            };
            if !is_idle || present.lifecycle != row.lifecycle {
                continue;
            }
            if self.sessions().get((row.pool, worker)).is_none() {
                // Its session ended without a word. It would be chosen again and again.
                disconnect_worker(unit.conn(), row.pool, worker).await?;
                is_any = true;
                continue;
            }
            let before = present.lifecycle.clone();
            let now = unit.now();
            if present.lifecycle.offer(worker, now, self.terms()) == Ok(offer.attempt) {
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
        let heard = self.heard_since();
        let mut pairs = Vec::new();
        for pool in pools_with_work(&mut conn).await? {
            let runs = waiting_runs(&mut conn, pool, BATCH).await?;
            let mut idle = idle_workers(&mut conn, pool, BATCH).await?;
            for row in runs {
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

/// Takes the worker for a stage out of those that are idle. None while one that has not had the stage is only
/// busy and was heard since `heard`: the others would give the stage back once more.
async fn choose(
    conn: &mut Connection,
    row: &RunRow,
    idle: &mut Vec<WorkerId>,
    heard: Timestamp,
) -> Result<Option<WorkerId>, OperationError> {
    let run = row.lifecycle.run();
    let tried =
        if row.lifecycle.came_back() { workers_granted(conn, run).await? } else { Vec::new() };
    let chosen = match choose_worker(idle, &tried) {
        ChosenWorker::This(worker) => Some(worker),
        ChosenWorker::Again(worker) => {
            let waits = is_fresh_one_there(conn, row.pool, run, heard).await?;
            Some(worker).filter(|_| !waits)
        }
        ChosenWorker::Nobody => None,
    };
    idle.retain(|worker| Some(*worker) != chosen);
    Ok(chosen)
}

/// Whether a stage that came back waits though workers are free: all of those have had it, and another one
/// that has not is busy.
pub(crate) async fn waits_for_another(
    conn: &mut Connection,
    row: &RunRow,
    heard: Timestamp,
) -> Result<bool, OperationError> {
    if !row.lifecycle.came_back() {
        return Ok(false);
    }
    let (pool, run) = (row.pool, row.lifecycle.run());
    let is_idle = is_fresh_one_idle(conn, pool, run).await?;
    Ok(!is_idle && is_fresh_one_there(conn, pool, run, heard).await?)
}
