//! Who changed what through the API.

use std::ops::Deref;

use crate::core::Core;
use crate::error::OperationError;
use crate::store::audit;

pub use crate::store::audit::AuditEntry;

/// The most entries of one page.
const MAX_PAGE: u32 = 500;

/// Who changed what. Clones are the same.
#[derive(Clone)]
pub struct AuditLog {
    core: Core,
}

impl Deref for AuditLog {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl AuditLog {
    pub(crate) fn new(core: Core) -> Self {
        Self { core }
    }

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
