//! Who changed what through the API.

use crate::control_plane::ControlPlane;
use crate::error::OperationError;
use crate::store::audit;

pub use crate::store::audit::AuditEntry;

/// The most entries of one page.
const MAX_PAGE: u32 = 500;

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
        Ok(audit::list_entries(&mut conn, before, limit.clamp(1, MAX_PAGE)).await?)
    }
}
