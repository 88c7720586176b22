//! What a hello settles between its worker and us: which runs it has, which it never started, and
//! which it has no right to.

use std::collections::HashSet;

use gantry_model::{Assignment, Attempt, Expired, RunId, RunLifecycle, Stage};
use gantry_protocol::message::{Cancel, FromControlPlane, Grant, Hello, StopMode};

use super::verify::Sender;
use crate::core::UnitOfWork;
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::runs::change::save_run;
use crate::store::WorkerKey;
use crate::store::{leases, load_run, results, workers};

impl Ingest {
    /// Compares what the launcher names with what we gave it.
    pub(super) async fn reconcile(
        &self,
        unit: &mut UnitOfWork,
        (pool, worker): WorkerKey,
        hello: &Hello,
        named: &HashSet<Attempt>,
    ) -> Result<Reconciled, OperationError> {
        self.take_up(unit, (pool, worker), hello).await?;
        let held = leases::list_of_worker(unit.conn(), (pool, worker)).await?;
        let mut reconciled = Reconciled::default();
        let mut current = HashSet::new();
        let mut in_hand: Option<RunId> = None;
        for run in held {
            let Some(mut row) = load_run(unit.conn(), run).await? else { continue };
            let before = row.lifecycle.clone();
            let attempt = before.attempt();
            let now = unit.now();
            match *before.assignment() {
                Assignment::Idle | Assignment::Waiting => continue,
                Assignment::Offered { .. } => {
                    row.lifecycle.withdraw(worker, attempt);
                }
                Assignment::Granted(lease) => {
                    let first_half = Attempt { stage: Stage::Read, ..attempt };
                    let has_first_half = lease.is_continued && named.contains(&first_half);
                    if named.contains(&attempt) || has_first_half {
                        current.extend([attempt, first_half]);
                        in_hand = Some(run);
                        row.lifecycle.renew(worker, attempt, now, self.terms());
                        reconciled.again.extend(again(&row.lifecycle, !named.contains(&attempt)));
                    } else if lease.journal == hello.journal && attempt.stage == Stage::Write {
                        // Past its time it is not offered again: what this server knows of it may be
                        // from a backup. It stays until its deadline.
                        if self.is_timely(unit, attempt).await? {
                            in_hand = Some(run);
                            reconciled.unnamed.push(attempt);
                        }
                    } else if lease.journal == hello.journal {
                        row.lifecycle.never_started(worker, hello.journal);
                    } else {
                        // A write stage stays, and its worker is free for others.
                        let lost = row.lifecycle.journal_lost(worker, self.terms());
                        debug_assert!(lost != Expired::NotDue || attempt.stage == Stage::Write);
                    }
                }
            }
            if row.lifecycle != before {
                save_run(unit, &before, &mut row).await?;
            }
        }
        let now = unit.now();
        workers::set_run(unit.conn(), (pool, worker), in_hand, now).await?;
        reconciled.not_yours = named.difference(&current).copied().collect();
        reconciled.not_yours.sort_unstable();
        Ok(reconciled)
    }

    /// Gives back the write stages that the launcher has in hand and that this server has yet to hand
    /// out: it was set back, as a restored backup is. The launcher's journal is the better witness, and
    /// what it has must not go to anybody else. A read stage that this server forgot is just planned again.
    async fn take_up(
        &self,
        unit: &mut UnitOfWork,
        (pool, worker): WorkerKey,
        hello: &Hello,
    ) -> Result<(), OperationError> {
        let in_hand = hello.runs.iter().map(|run| run.attempt);
        for attempt in in_hand.filter(|attempt| attempt.stage == Stage::Write) {
            let Some(mut row) = load_run(unit.conn(), attempt.run).await? else { continue };
            if row.pool != pool {
                continue;
            }
            let (before, now) = (row.lifecycle.clone(), unit.now());
            if !row.lifecycle.recover(worker, hello.journal, attempt, now, self.terms()) {
                continue;
            }
            tracing::error!(%attempt, %worker, "a launcher knows more of a run than this server, which was set back");
            save_run(unit, &before, &mut row).await?;
        }
        Ok(())
    }

    /// Whether a granted write stage could still be within its time.
    async fn is_timely(
        &self,
        unit: &mut UnitOfWork,
        attempt: Attempt,
    ) -> Result<bool, OperationError> {
        let granted = results::granted_at(unit.conn(), attempt).await?;
        Ok(granted.is_some_and(|at| unit.now() < at.plus_ms(self.terms().write_ms)))
    }

    /// A write stage that was granted to this journal and that it does not know.
    pub(super) async fn never_started(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        attempt: Attempt,
    ) -> Result<(), OperationError> {
        let run = attempt.run;
        let Some(mut row) = load_run(unit.conn(), run).await? else { return Ok(()) };
        let before = row.lifecycle.clone();
        if before.attempt() == attempt
            && row.pool == sender.pool
            && row.lifecycle.never_started(sender.worker, sender.session.journal)
        {
            tracing::info!(%run, worker = %sender.worker, "a granted stage was never started");
            save_run(unit, &before, &mut row).await?;
        }
        Ok(())
    }
}

/// What a hello's comparison led to.
#[derive(Default)]
pub(super) struct Reconciled {
    pub(super) not_yours: Vec<Attempt>,
    pub(super) unnamed: Vec<Attempt>,
    pub(super) again: Vec<FromControlPlane>,
}

/// What the owner of a run still has to hear.
fn again(lifecycle: &RunLifecycle, needs_grant: bool) -> Vec<FromControlPlane> {
    let attempt = lifecycle.attempt();
    let grant = needs_grant.then(|| FromControlPlane::Grant(Grant { attempt, urls: Vec::new() }));
    let cancel = lifecycle
        .stop_by()
        .map(str::to_owned)
        .map(|by| FromControlPlane::Cancel(Cancel { attempt, mode: StopMode::Graceful, by }));
    grant.into_iter().chain(cancel).collect()
}
