//! A state that a person brings in: sealed and signed on their machine, checked here before it counts.
//!
//! Launchers open no state that the pool did not sign, so whoever pushes one has the pool's key. The
//! statement names the push in the place of a run, and epoch 0, which no run has.

use crate::stacks::Stacks;
use gantry_model::{
    Attempt, Epoch, MAX_LINEAGE, MAX_SERIAL, MAX_STATE, PoolId, RunId, StackId, Stage,
    StateHeading, Timestamp,
};
use gantry_protocol::{Digest, Header, Kind, Recipient, Signature, Statement};

use super::change::move_stack;
use super::states::check_lock;
use super::{Stack, StateVersion, read_stack_with_secrets};
use crate::clock::millis;
use crate::error::OperationError;
use crate::store::runs::run_with_state;
use crate::store::states::{current_state, insert_pushed, set_current_state};

/// For how long a state can be uploaded.
const UPLOAD_TTL: std::time::Duration = std::time::Duration::from_hours(1);
/// What sealing adds to the largest state, at most.
const SEALING: u64 = 1 << 20;

/// Where to put a sealed state.
#[derive(Debug, Clone)]
pub struct StateUpload {
    /// The push: stands in the place of a run in the statement.
    pub push: RunId,
    /// A pre-signed url. The PUT must carry `If-None-Match: *`.
    pub url: String,
    /// For how long it can be used, in milliseconds.
    pub valid_ms: u64,
}

/// A state that was sealed, signed and uploaded.
#[derive(Debug, Clone)]
pub struct PushedState {
    /// As [`Stacks::state_upload`] named it.
    pub push: RunId,
    /// The pool that it is sealed to and signed by, if the stack shall move there.
    pub pool: Option<PoolId>,
    /// Terraform's serial.
    pub serial: u64,
    /// Terraform's lineage.
    pub lineage: String,
    /// The age header, base64.
    pub header: String,
    /// Lower-case hex of the payload's SHA-256.
    pub payload_sha256: String,
    /// The payload's length in bytes.
    pub payload_size: u64,
    /// The payload hash of the version that it takes the place of.
    pub predecessor: Option<String>,
    /// The pool key's signature over its statement, base64.
    pub signature: String,
}

impl Stacks {
    /// A url for a state that a person brings in.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn state_upload(&self, stack: &StackId) -> Result<StateUpload, OperationError> {
        self.stack(stack).await?;
        let push = RunId::from_ulid(self.ids().ulid(self.now()));
        let url = self.objects.presign_put(&key_of(stack, push), UPLOAD_TTL).await?;
        Ok(StateUpload { push, url, valid_ms: millis(UPLOAD_TTL) })
    }

    /// Makes an uploaded state the stack's current one. Asked again, it changes nothing.
    ///
    /// # Errors
    /// When the state is not sealed to the stack's recipients and signed by its pool, does not follow the
    /// present one, a run works with that, or somebody else has locked the stack.
    pub async fn push_state(
        &self,
        actor: &str,
        stack: &StackId,
        pushed: PushedState,
    ) -> Result<StateVersion, OperationError> {
        let present = self.stack(stack).await?;
        if let Some(known) = self.pushed_before(stack, &pushed).await? {
            return Ok(known);
        }
        let pool = pushed.pool.unwrap_or(present.pool);
        let recipients = self.recipients_of_pool(pool).await?;
        self.check_pushed(&present, &pushed, (pool, &recipients)).await?;
        let mut unit = self.begin().await?;
        if self.recipients_of_pool(pool).await? != recipients {
            return Err(OperationError::Conflict(format!(
                "pool {pool} has got another key meanwhile: push the state again, with that one"
            )));
        }
        let (now, secrets) = read_stack_with_secrets(unit.conn(), stack).await?;
        if now.pool != present.pool {
            return Err(OperationError::Conflict(format!(
                "stack {stack} has got another pool meanwhile: push the state again"
            )));
        }
        if !now.manage_state {
            return Err(OperationError::Conflict(
                "the stack's state is in a backend of its own: push it there".to_owned(),
            ));
        }
        check_lock(&now, actor)?;
        if let Some(run) = run_with_state(unit.conn(), stack).await? {
            return Err(OperationError::Conflict(format!(
                "run {run} works with the present version: let it end, discard or cancel it, then push"
            )));
        }
        let moves_to = pushed.pool.filter(|pool| *pool != now.pool);
        let former = current_state(unit.conn(), stack).await?;
        check_place(former.as_ref(), &pushed, moves_to.is_some())?;
        let mut detail = format!("{} ({})", pushed.serial, pushed.push);
        if let Some(former) = former {
            detail = format!("{detail} in the place of {} ({})", former.serial, former.id);
        }
        if let Some(pool) = moves_to {
            move_stack(&mut unit, now, secrets, pool).await?;
            detail = format!("{detail}; moved to pool {pool}");
        }
        let version = version(stack, pushed, actor, unit.now());
        insert_pushed(unit.conn(), &version).await?;
        set_current_state(unit.conn(), stack, &version.id).await?;
        unit.audit(actor, "stack.state_push", &format!("stack {stack}"), &detail).await?;
        unit.commit().await?;
        Ok(version)
    }

    /// The version that this push made, if it was asked for before.
    async fn pushed_before(
        &self,
        stack: &StackId,
        pushed: &PushedState,
    ) -> Result<Option<StateVersion>, OperationError> {
        match self.state_version_named(stack, &pushed.push.to_string()).await {
            Ok(known) if known.payload_sha256 == pushed.payload_sha256 => Ok(Some(known)),
            Ok(_) => Err(invalid("another state was pushed under this id: push it again")),
            Err(OperationError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that can be told of a state without opening it. No transaction waits for that.
    async fn check_pushed(
        &self,
        stack: &Stack,
        pushed: &PushedState,
        (pool, recipients): (PoolId, &[String]),
    ) -> Result<(), OperationError> {
        let mut keys = Vec::new();
        for pem in recipients {
            let key = Recipient::parse(pem.as_bytes());
            keys.push(key.map_err(|error| OperationError::Conflict(error.to_string()))?);
        }
        let header: Header = pushed
            .header
            .parse()
            .map_err(|_| invalid("it is not sealed: its header is that of an age file, base64"))?;
        if !keys.iter().all(|key| header.names(key)) {
            return Err(invalid(
                "it is not sealed to the stack's pool and the recovery key: push it with `gantry state push`",
            ));
        }
        if !(1..=MAX_LINEAGE).contains(&pushed.lineage.len()) || pushed.serial > MAX_SERIAL {
            return Err(invalid("its lineage or serial is none that Terraform writes"));
        }
        if pushed.payload_size > MAX_STATE + SEALING {
            return Err(invalid("it is over 1 GiB, and no run could open it: split the stack"));
        }
        let (statement, signature) = statement(&stack.id, pushed)?;
        let is_signed = keys
            .first()
            .is_some_and(|pool| pool.key().verify_statement(&statement, &signature).is_ok());
        if !is_signed {
            return Err(invalid(format!(
                "pool {pool} did not sign it: give --key with that pool's private key"
            )));
        }
        let key = key_of(&stack.id, pushed.push);
        if self.objects.size(&key).await? != Some(pushed.payload_size) {
            return Err(invalid("no object of this length is stored: upload it first"));
        }
        Ok(())
    }
}

fn invalid(problem: impl Into<String>) -> OperationError {
    OperationError::invalid("state", problem)
}

fn key_of(stack: &StackId, push: RunId) -> String {
    format!("state/{stack}/0-{push}")
}

fn statement(
    stack: &StackId,
    pushed: &PushedState,
) -> Result<(Statement, Signature), OperationError> {
    let digest = |text: &str| -> Result<Digest, OperationError> {
        text.parse().map_err(|_| invalid("a hash of it is not 64 characters of 0-9 and a-f"))
    };
    let signature = pushed.signature.parse().map_err(|_| invalid("its signature is none"))?;
    let statement = Statement {
        kind: Kind::State,
        stack: stack.clone(),
        run: pushed.push,
        epoch: Epoch(0),
        serial: pushed.serial,
        predecessor: pushed.predecessor.as_deref().map(digest).transpose()?,
        payload_sha256: digest(&pushed.payload_sha256)?,
        payload_len: pushed.payload_size,
    };
    Ok((statement, signature))
}

/// Whether it follows the present version. One that is only sealed to another pool has the same serial.
fn check_place(
    former: Option<&StateVersion>,
    pushed: &PushedState,
    moves: bool,
) -> Result<(), OperationError> {
    if former.map(|it| &it.payload_sha256) != pushed.predecessor.as_ref() {
        return Err(OperationError::Conflict(
            "the stack's state has changed since: look at it with `gantry state list`, then push again"
                .to_owned(),
        ));
    }
    let Some(former) = former else { return Ok(()) };
    if former.lineage != pushed.lineage {
        return Err(OperationError::Conflict(format!(
            "the state has another lineage than the stack's ({}): it is of another stack, or begun anew",
            former.lineage
        )));
    }
    let heading = |serial| StateHeading { serial, lineage: pushed.lineage.clone() };
    let is_same = moves && former.serial == pushed.serial;
    if !is_same && !heading(pushed.serial).follows(&heading(former.serial)) {
        return Err(OperationError::Conflict(format!(
            "its serial is {}, and the stack's state has {}: pull that and change it, or raise the serial \
             above it if you mean to replace it",
            pushed.serial, former.serial
        )));
    }
    Ok(())
}

/// What it is from here on.
fn version(
    stack: &StackId,
    pushed: PushedState,
    actor: &str,
    created_at: Timestamp,
) -> StateVersion {
    StateVersion {
        id: pushed.push.to_string(),
        stack: stack.clone(),
        attempt: Attempt { run: pushed.push, stage: Stage::Write, epoch: Epoch(0) },
        serial: pushed.serial,
        lineage: pushed.lineage,
        header: pushed.header,
        payload_sha256: pushed.payload_sha256,
        payload_size: pushed.payload_size,
        predecessor: pushed.predecessor,
        signature: pushed.signature,
        key: key_of(stack, pushed.push),
        created_at,
        orphaned: None,
        pushed_by: Some(actor.to_owned()),
        is_current: true,
    }
}
