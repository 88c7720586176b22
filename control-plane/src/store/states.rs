//! Versions of stacks' states in the database, sealed and signed as they are.

use gantry_model::{Attempt, Epoch, StackId, Timestamp};

use super::{Columns as _, Connection, Row, StoreError, stage, to_db};

/// A stored version of a stack's Terraform state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateVersion {
    /// Its id.
    pub id: String,
    /// The stack.
    pub stack: StackId,
    /// The attempt that wrote it. Of one that a person pushed: the push, in epoch 0.
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
    /// Who pushed it, if it is no run's.
    pub pushed_by: Option<String>,
    /// Whether the next run begins with it.
    pub is_current: bool,
}

fn state_version(row: &Row) -> Result<StateVersion, StoreError> {
    let id = row.text("id")?;
    Ok(StateVersion {
        is_current: row.maybe_text("state_current")?.as_ref() == Some(&id),
        id,
        stack: row.parsed("stack")?,
        attempt: Attempt {
            run: row.parsed("run")?,
            stage: stage(&row.text("stage")?)?,
            epoch: Epoch(row.number("epoch")?),
        },
        serial: row.number("serial")?,
        lineage: row.text("lineage")?,
        header: row.text("header")?,
        payload_sha256: row.text("payload_sha256")?,
        payload_size: row.number("payload_size")?,
        predecessor: row.maybe_text("predecessor")?,
        signature: row.text("signature")?,
        key: row.text("key")?,
        created_at: row.instant("created_at")?,
        orphaned: row.maybe_text("orphaned")?,
        pushed_by: row.maybe_text("pushed_by")?,
    })
}

/// The stack's versions, newest first, orphaned ones included.
pub(crate) async fn list_states(
    conn: &mut Connection,
    stack: &StackId,
    limit: i64,
) -> Result<Vec<StateVersion>, StoreError> {
    let select = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                  WHERE v.stack = $1 ORDER BY v.id DESC LIMIT $2";
    let rows = sqlx::query(select).bind(stack.as_str()).bind(limit).fetch_all(conn).await?;
    rows.iter().map(state_version).collect()
}

/// The version that the stack's next run begins with.
pub(crate) async fn current_state(
    conn: &mut Connection,
    stack: &StackId,
) -> Result<Option<StateVersion>, StoreError> {
    let current = "SELECT v.*, s.state_current FROM stacks s JOIN states v \
                   ON v.id = s.state_current WHERE s.id = $1";
    let row = sqlx::query(current).bind(stack.as_str()).fetch_optional(conn).await?;
    row.as_ref().map(state_version).transpose()
}

/// The newest version with this serial that is not orphaned.
pub(crate) async fn state_with_serial(
    conn: &mut Connection,
    stack: &StackId,
    serial: u64,
) -> Result<Option<StateVersion>, StoreError> {
    let numbered = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                    WHERE v.stack = $1 AND v.serial = $2 AND v.orphaned IS NULL \
                    ORDER BY v.id DESC LIMIT 1";
    let query = sqlx::query(numbered).bind(stack.as_str()).bind(to_db(serial));
    query.fetch_optional(conn).await?.as_ref().map(state_version).transpose()
}

/// The stack's version with this id, orphaned or not.
pub(crate) async fn find_state(
    conn: &mut Connection,
    stack: &StackId,
    id: &str,
) -> Result<Option<StateVersion>, StoreError> {
    let select = "SELECT v.*, s.state_current FROM states v JOIN stacks s ON s.id = v.stack \
                  WHERE v.stack = $1 AND v.id = $2";
    let row = sqlx::query(select).bind(stack.as_str()).bind(id).fetch_optional(conn).await?;
    row.as_ref().map(state_version).transpose()
}

/// Makes a version the stack's current one, orphaned before or not.
pub(crate) async fn set_current_state(
    conn: &mut Connection,
    stack: &StackId,
    id: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE states SET orphaned = NULL WHERE id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE stacks SET state_current = $2 WHERE id = $1")
        .bind(stack.as_str())
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps a version that a person pushed.
pub(crate) async fn insert_pushed(
    conn: &mut Connection,
    version: &StateVersion,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO states (id, stack, run, epoch, stage, serial, lineage, header, \
        payload_sha256, payload_size, predecessor, signature, key, created_at, pushed_by) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    sqlx::query(insert)
        .bind(&version.id)
        .bind(version.stack.as_str())
        .bind(version.attempt.run.to_string())
        .bind(to_db(version.attempt.epoch.0))
        .bind(version.attempt.stage.as_str())
        .bind(to_db(version.serial))
        .bind(&version.lineage)
        .bind(&version.header)
        .bind(&version.payload_sha256)
        .bind(to_db(version.payload_size))
        .bind(version.predecessor.as_deref())
        .bind(&version.signature)
        .bind(&version.key)
        .bind(to_db(version.created_at.0))
        .bind(version.pushed_by.as_deref())
        .execute(conn)
        .await?;
    Ok(())
}
