//! Who changed what through the API.

use gantry_model::Timestamp;
use sqlx::Row as _;

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::at;

/// The most entries of one page.
const MAX_PAGE: u32 = 500;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its id; later ones are greater.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub actor: String,
    /// What was done, such as `run.confirm`.
    pub act: String,
    /// To what.
    pub subject: String,
    /// More about it.
    pub detail: String,
}

impl ControlPlane {
    /// What was changed, newest first; only what is older than `before`, if that is given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_log(
        &self,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, OperationError> {
        let mut conn = self.store().read().await?;
        let select = "SELECT * FROM audit WHERE id < COALESCE($1, '~') ORDER BY id DESC LIMIT $2";
        let rows = sqlx::query(select)
            .bind(before)
            .bind(i64::from(limit.clamp(1, MAX_PAGE)))
            .fetch_all(&mut *conn)
            .await?;
        let entry = |row: &crate::store::Row| AuditEntry {
            id: row.get("id"),
            at: at(row.get("at")),
            actor: row.get("actor"),
            act: row.get("act"),
            subject: row.get("subject"),
            detail: row.get("detail"),
        };
        Ok(rows.iter().map(entry).collect())
    }
}
