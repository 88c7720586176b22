//! What a stage stored: segments of its log, state versions, its workspace, a policy's decision.
//!
//! All of it counts whenever it comes, from whoever was granted the attempt: what is late is kept as
//! such. The object's key must be one of those that the attempt was given.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_model::{Attempt, MAX_LINEAGE, MAX_SERIAL, RunType, Stage, StateHeading, clear_at};
use gantry_protocol::message::{
    Decision, MoreOutputs, Output, Segment, StateStored, UrlPurpose, WorkspaceStored,
};
use gantry_protocol::{Digest, Header, Signature};

use super::verify::Sender;
use crate::core::UnitOfWork;
use crate::error::OperationError;
use crate::fleet::ingest::Ingest;
use crate::logs::index::{Appended, append};
use crate::objects::check_key;
use crate::queue::dispatch::key_prefix;
use crate::stacks::StateVersion;
use crate::store::results::{self, NewState};
use crate::store::runs::set_clear_at;
use crate::store::states::current_state;
use crate::store::{RunRow, to_json};

/// The longest segment, in bytes.
const MAX_SEGMENT: u64 = 64 * 1024 * 1024;

impl Ingest {
    /// The run of something that the sender stored, unless it had no right to store it.
    async fn stored_for(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        attempt: Attempt,
        what: &'static str,
        object: Option<(UrlPurpose, &str)>,
    ) -> Result<Option<RunRow>, OperationError> {
        if !results::was_granted(unit.conn(), sender.key(), attempt).await? {
            sender.refuse(attempt, what, "the attempt was never granted to this worker");
            return Ok(None);
        }
        let Some(row) = self.run_for(unit, sender, attempt).await? else { return Ok(None) };
        let is_own = object.is_none_or(|(purpose, key)| {
            key.starts_with(&key_prefix(purpose, attempt, &row.stack)) && check_key(key).is_ok()
        });
        if !is_own {
            sender.refuse(attempt, what, "its key is not one that the attempt was given");
            return Ok(None);
        }
        Ok(Some(row))
    }

    pub(super) async fn segment(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        segment: Segment,
    ) -> Result<(), OperationError> {
        let attempt = segment.attempt;
        let object = Some((UrlPurpose::Log, segment.key.as_str()));
        let row = self.stored_for(unit, sender, attempt, "segment", object).await?;
        let Some(row) = row else { return Ok(()) };
        let is_sound = (1..=MAX_SEGMENT).contains(&segment.length)
            && segment.offset.checked_add(segment.length).is_some_and(|end| end < 1 << 50)
            && segment.sha256.parse::<Digest>().is_ok();
        if !is_sound {
            sender.refuse(attempt, "segment", "its length, offset or hash is not valid");
            return Ok(());
        }
        // What an attempt stores after a newer one began would tear the run's log apart.
        let run_start = (attempt.epoch == row.lifecycle.epoch()).then_some(row.log_length);
        match append(unit.conn(), &segment, run_start).await? {
            Appended::Kept => {
                unit.changed(attempt.run);
            }
            Appended::Known => {}
            Appended::Gap(expected) => {
                let why = format!(
                    "it starts at {} of its section, of which {expected} bytes are stored",
                    segment.offset
                );
                sender.refuse(attempt, "segment", &why);
            }
        }
        Ok(())
    }

    pub(super) async fn state_stored(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        state: StateStored,
    ) -> Result<(), OperationError> {
        let attempt = state.attempt;
        let object = Some((UrlPurpose::State, state.key.as_str()));
        let row = self.stored_for(unit, sender, attempt, "state version", object).await?;
        let Some(row) = row else { return Ok(()) };
        let is_sealed =
            STANDARD.decode(&state.header).is_ok_and(|header| Header::parse(&header).is_ok());
        let is_sound = is_sealed
            && state.payload_sha256.parse::<Digest>().is_ok()
            && state.predecessor.as_ref().is_none_or(|hash| hash.parse::<Digest>().is_ok())
            && state.signature.parse::<Signature>().is_ok()
            && state.serial <= MAX_SERIAL;
        if !is_sound {
            sender.refuse(
                attempt,
                "state version",
                "its header, hash, signature or serial is not valid",
            );
            return Ok(());
        }
        if results::has_state(unit.conn(), &row.stack, &state.payload_sha256).await? {
            return Ok(());
        }
        let orphaned = self.orphaned(unit, sender, &row, &state).await?;
        if let Some(reason) = &orphaned {
            tracing::warn!(%attempt, serial = state.serial, "kept an orphaned state version: {reason}");
        }
        let id = self.ids().ulid(unit.now()).to_string();
        let new = NewState {
            id: &id,
            stack: &row.stack,
            stored: &state,
            lineage: kept_lineage(&state),
            orphaned: orphaned.as_deref(),
            created_at: unit.now(),
        };
        results::insert_state(unit.conn(), &new).await?;
        unit.changed(attempt.run);
        Ok(())
    }

    /// Why a state version cannot become the stack's current one, if it cannot.
    async fn orphaned(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        row: &RunRow,
        state: &StateStored,
    ) -> Result<Option<String>, OperationError> {
        // A plan can be discarded, and a state that it wrote would stay.
        if state.attempt.stage == Stage::Read {
            return Ok(Some("a read stage may not write state".to_owned()));
        }
        if row.lifecycle.lease_of(sender.worker, state.attempt).is_none() {
            return Ok(Some("it came when its attempt was over".to_owned()));
        }
        let current = current_state(unit.conn(), &row.stack).await?;
        let predecessor = current.as_ref().map(|current| &current.payload_sha256);
        let out_of_line = match (predecessor, &state.predecessor) {
            (current, predecessor) if current == predecessor.as_ref() => None,
            (Some(_), None) => Some("it follows nothing, and the stack has a state"),
            (None, Some(_)) => Some("it follows a version that the stack does not have"),
            (Some(_), Some(_)) => Some("it does not follow the stack's newest version"),
            (None, None) => None,
        };
        let out_of_line =
            out_of_line.or_else(|| misfit(row.lifecycle.run_type(), current.as_ref(), state));
        Ok(out_of_line.map(str::to_owned))
    }

    pub(super) async fn workspace_stored(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        stored: WorkspaceStored,
    ) -> Result<(), OperationError> {
        let attempt = stored.attempt;
        let object = Some((UrlPurpose::Workspace, stored.key.as_str()));
        let row = self.stored_for(unit, sender, attempt, "workspace", object).await?;
        let Some(row) = row else { return Ok(()) };
        let is_sound = stored.payload_sha256.parse::<Digest>().is_ok()
            && stored.signature.parse::<Signature>().is_ok()
            && stored.payload_size < stored.size;
        if !is_sound {
            sender.refuse(attempt, "workspace", "its size, hash or signature is not valid");
            return Ok(());
        }
        let now = unit.now();
        results::insert_workspace(unit.conn(), &stored, now).await?;
        if row.lifecycle.state().is_terminal() {
            let at = clear_at(unit.now());
            set_clear_at(unit.conn(), attempt.run, Some(at)).await?;
        }
        Ok(())
    }

    pub(super) async fn decision(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        decision: Decision,
    ) -> Result<(), OperationError> {
        let attempt = decision.attempt;
        let row = self.stored_for(unit, sender, attempt, "decision", None).await?;
        if row.is_none() {
            return Ok(());
        }
        let now = unit.now();
        if results::insert_decision(unit.conn(), &decision, now).await? {
            let actor = format!("worker {}", sender.worker);
            let act = if decision.is_allowed { "policy.allow" } else { "policy.deny" };
            let subject = format!("run {}", attempt.run);
            unit.audit(&actor, act, &subject, &to_json(&decision.denials)).await?;
        }
        Ok(())
    }

    /// Keeps the outputs that the result has no room for. Who has a worker's key fills no disk with them.
    pub(super) async fn keep_outputs(
        &self,
        unit: &mut UnitOfWork,
        sender: &Sender,
        more: MoreOutputs,
    ) -> Result<(), OperationError> {
        let attempt = more.attempt;
        if self.stored_for(unit, sender, attempt, "outputs", None).await?.is_none() {
            return Ok(());
        }
        let known = results::count_outputs(unit.conn(), attempt.run).await?;
        let numbered = (u64::from(more.from)..).zip(more.outputs);
        for ((n, output), _) in numbered.zip(known..MAX_OUTPUTS) {
            let value = output.value.filter(|_| !output.is_sensitive);
            let output = Output { value, ..output };
            results::insert_output(unit.conn(), attempt.run, n, &output).await?;
        }
        Ok(())
    }
}

/// The most outputs of a run that are kept beside those of its result.
const MAX_OUTPUTS: u64 = 10_000;

/// What the tool itself never writes in a run that plans and applies. A task may: somebody's
/// `terraform state push -force` is meant.
fn misfit(
    run_type: RunType,
    current: Option<&StateVersion>,
    state: &StateStored,
) -> Option<&'static str> {
    let current = current.filter(|_| run_type != RunType::Task)?;
    let written = StateHeading { serial: state.serial, lineage: kept_lineage(state).to_owned() };
    let present = StateHeading { serial: current.serial, lineage: current.lineage.clone() };
    if written.lineage != present.lineage {
        return Some("it has another lineage than the stack's state");
    }
    (!written.follows(&present))
        .then_some("its serial is not higher than that of the stack's state")
}

fn kept_lineage(state: &StateStored) -> &str {
    &state.lineage[..state.lineage.floor_char_boundary(MAX_LINEAGE)]
}
