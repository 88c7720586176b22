//! Stored workspaces in the database.

use gantry_model::RunId;

use super::{Columns as _, Connection, StoreError};

/// A stored workspace, sealed and signed.
#[derive(Debug, Clone)]
pub(crate) struct WorkspaceRow {
    pub(crate) epoch: u64,
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) payload_sha256: String,
    pub(crate) payload_size: u64,
    pub(crate) signature: String,
}

/// The run's newest workspace.
pub(crate) async fn newest_workspace(
    conn: &mut Connection,
    run: RunId,
) -> Result<Option<WorkspaceRow>, StoreError> {
    let newest = "SELECT epoch, key, size, payload_sha256, payload_size, signature \
                  FROM workspaces WHERE run = $1 ORDER BY epoch DESC LIMIT 1";
    let row = sqlx::query(newest).bind(run.to_string()).fetch_optional(conn).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(WorkspaceRow {
        epoch: row.number("epoch")?,
        key: row.text("key")?,
        size: row.number("size")?,
        payload_sha256: row.text("payload_sha256")?,
        payload_size: row.number("payload_size")?,
        signature: row.text("signature")?,
    }))
}

/// Forgets the run's workspaces.
pub(crate) async fn delete_workspaces(conn: &mut Connection, run: RunId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM workspaces WHERE run = $1")
        .bind(run.to_string())
        .execute(conn)
        .await?;
    Ok(())
}
