//! Runs of one stack, and of all of them.

use crate::runs::Runs;
use gantry_model::StackId;

use super::{Run, RunsPage, present};
use crate::error::OperationError;
use crate::store::runs::list_runs;

/// The most runs of one page.
const MAX_PAGE: u32 = 100;

impl Runs {
    /// Runs of a stack, newest first.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn runs_of(
        &self,
        stack: &StackId,
        page: RunsPage,
    ) -> Result<Vec<Run>, OperationError> {
        self.stacks.stack(stack).await?;
        self.list_runs(Some(stack), "", page).await
    }

    /// Runs of all stacks, newest first; only those whose id begins with `prefix`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn runs(&self, prefix: &str, page: RunsPage) -> Result<Vec<Run>, OperationError> {
        self.list_runs(None, prefix, page).await
    }

    async fn list_runs(
        &self,
        stack: Option<&StackId>,
        prefix: &str,
        page: RunsPage,
    ) -> Result<Vec<Run>, OperationError> {
        let mut conn = self.store().read().await?;
        let page = RunsPage { limit: page.limit.clamp(1, MAX_PAGE), ..page };
        let runs = list_runs(&mut conn, stack, prefix, page).await?;
        Ok(runs.into_iter().map(|(row, source)| present(row, source)).collect())
    }
}
