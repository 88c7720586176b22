//! Offers, leases and deadlines that are over.

use std::ops::Deref;

use gantry_model::{Expired, RunId, Timestamp};

use crate::core::{Core, UnitOfWork};
use crate::error::OperationError;
use crate::runs::change::save_run;
use crate::store::{leases, load_run, outbox, workers};

/// The most runs that one transaction looks at.
const BATCH: u32 = 100;

/// Offers, leases and deadlines. Clones are the same.
#[derive(Clone)]
pub struct Leases {
    core: Core,
}

impl Deref for Leases {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Leases {
    pub(crate) fn new(core: Core) -> Self {
        Self { core }
    }

    /// After this process's own start: whoever could not be heard in the meantime gets the time to
    /// come back, and has to say hello first.
    pub(crate) async fn take_up_leases(&self) -> Result<(), OperationError> {
        let mut unit = self.begin().await?;
        workers::disconnect_all(unit.conn()).await?;
        outbox::delete_all(unit.conn()).await?;
        self.refresh_leases(&mut unit).await?;
        unit.commit().await?;
        Ok(())
    }

    /// After an interruption of our own, in which nobody could be heard, every lease gets a fresh term.
    pub(crate) async fn interrupted(&self) -> Result<(), OperationError> {
        let mut unit = self.begin().await?;
        self.refresh_leases(&mut unit).await?;
        unit.commit().await?;
        Ok(())
    }

    async fn refresh_leases(&self, unit: &mut UnitOfWork) -> Result<(), OperationError> {
        for run in leases::list_held(unit.conn()).await? {
            let Some(mut row) = load_run(unit.conn(), run).await? else { continue };
            let before = row.lifecycle.clone();
            let now = unit.now();
            row.lifecycle.refresh(now, self.terms());
            save_run(unit, &before, &mut row).await?;
        }
        Ok(())
    }

    /// Does what is due.
    pub(crate) async fn expire(&self) -> Result<(), OperationError> {
        loop {
            let runs = {
                let mut conn = self.store().read().await?;
                leases::list_due(&mut conn, self.now(), BATCH).await?
            };
            if runs.is_empty() {
                return Ok(());
            }
            let mut unit = self.begin().await?;
            if self.store().was_away() {
                // Nobody's heartbeat was kept, so nobody's silence counts.
                self.refresh_leases(&mut unit).await?;
                unit.commit().await?;
                self.store().note_heard();
                continue;
            }
            for run in runs {
                self.expire_run(&mut unit, run).await?;
            }
            unit.commit().await?;
        }
    }

    async fn expire_run(&self, unit: &mut UnitOfWork, run: RunId) -> Result<(), OperationError> {
        let Some(mut row) = load_run(unit.conn(), run).await? else { return Ok(()) };
        let before = row.lifecycle.clone();
        let now = unit.now();
        match row.lifecycle.expire(now, self.terms()) {
            // Writes down when it is.
            Expired::NotDue => save_run(unit, &before, &mut row).await?,
            Expired::Withdrawn(worker) => {
                save_run(unit, &before, &mut row).await?;
                workers::pass_over(unit.conn(), (row.pool, worker)).await?;
                tracing::info!(%run, %worker, "an offer was not claimed in time");
            }
            Expired::Taken(worker) => {
                save_run(unit, &before, &mut row).await?;
                unit.revoke((row.pool, worker), before.attempt(), "its lease lapsed").await?;
                tracing::warn!(%run, %worker, "the lease of a read stage lapsed");
            }
            Expired::Unknown(worker) => {
                save_run(unit, &before, &mut row).await?;
                tracing::error!(%run, %worker, "the outcome of a write stage is unknown");
            }
        }
        Ok(())
    }

    /// When something is due next.
    pub(crate) async fn next_due(&self) -> Result<Option<Timestamp>, OperationError> {
        let mut conn = self.store().read().await?;
        Ok(leases::next_due(&mut conn).await?)
    }
}
