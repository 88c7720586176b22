//! The versions of a stack's Terraform state, sealed and signed.

use gantry_model::{Attempt, Epoch, StackId, Stage, Timestamp};
use sqlx::Row as _;

use super::{Stack, read_stack_with_secrets};
use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::{Connection, Row, SERVER, StoreError, at, from_db, id, stage, to_db};

/// The most state versions of one list.
const MAX_STATES: i64 = 1000;

/// A stored version of a stack's Terraform state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVersion {
    /// Its id.
    pub id: String,
    /// The stack.
    pub stack: StackId,
    /// The attempt that wrote it.
    pub attempt: Attempt,
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
    /// The payload hash of the version before.
    pub predecessor: Option<String>,
    /// The pool key's signature over its statement, base64.
    pub signature: String,
    /// The object that holds the payload.
    pub key: String,
    /// When it was reported.
    pub created_at: Timestamp,
    /// Why it is not part of the stack's history, if it is not.
    pub orphaned: Option<String>,
    /// Whether the next run begins with it.
    pub is_current: bool,
}

impl ControlPlane {
    /// The stack's state versions, newest first, orphaned ones included, at most 1000.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn states_of(&self, stack: &StackId) -> Result<Vec<StateVersion>, OperationError> {
        self.stack(stack).await?;
        let mut conn = self.store().read().await?;
        let select = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                      WHERE v.stack = $1 ORDER BY v.id DESC LIMIT $2";
        let rows =
            sqlx::query(select).bind(stack.as_str()).bind(MAX_STATES).fetch_all(&mut *conn).await?;
        rows.iter().map(|row| Ok(read_state_version(row)?)).collect()
    }

    /// The state version with this serial that is not orphaned; the current one if none is named.
    ///
    /// # Errors
    /// When there is none.
    pub async fn state_version(
        &self,
        stack: &StackId,
        serial: Option<u64>,
    ) -> Result<StateVersion, OperationError> {
        self.stack(stack).await?;
        let mut conn = self.store().read().await?;
        let found = self.read_state(&mut conn, stack, serial).await?;
        let wanted = || serial.map_or_else(|| "current".to_owned(), |serial| serial.to_string());
        found.ok_or_else(|| OperationError::not_found("state version", wanted()))
    }

    /// The state version with this id, orphaned or not.
    ///
    /// # Errors
    /// When the stack has none.
    pub async fn state_version_named(
        &self,
        stack: &StackId,
        version: &str,
    ) -> Result<StateVersion, OperationError> {
        self.stack(stack).await?;
        named(&mut *self.store().read().await?, stack, version).await
    }

    /// Makes an older or an orphaned version the one that the next run begins with.
    ///
    /// # Errors
    /// When somebody else has locked the stack, there is no such version, a read stage wrote it, or a run is under way that begins or began
    /// with the present one.
    pub async fn roll_state_back(
        &self,
        actor: &str,
        stack: &StackId,
        version: &str,
    ) -> Result<StateVersion, OperationError> {
        let mut unit = self.begin().await?;
        let (present, _) = read_stack_with_secrets(unit.conn(), stack).await?;
        if !present.manage_state {
            return Err(OperationError::Conflict(
                "the stack's state is in a backend of its own: go back to an older version there"
                    .to_owned(),
            ));
        }
        check_lock(&present, actor)?;
        let wanted = named(unit.conn(), stack, version).await?;
        if wanted.is_current {
            return Ok(wanted);
        }
        if wanted.attempt.stage == Stage::Read {
            return Err(OperationError::Conflict(
                "a read stage wrote this version, and may not: choose another one".to_owned(),
            ));
        }
        if let Some(run) = run_with_state(unit.conn(), stack).await? {
            return Err(OperationError::Conflict(format!(
                "run {run} works with the present version: let it end, discard or cancel it, then go back"
            )));
        }
        let former = self.read_state(unit.conn(), stack, None).await?;
        let (serial, orphaned) = (wanted.serial, wanted.orphaned.as_deref());
        let place = |version: StateVersion| format!("{} ({})", version.serial, version.id);
        let mut detail = format!(
            "{serial} ({version}) in the place of {}",
            former.map_or_else(|| "none".to_owned(), place)
        );
        if let Some(why) = orphaned {
            detail = format!("{detail}; it was orphaned: {why}");
        }
        sqlx::query("UPDATE states SET orphaned = NULL WHERE id = $1")
            .bind(version)
            .execute(unit.conn())
            .await?;
        sqlx::query("UPDATE stacks SET state_current = $2 WHERE id = $1")
            .bind(stack.as_str())
            .bind(version)
            .execute(unit.conn())
            .await?;
        unit.audit(actor, "stack.state_rollback", &format!("stack {stack}"), &detail).await?;
        unit.commit().await?;
        self.state_version_named(stack, version).await
    }

    pub(crate) async fn read_state(
        &self,
        conn: &mut Connection,
        stack: &StackId,
        serial: Option<u64>,
    ) -> Result<Option<StateVersion>, OperationError> {
        let current = "SELECT v.*, s.state_current FROM stacks s JOIN states v \
                       ON v.id = s.state_current WHERE s.id = $1";
        let numbered = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                        WHERE v.stack = $1 AND v.serial = $2 AND v.orphaned IS NULL \
                        ORDER BY v.id DESC LIMIT 1";
        let query = match serial {
            None => sqlx::query(current).bind(stack.as_str()),
            Some(serial) => sqlx::query(numbered).bind(stack.as_str()).bind(to_db(serial)),
        };
        let row = query.fetch_optional(conn).await?;
        Ok(row.as_ref().map(read_state_version).transpose()?)
    }
}

/// That nobody else holds the stack. The server's own lock asks for a person, who may be mending the state.
fn check_lock(stack: &Stack, actor: &str) -> Result<(), OperationError> {
    match &stack.lock {
        Some(lock) if lock.by != actor && lock.by != SERVER => {
            Err(OperationError::Conflict(format!(
                "{} has locked stack {id}: `gantry stack unlock {id}` lifts that",
                lock.by,
                id = stack.id
            )))
        }
        _ => Ok(()),
    }
}

async fn named(
    conn: &mut Connection,
    stack: &StackId,
    version: &str,
) -> Result<StateVersion, OperationError> {
    let select = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                  WHERE v.stack = $1 AND v.id = $2";
    let row = sqlx::query(select).bind(stack.as_str()).bind(version).fetch_optional(conn).await?;
    let row = row.ok_or_else(|| OperationError::not_found("state version", version))?;
    Ok(read_state_version(&row)?)
}

/// A run that was planned with the present state, or is about to begin with it. One that only waits its
/// turn, or can write none, is no matter.
async fn run_with_state(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<Option<String>, OperationError> {
    let select = "SELECT id FROM runs WHERE stack = $1 AND type <> 'PROPOSED' AND state NOT IN \
                  ('QUEUED', 'FINISHED', 'FAILED', 'STOPPED', 'CANCELED', 'DISCARDED', 'SKIPPED') LIMIT 1";
    let row = sqlx::query(select).bind(stack.as_str()).fetch_optional(conn).await?;
    Ok(row.map(|row| row.get("id")))
}

fn read_state_version(row: &Row) -> Result<StateVersion, StoreError> {
    let version: String = row.get("id");
    let is_current = row.get::<Option<&str>, _>("state_current") == Some(&version);
    Ok(StateVersion {
        id: version,
        stack: id("stack", row.get("stack"))?,
        attempt: Attempt {
            run: id("run", row.get("run"))?,
            stage: stage(row.get("stage"))?,
            epoch: Epoch(from_db(row.get("epoch"))),
        },
        serial: from_db(row.get("serial")),
        lineage: row.get("lineage"),
        header: row.get("header"),
        payload_sha256: row.get("payload_sha256"),
        payload_size: from_db(row.get("payload_size")),
        predecessor: row.get("predecessor"),
        signature: row.get("signature"),
        key: row.get("key"),
        created_at: at(row.get("created_at")),
        orphaned: row.get("orphaned"),
        is_current,
    })
}
