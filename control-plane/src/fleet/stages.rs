//! The way of a stage: claimed or declined, its phases, its end.

use gantry_model::{Attempt, Claimed, Concluded, Outcome, RunState, Stage};
use gantry_protocol::message::{
    Cancel, Claim, Closing, Decline, FromControlPlane, Grant, Output, PhaseEvent, PhaseReport,
    StageOutcome, StageResult, StopMode,
};

use super::verify::Sender;
use crate::core::UnitOfWork;
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::logs::index;
use crate::runs::change::{lock_against, save_run};
use crate::store::{RunRow, load_run, results, workers};

/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 2_000;

fn short(text: &str) -> String {
    text.chars().take(MAX_REASON).collect()
}

impl Ingest {
    /// The run of an attempt, if it is one of the sender's pool.
    pub(super) async fn run_for(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        attempt: Attempt,
    ) -> Result<Option<RunRow>, OperationError> {
        let row = load_run(unit.conn(), attempt.run).await?;
        Ok(row.filter(|row| row.pool == sender.pool))
    }

    pub(super) async fn claim(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        claim: Claim,
    ) -> Result<(), OperationError> {
        let attempt = claim.attempt;
        let Some(mut row) = self.run_for(unit, sender, attempt).await? else {
            sender.refuse(attempt, "claim", "the sender's pool has no such run");
            return Ok(());
        };
        let before = row.lifecycle.clone();
        let now = unit.now();
        let journal = sender.session.journal;
        match row.lifecycle.claim(sender.worker, journal, attempt, now, self.terms()) {
            Claimed::Granted => {
                save_run(unit, &before, &mut row).await?;
                let grant = Grant { attempt, urls: Vec::new() };
                unit.post(sender.pool, sender.worker, FromControlPlane::Grant(grant)).await?;
            }
            // Its launcher waits for a grant that never comes: it is told, unless it has it.
            Claimed::Absorbed if row.lifecycle.lease_of(sender.worker, attempt).is_none() => {
                let reason = "the offer was withdrawn";
                unit.revoke(sender.key(), attempt, reason).await?;
            }
            Claimed::Absorbed => {}
        }
        Ok(())
    }

    pub(super) async fn decline(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        decline: Decline,
    ) -> Result<(), OperationError> {
        let attempt = decline.attempt;
        let Some(mut row) = self.run_for(unit, sender, attempt).await? else {
            sender.refuse(attempt, "decline", "the sender's pool has no such run");
            return Ok(());
        };
        let before = row.lifecycle.clone();
        if row.lifecycle.withdraw(sender.worker, attempt) {
            let (pool, worker) = sender.key();
            tracing::info!(%pool, %worker, %attempt, "an offer was declined: {}", short(&decline.reason));
            save_run(unit, &before, &mut row).await?;
            workers::pass_over(unit.conn(), (pool, worker)).await?;
        }
        Ok(())
    }

    pub(super) async fn phase(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        report: PhaseReport,
    ) -> Result<(), OperationError> {
        let attempt = report.attempt;
        let Some(mut row) = self.run_for(unit, sender, attempt).await? else {
            sender.refuse(attempt, "phase", "the sender's pool has no such run");
            return Ok(());
        };
        let before = row.lifecycle.clone();
        match report.event {
            PhaseEvent::Began => {
                if row.lifecycle.began(sender.worker, attempt, report.phase) {
                    save_run(unit, &before, &mut row).await?;
                }
            }
            PhaseEvent::Ended { .. } => {}
        }
        Ok(())
    }

    pub(super) async fn result(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        mut result: StageResult,
    ) -> Result<(), OperationError> {
        let attempt = result.attempt;
        if !results::was_granted(unit.conn(), sender.key(), attempt).await? {
            sender.refuse(attempt, "result", "the attempt was never granted to this worker");
            return Ok(());
        }
        let Some(mut row) = self.run_for(unit, sender, attempt).await? else { return Ok(()) };
        let before = row.lifecycle.clone();
        // Whoever goes on by itself would go on in spite of a lock.
        result.continues &= lock_against(unit.conn(), &row).await?.is_none();
        let (mut outcome, has_changes) = outcome(&result);
        let is_given_back = matches!(result.outcome, StageOutcome::GivenBack { .. });
        if lacks_workspace(unit, &row, &result).await? {
            let note = "its plan has changes, but its workspace was not stored: trigger it again";
            outcome = Outcome::Failed { note: note.to_owned() };
        }
        let now = unit.now();
        match row.lifecycle.conclude(sender.worker, attempt, outcome, now, self.terms()) {
            Concluded::Absorbed => {
                note_late(unit, attempt, &result.outcome).await?;
                close_log(unit, attempt, &result.log).await?;
                unit.changed(attempt.run);
                return Ok(());
            }
            Concluded::Released if is_given_back => {
                let (pool, worker) = sender.key();
                tracing::warn!(%pool, %worker, %attempt, "a worker gave a stage back");
                workers::pass_over(unit.conn(), (pool, worker)).await?;
            }
            Concluded::Released => {}
            Concluded::Continued => {
                let attempt = row.lifecycle.attempt();
                let grant = Grant { attempt, urls: Vec::new() };
                unit.post(sender.pool, sender.worker, FromControlPlane::Grant(grant)).await?;
                if let Some(by) = row.lifecycle.stop_by().map(str::to_owned) {
                    let cancel = Cancel { attempt, mode: StopMode::Graceful, by };
                    unit.post(sender.pool, sender.worker, FromControlPlane::Cancel(cancel)).await?;
                }
            }
        }
        if attempt.stage == Stage::Read {
            row.has_changes = has_changes.or(row.has_changes);
            row.delta = result.delta.or(row.delta);
        }
        if row.lifecycle.state() == RunState::Finished || attempt.stage == Stage::Write {
            row.outputs = bounded(result.outputs);
        }
        close_log(unit, attempt, &result.log).await?;
        save_run(unit, &before, &mut row).await?;
        Ok(())
    }
}

/// What the end of a stage means for its run, and whether a plan found changes.
fn outcome(result: &StageResult) -> (Outcome, Option<bool>) {
    match &result.outcome {
        StageOutcome::Succeeded { has_changes } => {
            let (has_changes, continues) = (*has_changes, result.continues);
            (Outcome::Succeeded { has_changes, continues }, Some(has_changes))
        }
        StageOutcome::Failed { reason, phase, code } => {
            // Most reasons name the exit code themselves.
            let code = code.map(|code| format!("exit code {code}"));
            let code = code.filter(|code| !reason.contains(code.as_str()));
            let note = match (phase, code) {
                (Some(phase), Some(code)) => {
                    format!("{phase} failed with {code}: {}", short(reason))
                }
                (Some(phase), None) => format!("{phase} failed: {}", short(reason)),
                (None, _) => short(reason),
            };
            (Outcome::Failed { note }, None)
        }
        StageOutcome::Denied => {
            let note =
                "denied by the worker's run initialization policy: its messages are in the log";
            (Outcome::Failed { note: note.to_owned() }, None)
        }
        StageOutcome::Stopped { reason } => (Outcome::Stopped { note: short(reason) }, None),
        StageOutcome::GivenBack { reason } => {
            let note = short(reason);
            let outcome = match result.attempt.stage {
                // Started anew elsewhere, like one of which nobody knows.
                Stage::Read => Outcome::Unknown { note },
                Stage::Write => Outcome::Failed { note },
            };
            (outcome, None)
        }
        StageOutcome::Unknown { reason } => (Outcome::Unknown { note: short(reason) }, None),
    }
}

/// Whether there is a second half that could not begin: nothing is stored to begin it with.
async fn lacks_workspace(
    unit: &mut UnitOfWork,
    row: &RunRow,
    result: &StageResult,
) -> Result<bool, OperationError> {
    let has_second_half = row.lifecycle.run_type().stage_after(result.attempt.stage).is_some();
    let has_changes = matches!(result.outcome, StageOutcome::Succeeded { has_changes: true });
    let goes_on = result.continues && row.lifecycle.is_autodeployed();
    if !has_second_half || !has_changes || goes_on {
        return Ok(false);
    }
    Ok(!results::has_workspace(unit.conn(), result.attempt).await?)
}

/// Outputs come in an envelope of at most 64 KiB, so there is nothing to cut but a sensitive value
/// that should not be there.
fn bounded(outputs: Vec<Output>) -> Vec<Output> {
    outputs
        .into_iter()
        .map(|output| Output { value: output.value.filter(|_| !output.is_sensitive), ..output })
        .collect()
}

async fn close_log(
    unit: &mut UnitOfWork,
    attempt: Attempt,
    closings: &[Closing],
) -> Result<(), OperationError> {
    if !index::close(unit.conn(), attempt, closings).await? {
        tracing::warn!(%attempt, "a result came before all of its log");
    }
    Ok(())
}

/// A result that changes nothing any more is still worth knowing.
async fn note_late(
    unit: &mut UnitOfWork,
    attempt: Attempt,
    outcome: &StageOutcome,
) -> Result<(), OperationError> {
    let said = match outcome {
        StageOutcome::Succeeded { .. } => "succeeded".to_owned(),
        StageOutcome::Failed { reason, .. } => format!("failed: {}", short(reason)),
        StageOutcome::Denied => "denied".to_owned(),
        StageOutcome::Stopped { reason } => format!("stopped: {}", short(reason)),
        StageOutcome::GivenBack { reason } => format!("was given back: {}", short(reason)),
        StageOutcome::Unknown { reason } => format!("unknown: {}", short(reason)),
    };
    let note = format!("; its worker reported later that it {said}");
    results::add_end_note(unit.conn(), attempt, &note).await?;
    Ok(())
}
