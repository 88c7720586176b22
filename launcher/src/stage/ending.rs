//! From the container's last word to the result.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_model::{Attempt, Phase, RunType, Section, Stage as StageKind};
use gantry_protocol::message::{
    Closing, MoreOutputs, StageOutcome, StageResult, Step, UrlPurpose, WorkspaceStored,
};
use gantry_spool::order::{MAX_OUTPUTS, MAX_PLAN};
use gantry_spool::{
    Carried, MAX_CARRIED, Outcome, SideName, SpoolError, StopReason, open_side_file,
};

use super::follow::Followed;
use super::{Shared, Stage, StageError, blame, plain, waits};
use crate::blob::BlobError;
use crate::engine::{Engine, Signal, State};
use crate::explain::sentence;
use crate::journal::{Change, Ending, Entry, JournalError};
use crate::log::{Log, message_id};
use crate::mask::Secrets;
use crate::tool::{self, Outputs, Planned};
use crate::uploads::{Content, Uploader as _};
use crate::workspace::{self, Directories, Handover, PlannedIn, WorkspaceError};

/// How many bytes of outputs a message has, unless one is larger.
const OUTPUTS_OF_A_MESSAGE: usize = 32 << 10;
/// How long the container may take to end behind its last word.
const WAY_OUT: Duration = Duration::from_secs(10);

impl<E: Engine> Stage<E> {
    /// Makes durable how the stage ended. The rest of the log is stored before it.
    pub(super) async fn end(&self, followed: Followed) -> Result<(), StageError> {
        let Followed { outcome, damage, mut log } = followed;
        let stop = self.entry().and_then(|entry| entry.stop);
        let outcome = match outcome {
            Some(outcome) => outcome_of(outcome, stop, &self.shared),
            None => self.lost(&mut log, stop, damage).await?,
        };
        let outcome = self.outcome_of_left().unwrap_or(outcome);
        let mut ending = match outcome {
            StageOutcome::Succeeded { has_changes } => self.success(has_changes).await,
            StageOutcome::Failed { .. }
            | StageOutcome::Denied
            | StageOutcome::Stopped { .. }
            | StageOutcome::GivenBack { .. }
            | StageOutcome::Unknown { .. } => plain(outcome),
        };
        let section = log.section();
        log.end_section(None, section, Vec::new()).await?;
        let mut lines: Vec<_> = line(&ending.outcome).into_iter().collect();
        let mut changes = Vec::new();
        if matches!(ending.outcome, StageOutcome::Succeeded { .. }) {
            lines.extend(self.report_outputs(&mut ending, &mut changes));
        }
        changes.push(Change::ended(self.attempt, masked(ending, &self.secrets)));
        Ok(log.say(Section::Conclude, &lines, changes).await?)
    }

    /// The container is gone and its spool has no last frame.
    async fn lost(
        &self,
        log: &mut Log,
        stop: Option<String>,
        damage: Option<String>,
    ) -> Result<StageOutcome, StageError> {
        let name = super::container_name(self.attempt);
        let state = self.ask_with(log, || self.shared.engine.state(&name)).await?;
        let how = match state {
            Some(State::Exited { code, .. }) => format!("it ended with code {code}"),
            Some(State::Created) => "it was never started".to_owned(),
            Some(State::Running) => "it still runs".to_owned(),
            None => "it is gone".to_owned(),
        };
        let restarted = self.entry().is_some_and(|entry| entry.boot != self.shared.boot);
        let why = if restarted {
            "the host was restarted".to_owned()
        } else if state.is_none() {
            "it was removed".to_owned()
        } else if let Some(State::Exited { is_out_of_memory: true, .. }) = state {
            let limit = self.shared.limits.memory;
            let limit =
                limit.map_or("no limit".to_owned(), |bytes| format!("limit {} MiB", bytes >> 20));
            format!(
                "the kernel killed it for want of memory ({limit}): let the tool do less at once, as with -parallelism, or give runs more with GANTRY_MEMORY_LIMIT on a host that has it"
            )
        } else {
            format!("{} or the kernel stopped it", self.shared.engine.name())
        };
        let begun = self.has_begun().await;
        let stop = stop.filter(|_| damage.is_none());
        let reason = match damage {
            Some(damage) => format!("what the container said cannot be read to its end: {damage}"),
            None => format!("the container ended without a result ({how}): {why}"),
        };
        Ok(match (begun, self.attempt.stage) {
            (true, StageKind::Write) if self.has_uncollected() => {
                self.leave("the container ended before it could be copied").await?;
                StageOutcome::Unknown { reason }
            }
            (true, StageKind::Write) => StageOutcome::Unknown {
                reason: format!("{reason}; look at what it may have changed before the next run"),
            },
            (true, StageKind::Read) => match stop {
                Some(reason) => StageOutcome::Stopped { reason },
                None => StageOutcome::Failed { reason, phase: None, code: None },
            },
            (false, stage) => {
                let engine = self.shared.engine.name();
                let reason = format!("the container did not begin ({how}): look at {engine}'s log");
                self.shared.complaints.failed(&reason);
                blame::outcome(stage, reason)
            }
        })
    }

    /// `said` is what the tool said itself about having something to apply, if it did.
    async fn success(&self, said: bool) -> Ending {
        let planned = match self.plan().await {
            Ok(planned) => planned,
            Err(reason) => {
                let phase = Some(Phase::Plan);
                return plain(StageOutcome::Failed { reason, phase, code: None });
            }
        };
        let delta = planned.and_then(|planned| planned.delta);
        // A change is not lost for one of the two being wrong.
        let has_changes = said || planned.is_some_and(|planned| planned.has_changes);
        let has_write_stage = match self.spec.run_type {
            RunType::Tracked | RunType::Destroy => self.attempt.stage == StageKind::Read,
            RunType::Proposed | RunType::Task | RunType::Testing => false,
        };
        Ending {
            outcome: StageOutcome::Succeeded { has_changes },
            delta,
            outputs: Vec::new(),
            keeps_workspace: has_changes && has_write_stage,
        }
    }

    /// What the plan would change; none if the stage did not plan, or if nobody can tell. Fails, in words, when
    /// nothing else says whether there is something to apply.
    async fn plan(&self) -> Result<Option<Planned>, String> {
        if self.spec.phases.iter().all(|phase| phase.phase != Phase::Plan) {
            return Ok(None);
        }
        let error = match self.read_plan().await {
            Ok(planned) => return Ok(Some(planned)),
            Err(error) => self.secrets.hide(&error),
        };
        // Where the apply is behind it already, nothing waits for an answer.
        if tool::of(&self.spec).must_read_plan && self.attempt.stage == StageKind::Read {
            return Err(format!("what the plan comes to cannot be read: {error}"));
        }
        // The log says why it is not there.
        tracing::warn!(attempt = %self.attempt, error, "the plan is not counted");
        Ok(None)
    }

    async fn read_plan(&self) -> Result<Planned, String> {
        let plan = open_side_file(&self.directories.spool, SideName::Plan, MAX_PLAN)
            .map_err(|error| sentence(&error))?;
        let spec = self.spec.clone();
        // A large one takes seconds.
        let read = self.jobs.run(move |_| {
            (tool::of(&spec).read_plan)(&spec, &mut std::io::Read::take(plan, MAX_PLAN))
                .map_err(|error| error.to_string())
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Puts the outputs into the result, and what it has no room for into messages of their own. Says what
    /// is left out.
    fn report_outputs(&self, ending: &mut Ending, changes: &mut Vec<Change>) -> Option<String> {
        let Outputs { reported, left_out } = match self.outputs() {
            Ok(outputs) => outputs,
            Err(why) => return Some(format!("the outputs cannot be read: {why}")),
        };
        let mut lists = tool::in_messages(reported, OUTPUTS_OF_A_MESSAGE).into_iter();
        ending.outputs = lists.next().unwrap_or_default();
        let mut from = ending.outputs.len();
        for outputs in lists {
            let more = MoreOutputs {
                attempt: self.attempt,
                from: u32::try_from(from).unwrap_or(u32::MAX),
                outputs,
            };
            from += more.outputs.len();
            changes.push(Change::Queue { id: message_id(), message: more.into() });
        }
        (left_out > 0).then(|| {
            format!(
                "{left_out} of the outputs are too large or too many to be shown: {}",
                tool::of(&self.spec).outputs_elsewhere
            )
        })
    }

    fn outputs(&self) -> Result<Outputs, String> {
        let shown = match open_side_file(&self.directories.spool, SideName::Outputs, MAX_OUTPUTS) {
            Ok(shown) => shown,
            Err(SpoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Outputs::default());
            }
            Err(error) => return Err(sentence(&error)),
        };
        let shown = std::io::Read::take(shown, MAX_OUTPUTS);
        // The message may quote a value, and a sensitive one is not masked.
        tool::read_outputs(shown, &self.secrets).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("they are not JSON of their form, by line {line}, column {column}")
        })
    }

    /// Seals, signs and stores the workspace, if the write stage needs it.
    pub(super) async fn seal(&self, entry: &Entry) -> Result<(), StageError> {
        let keeps = entry.ending.as_ref().is_some_and(|ending| ending.keeps_workspace);
        if !keeps {
            return Ok(self.shared.journal.step(self.attempt, Step::Sealed).await?);
        }
        self.let_end().await?;
        let image = Some(self.planned_in().await?);
        let (directories, stack, attempt) =
            (self.directories.clone(), self.spec.stack.clone(), self.attempt);
        let config = Arc::clone(&self.shared.config);
        let sealed = self.jobs.run(move |_| {
            let environment = exported(&directories)?;
            Handover { environment, image }.put(&directories.workspace)?;
            workspace::seal(&directories, &stack, attempt, &config.key)
        });
        let leaving = match sealed.await {
            Ok(Ok(leaving)) => leaving,
            Ok(Err(error)) => return self.unsealed(&sentence(&error)).await,
            Err(error) => return self.unsealed(&sentence(&error)).await,
        };
        let head = Bytes::copy_from_slice(leaving.header.as_bytes());
        let content = Content::File(&head, &leaving.payload);
        let key = match self.store.put(UrlPurpose::Workspace, content).await {
            Err(error @ BlobError::Unwanted { .. }) => {
                return self.unsealed(&sentence(&error)).await;
            }
            put => put?,
        };
        let message = WorkspaceStored {
            attempt: self.attempt,
            key,
            size: head.len() as u64 + leaving.statement.payload_len,
            payload_sha256: leaving.statement.payload_sha256.to_string(),
            payload_size: leaving.statement.payload_len,
            signature: leaving.signature.to_string(),
        };
        self.shared
            .journal
            .write(vec![
                Change::Queue { id: message_id(), message: message.into() },
                Change::step(self.attempt, Step::Sealed),
            ])
            .await?;
        Ok(())
    }

    /// The image in which the stage planned, for the one that applies.
    async fn planned_in(&self) -> Result<PlannedIn, StageError> {
        let id = self.chosen_image();
        let engine = &self.shared.engine;
        let image = self.ask(|| engine.image(&id)).await?;
        let digests = image.map_or_else(Vec::new, |image| image.digests);
        Ok(PlannedIn { id, digests })
    }

    /// Nothing may change the workspace while it is packed, and nothing in the container has a reason to
    /// go on.
    async fn let_end(&self) -> Result<(), StageError> {
        let name = super::container_name(self.attempt);
        let engine = &self.shared.engine;
        let ended = || self.ask(|| engine.ended(&name));
        if let Ok(ended) = tokio::time::timeout(WAY_OUT, ended()).await {
            return Ok(ended?);
        }
        tracing::warn!(attempt = %self.attempt, "the container did not end after its last message: ending it");
        self.ask(|| engine.signal(&name, Signal::Kill)).await?;
        Ok(ended().await?)
    }

    /// A plan whose workspace cannot be kept cannot be applied.
    async fn unsealed(&self, why: &str) -> Result<(), StageError> {
        let reason = format!("the workspace cannot be kept for the apply: {why}");
        self.ends_otherwise(StageOutcome::Failed { reason, phase: None, code: None }).await
    }

    /// What had gone well comes to nothing all the same.
    pub(super) async fn ends_otherwise(&self, outcome: StageOutcome) -> Result<(), StageError> {
        // It may name a file, and a run chooses how its files are called.
        let ending = masked(plain(outcome), &self.secrets);
        self.shared
            .journal
            .write(vec![
                Change::ended(self.attempt, ending),
                Change::step(self.attempt, Step::Sealed),
            ])
            .await?;
        Ok(())
    }
}

/// What hooks made of the environment.
fn exported(directories: &Directories) -> Result<Vec<Carried>, WorkspaceError> {
    let file = match open_side_file(&directories.spool, SideName::Environment, MAX_CARRIED) {
        Ok(file) => file,
        // The log says why it is not there.
        Err(SpoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(std::io::Error::other(error).into()),
    };
    let reader = std::io::BufReader::new(std::io::Read::take(file, MAX_CARRIED));
    Ok(serde_json::from_reader(reader).map_err(std::io::Error::from)?)
}

/// Makes the result durable as a message that waits for its acknowledgement.
pub(super) async fn send_result<E>(
    shared: &Shared<E>,
    attempt: Attempt,
    log: Vec<Closing>,
) -> Result<(), JournalError> {
    let Some(ending) = shared.journal.entry(attempt).and_then(|entry| entry.ending) else {
        return Ok(());
    };
    let is_denied = matches!(ending.outcome, StageOutcome::Denied);
    let otherwise = if is_denied { "denied by the policy" } else { "succeeded" };
    let how = line(&ending.outcome).unwrap_or_else(|| otherwise.to_owned());
    tracing::info!(%attempt, how, "the stage has ended");
    let message = StageResult {
        attempt,
        outcome: ending.outcome,
        delta: ending.delta,
        outputs: ending.outputs,
        log,
        continues: false,
    };
    shared
        .journal
        .write(vec![Change::Result { attempt, id: message_id(), message: message.into() }])
        .await?;
    Ok(())
}

fn outcome_of<E: Engine>(
    outcome: Outcome,
    stop: Option<String>,
    shared: &Shared<E>,
) -> StageOutcome {
    match outcome {
        Outcome::Succeeded => StageOutcome::Succeeded { has_changes: false },
        Outcome::Planned { has_changes } => StageOutcome::Succeeded { has_changes },
        Outcome::Failed { phase, code, signal: _, reason } => {
            StageOutcome::Failed { reason, phase, code }
        }
        Outcome::Stopped { phase, reason } => match (stop, reason) {
            (Some(reason), _) => StageOutcome::Stopped { reason },
            (None, StopReason::RunTimeout) => {
                StageOutcome::Stopped { reason: waits::too_long(&shared.config) }
            }
            // The pool did not want it.
            (None, StopReason::Asked) => StageOutcome::Failed {
                reason: format!(
                    "{} stopped, or somebody signalled the container: the tool was interrupted once",
                    shared.engine.name()
                ),
                phase,
                code: None,
            },
        },
    }
}

/// Reasons come from the container, so they are masked like everything else that leaves it.
fn masked(mut ending: Ending, secrets: &Secrets) -> Ending {
    match &mut ending.outcome {
        StageOutcome::Failed { reason, .. }
        | StageOutcome::Stopped { reason }
        | StageOutcome::GivenBack { reason }
        | StageOutcome::Unknown { reason } => *reason = secrets.hide(reason),
        StageOutcome::Succeeded { .. } | StageOutcome::Denied => {}
    }
    ending
}

/// What the log says about an ending at its end.
pub(super) fn line(outcome: &StageOutcome) -> Option<String> {
    match outcome {
        StageOutcome::Succeeded { .. } | StageOutcome::Denied => None,
        StageOutcome::Failed { reason, phase: Some(phase), .. } => {
            Some(format!("{phase} failed: {reason}"))
        }
        StageOutcome::Failed { reason, phase: None, .. } => Some(reason.clone()),
        StageOutcome::Stopped { reason } => Some(format!("stopped: {reason}")),
        StageOutcome::GivenBack { reason } => Some(format!(
            "this worker gives the stage back, so that another one may run it: {reason}"
        )),
        StageOutcome::Unknown { reason } => Some(format!("outcome unknown: {reason}")),
    }
}
